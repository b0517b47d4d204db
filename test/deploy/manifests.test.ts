import assert from 'node:assert/strict';
import { cp, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { parseDocument } from 'yaml';
import { renderedManifests, renderManifest } from '../../scripts/render-manifests.ts';
import { kustomize, kustomizeObstacle } from '../support/kubectl.ts';
import { type Manifest, parseManifests, readManifests, schemaProblems } from '../support/kubernetes.ts';
import { temporaryDirectory, writeFiles } from '../support/programs.ts';

const root = join(import.meta.dirname, '../..');
const byName = (manifests: readonly Manifest[]): ReadonlyMap<string, Manifest> =>
  new Map(manifests.map((manifest) => [`${manifest.kind} ${manifest.metadata.name}`, manifest]));

describe('the manifests in deploy/', () => {
  let files: readonly string[] = [];
  let obstacle: string | undefined;
  before(async () => {
    const names = await readdir(join(root, 'deploy'));
    files = names.filter((name) => name.endsWith('.yaml')).map((name) => `deploy/${name}`);
    obstacle = await kustomizeObstacle();
  });

  test('are what the schemas of Kubernetes and of the Prometheus operator describe', async () => {
    assert.ok(files.length >= 6, 'they were found');
    assert.deepEqual(await schemaProblems(files.flatMap(readManifests)), []);
  });

  for (const [what, path, value, says] of [
    ['a field that is none', ['spec', 'template', 'spec', 'hostUser'], false, /hostUser.*does not exist/],
    [
      'a field in the wrong place',
      ['spec', 'template', 'spec', 'securityContext', 'readOnlyRootFilesystem'],
      true,
      /readOnlyRootFilesystem.*does not exist/,
    ],
    [
      'a text for a number',
      ['spec', 'template', 'spec', 'containers', 0, 'ports', 0, 'containerPort'],
      '9456',
      /containerPort must be integer/,
    ],
    ['no selector', ['spec', 'selector'], undefined, /selector/],
  ] as const)
    test(`would be found out with ${what}`, async () => {
      const text = await readFile(join(root, 'deploy/kustomize/warmer/daemon-set.yaml'), 'utf8');
      const document = parseDocument(text);
      if (value === undefined) document.deleteIn(path);
      else document.setIn(path, value);
      const problems = await schemaProblems(parseManifests(document.toString()));
      assert.ok(
        problems.some((problem) => says.test(problem)),
        problems.join('\n'),
      );
    });

  test('mean the same to parsers of YAML 1.1 and 1.2', () => {
    for (const text of ['mode: 0400', 'switch: on', 'time: 12:30:00', 'a: 1\na: 2'])
      assert.throws(() => parseManifests(text), text);
  });

  test('are rendered from the kustomizations, comments and all', async () => {
    for (const [file, kustomization] of Object.entries(renderedManifests)) {
      assert.ok(files.includes(file));
      const rendered = await renderManifest(kustomization);
      assert.equal(await readFile(join(root, file), 'utf8'), rendered, `npm run manifests, for ${file}`);
    }
  });

  test('are what kustomize makes of the kustomizations', async (context) => {
    if (obstacle !== undefined) return context.skip(obstacle);
    for (const [file, kustomization] of Object.entries(renderedManifests))
      assert.deepEqual(byName(readManifests(file)), byName(await kustomize(join(root, kustomization))), file);
  });

  test("can be used from a kustomization of one's own, as the README shows", async (context) => {
    if (obstacle !== undefined) return context.skip(obstacle);
    const readme = await readFile(join(root, 'deploy/README.md'), 'utf8');
    const example = /```yaml\n(# kustomization\.yaml\n.*?)```/s.exec(readme)?.[1];
    assert.ok(example !== undefined);
    await using scratch = await temporaryDirectory();
    await cp(join(root, 'deploy/kustomize'), join(scratch.path, 'kiln/deploy/kustomize'), {
      recursive: true,
    });
    const own = join(scratch.path, 'own');
    await writeFiles(own, { 'kustomization.yaml': example, 'warmer.yaml': 'images: [alpine:3]\n' });
    const manifests = byName(await kustomize(own));
    assert.deepEqual((manifests.get('ConfigMap kiln-warmer') as unknown as { data: unknown }).data, {
      'warmer.yaml': 'images: [alpine:3]\n',
    });
    const daemonSet = JSON.stringify(manifests.get('DaemonSet kiln-warmer'));
    assert.match(daemonSet, /"image":"registry\.internal\/tools\/kiln-warmer:0\.1\.0"/);
    assert.ok(manifests.has('PodMonitor kiln-warmer'));
  });
});
