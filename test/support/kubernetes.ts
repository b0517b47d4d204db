import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { parseAllDocuments } from 'yaml';

const root = join(import.meta.dirname, '../..');

/** A manifest as Kubernetes' API takes it. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
  };
}

/** The manifests of a YAML file. @param file below the project's root. @throws Error for a file that is no sound YAML. */
export function readManifests(file: string): Manifest[] {
  return parseManifests(readFileSync(join(root, file), 'utf8'));
}

/** The manifests of a text in YAML. */
export function parseManifests(text: string): Manifest[] {
  // Kubernetes' own parser is one of YAML 1.1, for which 0400, yes and 1:20 are something else.
  const [old, current] = (['1.1', '1.2'] as const).map((version) =>
    parseAllDocuments(text, { version, uniqueKeys: true, merge: false }).map((document) => {
      const [problem] = [...document.errors, ...document.warnings];
      if (problem !== undefined) throw problem;
      return document.toJS() as Manifest;
    }),
  );
  if (JSON.stringify(old) !== JSON.stringify(current))
    throw new Error('YAML 1.1 and 1.2 read the text differently; quote it');
  return current ?? [];
}

const packagesOfGroups: Readonly<Record<string, string>> = {
  'monitoring.coreos.com': '@kubernetes-models/prometheus-operator',
  'argoproj.io': '@kubernetes-models/argo-workflows',
};

/** The module of the npm packages `kubernetes-models` that describes an API group and version. */
function moduleOf(apiVersion: string): string {
  const group = apiVersion.slice(0, apiVersion.indexOf('/'));
  return `${packagesOfGroups[group] ?? 'kubernetes-models'}/${apiVersion}`;
}

/**
 * What Kubernetes' schemas say against manifests: fields that do not exist, and values of the wrong type, by TypeScript's
 * types of the API; and formats and missing fields, by its JSON schemas (which let fields pass that do not exist).
 */
export async function schemaProblems(manifests: readonly Manifest[]): Promise<string[]> {
  const bySchema = await Promise.all(manifests.map(jsonSchemaProblems));
  return [...typeProblems(manifests), ...bySchema.flat()];
}

async function jsonSchemaProblems(manifest: Manifest): Promise<string[]> {
  const models = (await import(moduleOf(manifest.apiVersion))) as Record<
    string,
    (new (data: object) => { validate(): void }) | undefined
  >;
  const Model = models[manifest.kind];
  if (Model === undefined) return [`${manifest.apiVersion} has no ${manifest.kind}`];
  try {
    new Model(manifest).validate();
    return [];
  } catch (error) {
    return [`${manifest.kind} ${manifest.metadata.name}: ${String(error)}`];
  }
}

/** Writes each manifest as a literal of its type, which may have no field that the type has not, and compiles that. */
function typeProblems(manifests: readonly Manifest[]): string[] {
  const file = join(root, 'test/support/manifests.virtual.ts');
  const source = manifests
    .map(({ apiVersion, kind, ...rest }, index) => {
      const type = `import('${moduleOf(apiVersion)}').I${kind}`;
      return `export const manifest${index}: ${type} = ${JSON.stringify({ apiVersion, kind, ...rest })};`;
    })
    .join('\n');
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: [],
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
  };
  const host = ts.createCompilerHost(options);
  const onDisk = host.getSourceFile.bind(host);
  host.getSourceFile = (name, version) =>
    name === file ? ts.createSourceFile(name, source, version, true) : onDisk(name, version);
  const program = ts.createProgram([file], options, host);
  const diagnostics = [...program.getSyntacticDiagnostics(), ...program.getSemanticDiagnostics()];
  return diagnostics.map(({ start, messageText }) => {
    const line = source.slice(0, start).split('\n').length - 1;
    const { kind, metadata } = manifests[line] as Manifest;
    return `${kind} ${metadata.name}: ${ts.flattenDiagnosticMessageText(messageText, ' ')}`;
  });
}
