import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import packageJson from '../../package.json' with { type: 'json' };
import { openLayerCache } from '../../src/layercache/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { storeChain } from '../support/cache-chains.ts';
import { argument, deployed, manifest } from '../support/deployed.ts';
import { podSecurityViolations } from '../support/pod-security.ts';
import { kiln } from '../support/programs.ts';
import { startRegistry } from '../support/registry.ts';

const file = 'prune-cache.yaml';
const { workload, pod, container } = deployed(file);

describe('the CronJob that prunes a cache', () => {
  test('is admitted by the strictest level of Pod Security, and has nothing of its host or the cluster', () => {
    assert.deepEqual(podSecurityViolations(pod, 'restricted'), []);
    assert.equal(pod.automountServiceAccountToken, false);
    assert.equal(pod.enableServiceLinks, false);
    assert.deepEqual(
      pod.volumes.map(({ name }) => name),
      container.volumeMounts.map(({ name }) => name),
    );
    assert.ok(container.volumeMounts.every(({ readOnly }) => readOnly === true));
    assert.equal(container.image, `registry.example/kiln/warmer:${packageJson.version}`);
  });

  test('has the credentials of builds, where the program looks for them, and never runs twice at once', () => {
    const { credentials } = { credentials: pod.volumes.find(({ name }) => name === 'credentials') };
    assert.equal(credentials?.secret?.secretName, 'kiln-registry-credentials');
    assert.equal(workload.metadata.namespace, deployed('build-job.yaml').workload.metadata.namespace);
    const directory = container.env?.find(({ name }) => name === 'DOCKER_CONFIG')?.value;
    assert.equal(container.volumeMounts[0]?.mountPath, directory);
    assert.equal(manifest<{ concurrencyPolicy: string }>(file, 'CronJob').spec.concurrencyPolicy, 'Forbid');
  });

  test('prunes the cache of the build that is deployed, and the warmer understands every flag', async () => {
    const destination = argument(deployed('build-job.yaml').container, 'destination')?.replace(
      /:[^:/]*$/,
      '',
    );
    const repository = argument(container, 'cache-repo');
    assert.equal(repository, `${destination ?? ''}/cache`);
    await using registry = await startRegistry();
    await using client = new RegistryClient();
    const cache = `${registry.host}/hello/cache`;
    const layers = openLayerCache(cache, client, 'test');
    for (const version of ['1', '2', '3', '4'])
      await storeChain(layers, {
        line: 'hello',
        steps: [{ run: version, hoursAgo: 1000 - Number(version) }],
      });
    const args = (container.args ?? []).map((arg) => arg.replace(repository, cache));
    const { code, stdout, stderr } = await kiln('warmer', args);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /Removed 1 of 4 entries/);
  });
});
