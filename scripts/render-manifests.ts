import { readFile, stat, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { Document, isMap, parseAllDocuments, parseDocument } from 'yaml';

/**
 * npm run manifests: renders the kustomizations of deploy/ into plain manifests that keep their comments. It knows what
 * those kustomizations use and refuses everything else; a test compares it with `kubectl kustomize`.
 */

const root = join(import.meta.dirname, '..');

/** Plain manifests, and the kustomization that each is rendered from. */
export const renderedManifests: Readonly<Record<string, string>> = {
  'deploy/warmer-hostpath.yaml': 'deploy/kustomize/warmer',
  'deploy/warmer-local-pv.yaml': 'deploy/kustomize/warmer-local-pv',
  'deploy/prometheus-operator.yaml': 'deploy/kustomize/prometheus-operator',
};

interface Kustomization {
  readonly resources?: readonly string[];
  readonly configMapGenerator?: readonly ConfigMapFields[];
  readonly generatorOptions?: {
    readonly disableNameSuffixHash: true;
    readonly labels?: Readonly<Record<string, string>>;
  };
  readonly patches?: readonly PatchFields[];
}

interface ConfigMapFields {
  readonly name: string;
  readonly namespace: string;
  readonly files: readonly string[];
}

interface PatchFields {
  readonly target: { readonly kind: string; readonly name: string };
  /** A JSON patch (RFC 6902), as YAML. */
  readonly patch: string;
}

interface Operation {
  readonly op: 'add' | 'replace' | 'remove' | 'test';
  readonly path: string;
  readonly value?: unknown;
}

const knownFields = ['apiVersion', 'kind', 'resources', 'configMapGenerator', 'generatorOptions', 'patches'];

/** The text of a plain manifest. @param kustomization its directory, below the project's root. */
export async function renderManifest(kustomization: string): Promise<string> {
  const documents = await resolveKustomization(join(root, kustomization));
  const head = `# Rendered from ${kustomization} by npm run manifests. Change it there.\n`;
  return head + documents.map((document) => `---\n${text(document)}`).join('');
}

/** Everything that the kustomization in a directory stands for. */
async function resolveKustomization(directory: string): Promise<Document[]> {
  const file = join(directory, 'kustomization.yaml');
  const fields = parseDocument(await readFile(file, 'utf8')).toJS() as Kustomization;
  for (const name of Object.keys(fields))
    if (!knownFields.includes(name)) throw new Error(`${file}: ${name} is not known to this renderer`);
  const documents: Document[] = [];
  for (const name of fields.resources ?? []) {
    const path = join(directory, name);
    if ((await stat(path)).isDirectory()) documents.push(...(await resolveKustomization(path)));
    else documents.push(...parseAllDocuments(await readFile(path, 'utf8')).flat());
  }
  for (const generated of fields.configMapGenerator ?? [])
    documents.push(await configMap(directory, generated, fields.generatorOptions));
  for (const patch of fields.patches ?? []) applyPatch(documents, patch, file);
  return documents;
}

async function configMap(
  directory: string,
  { name, namespace, files }: ConfigMapFields,
  options: Kustomization['generatorOptions'],
): Promise<Document> {
  if (options?.disableNameSuffixHash !== true)
    throw new Error(`${directory}: the ConfigMap ${name} would have a hash in its name`);
  const contents = await Promise.all(files.map((file) => readFile(join(directory, file), 'utf8')));
  const data = Object.fromEntries(files.map((file, index) => [file, contents[index]]));
  const metadata = { name, namespace, ...(options.labels === undefined ? {} : { labels: options.labels }) };
  return new Document({ apiVersion: 'v1', kind: 'ConfigMap', metadata, data });
}

function applyPatch(documents: readonly Document[], { target, patch }: PatchFields, file: string): void {
  const targets = documents.filter(
    (document) =>
      document.get('kind') === target.kind && document.getIn(['metadata', 'name']) === target.name,
  );
  if (targets.length === 0) throw new Error(`${file}: there is no ${target.kind} ${target.name} to patch`);
  const operations = parseDocument(patch).toJS() as readonly Operation[];
  for (const document of targets) for (const operation of operations) applyOperation(document, operation);
}

function applyOperation(document: Document, { op, path, value }: Operation): void {
  const keys = path
    .split('/')
    .slice(1)
    .map((key) => key.replaceAll('~1', '/').replaceAll('~0', '~'));
  const exists = document.hasIn(keys);
  if (op !== 'add' && !exists) throw new Error(`a patch names ${path}, which is not there`);
  switch (op) {
    case 'test':
      if (document.getIn(keys) !== value) throw new Error(`a patch expects something else at ${path}`);
      return;
    case 'remove':
      document.deleteIn(keys);
      return;
    case 'add':
      if (exists || !isMap(document.getIn(keys.slice(0, -1))))
        throw new Error(`a patch adds ${path}, which this renderer only does to fields that are new`);
      document.setIn(keys, document.createNode(value));
      return;
    case 'replace':
      document.setIn(keys, document.createNode(value));
  }
}

function text(document: Document): string {
  return document.toString({ lineWidth: 0, flowCollectionPadding: false });
}

if (import.meta.main)
  for (const [file, kustomization] of Object.entries(renderedManifests)) {
    await writeFile(join(root, file), await renderManifest(kustomization));
    console.log(relative(process.cwd(), join(root, file)));
  }
