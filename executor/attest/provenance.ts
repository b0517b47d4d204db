import { digestHex, formatPlatform, formatReference, type Reference } from '../../src/oci/index.ts';
import { hideCredentials, version } from '../../src/support/index.ts';
import type { BaseImage } from '../bases.ts';
import type { BuiltImage } from '../image.ts';
import type { PlannedBase, PlannedStage, PlannedStep } from '../plan.ts';
import type { StackedLayer } from '../stack.ts';
import { hideInText, hideSecrets } from './redaction.ts';

/** The build that a provenance is about. */
export interface ProvenanceFacts {
  readonly image: BuiltImage;
  /** The layers of the image, lowest first, as the build came by them. */
  readonly layers: readonly StackedLayer[];
  /** All that were needed. */
  readonly stages: readonly PlannedStage[];
  readonly dockerfile: { readonly path: string; readonly digest: string };
  readonly target: string | undefined;
  readonly buildArguments: ReadonlyMap<string, string>;
  readonly sourceDate: number | undefined;
  readonly started: Date;
  readonly finished: Date;
  readonly invocation: string;
}

export interface ProvenanceOptions {
  /** `max` has the build arguments too. */
  readonly mode: 'min' | 'max';
  readonly builderID: string;
}

/** What the fields below mean is in docs/attestations.md. */
const buildType = 'urn:kiln:dockerfile-build:v1';

/**
 * A predicate of the type `https://slsa.dev/provenance/v1`. No secret is in it: of build arguments, those that look like one
 * are named only, and instructions stand as they are written, without the values of variables.
 */
export function provenance(facts: ProvenanceFacts, { mode, builderID }: ProvenanceOptions): object {
  const { dockerfile, target, image, sourceDate } = facts;
  const { shown, hidden } = hideSecrets(facts.buildArguments);
  const date = sourceDate === undefined ? undefined : new Date(sourceDate * 1000);
  const { platform } = image.descriptor;
  return {
    buildDefinition: {
      buildType,
      externalParameters: {
        configSource: {
          path: dockerfile.path,
          digest: { sha256: dockerfile.digest.replace('sha256:', '') },
        },
        request: {
          ...(target === undefined ? {} : { target }),
          ...(platform === undefined ? {} : { platform: formatPlatform(platform) }),
          ...(sourceDate === undefined ? {} : { sourceDateEpoch: sourceDate }),
          ...(mode === 'max' ? { buildArguments: shown } : {}),
          ...(mode === 'max' && hidden.length > 0 ? { hiddenBuildArguments: hidden } : {}),
        },
      },
      internalParameters: {},
      resolvedDependencies: dependencies(facts.stages),
    },
    runDetails: {
      builder: { id: builderID, version: { kiln: version } },
      metadata: {
        invocationId: facts.invocation,
        startedOn: (date ?? facts.started).toISOString(),
        finishedOn: (date ?? facts.finished).toISOString(),
        kiln_layers: image.layers.map((placed, index) => ({
          digest: placed.layer.digest,
          diffID: placed.layer.diffID,
          size: placed.layer.size,
          ...origin(facts.layers[index], placed.base, date),
        })),
      },
    },
  };
}

/** Where a layer is from: a base, or a step, made by this build or found in a cache. */
function origin(
  stacked: StackedLayer | undefined,
  base: BaseImage | undefined,
  date: Date | undefined,
): object {
  if (base !== undefined)
    return { from: 'base', base: { reference: formatReference(base.reference), digest: base.digest } };
  const { lineage, created } = stacked ?? {};
  if (lineage === undefined) return { from: 'step' };
  const { step, stage, hit } = lineage;
  const made = {
    from: 'step',
    stage,
    step: step.id,
    instruction: hideInText(step.written),
    ...(step.key === undefined ? {} : { key: step.key }),
  };
  if (hit === undefined)
    return {
      ...made,
      cacheHit: false,
      // With a source date another build of the same gives the same provenance.
      created: (date ?? created)?.toISOString(),
      creator: `kiln/${version}`,
    };
  const { entry, place, signedBy } = hit;
  return {
    ...made,
    cacheHit: true,
    cache: place.location.startsWith('oci:') ? 'oci' : place.location,
    created: entry.created.toISOString(),
    creator: entry.creator,
    ...(signedBy === undefined ? {} : { signedBy }),
  };
}

/** Images that stages start or copy from, and files and repositories that ADD took, each once. */
function dependencies(stages: readonly PlannedStage[]): object[] {
  const found = new Map<string, object>();
  const addImage = (base: PlannedBase | undefined): void => {
    if (base?.kind !== 'image') return;
    const { reference, digest } = base.image;
    const uri = purlOf(reference);
    found.set(`${uri} ${digest}`, { uri, digest: { sha256: digestHex(digest) } });
  };
  for (const { base, steps } of stages) {
    addImage(base);
    for (const step of steps) {
      addImage(step.source);
      for (const dependency of remotes(step)) found.set(JSON.stringify(dependency), dependency);
    }
  }
  return [...found.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, dependency]) => dependency);
}

function remotes({ operation, remotes: resolved }: PlannedStep): object[] {
  if (operation.kind !== 'copy') return [];
  return resolved.flatMap(({ identity }, at) => {
    const source = operation.remotes[at]?.source;
    if (source === undefined) return [];
    const uri = hideCredentials(source.kind === 'http' ? withoutQuery(source.url) : source.remote);
    const digest =
      identity.kind === 'http' ? { sha256: digestHex(identity.digest) } : { gitCommit: identity.commit };
    return [{ uri, digest }];
  });
}

/** Addresses that were signed say so in their query. */
function withoutQuery(address: string): string {
  return address.replace(/[?#].*$/s, '');
}

/** An image as a package URL of the type `docker`, as BuildKit writes it. */
export function purlOf({ registry, repository, tag, digest }: Reference, platform?: string): string {
  const isHub = registry === 'docker.io';
  const name = isHub ? repository.replace(/^library\//, '') : `${registry}/${repository}`;
  const qualifiers = [
    ...(digest === undefined ? [] : [`digest=${encodeURIComponent(digest)}`]),
    ...(platform === undefined ? [] : [`platform=${encodeURIComponent(platform)}`]),
  ];
  const version = tag === undefined ? '' : `@${encodeURIComponent(tag)}`;
  return `pkg:docker/${name.split('/').map(encodeURIComponent).join('/')}${version}${qualifiers.length === 0 ? '' : `?${qualifiers.join('&')}`}`;
}
