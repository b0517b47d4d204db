import { BaseResolver } from '../../executor/bases.ts';
import { openContext, TreeReadings } from '../../executor/context/index.ts';
import { planBuild } from '../../executor/plan.ts';
import { type CacheRules, noCacheRules, type PlannedStage } from '../../executor/planned.ts';
import { parseDockerfile, resolveStages } from '../../src/dockerfile/index.ts';
import { hostPlatform } from '../../src/oci/index.ts';
import { NamedContexts } from '../../executor/named-contexts.ts';
import { GitTrees, HttpFiles, RemoteSources } from '../../executor/remote/index.ts';
import { RegistryClient, type WebAnswer, type WebRequest } from '../../src/registry/index.ts';
import { Progress } from '../../src/support/index.ts';
import { temporaryDirectory } from './programs.ts';

export interface PlanSetting {
  readonly arguments?: Readonly<Record<string, string>>;
  readonly target?: string;
  readonly rules?: Partial<CacheRules>;
}

/**
 * Plans a build as the executor does, and runs nothing. Bases that a Dockerfile names are asked of their registries.
 *
 * @param context the build context, in which `Dockerfile.dockerignore` is looked for.
 */
export async function planOf(
  dockerfile: string,
  context: string,
  setting: PlanSetting = {},
): Promise<PlannedStage[]> {
  const parsed = parseDockerfile(dockerfile, 'Dockerfile');
  const buildArguments = new Map(Object.entries(setting.arguments ?? {}));
  const platform = hostPlatform();
  const graph = resolveStages(parsed, { target: setting.target, buildArguments, platform });
  await using client = new RegistryClient();
  await using scratch = await temporaryDirectory();
  const get = (request: WebRequest): Promise<WebAnswer> => client.readWebFile(request);
  const files = new HttpFiles({ get, scratch: scratch.path, memory: undefined });
  const trees = new GitTrees(client, scratch.path);
  return await planBuild({
    dockerfile: parsed,
    subject: 'test Dockerfile',
    graph,
    context: await openContext(context, `${context}/Dockerfile`),
    bases: new BaseResolver([], client, undefined, new Progress()),
    buildArguments,
    platform,
    remotes: new RemoteSources(files, trees),
    contexts: new NamedContexts(new Map(), () => Promise.reject(new Error('nothing is fetched'))),
    keyed: true,
    readings: new TreeReadings(),
    rules: { ...noCacheRules, ...setting.rules },
    consumed: new Set(),
  });
}

/** The keys of the target's own steps, in order. */
export async function keysOf(
  dockerfile: string,
  context: string,
  setting: PlanSetting = {},
): Promise<string[]> {
  const stage = (await planOf(dockerfile, context, setting)).at(-1);
  return (stage?.steps ?? []).map(({ key }) => key ?? 'none');
}
