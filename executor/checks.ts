import {
  type BaseFacts,
  type CheckContext,
  checkDockerfile,
  type CheckResult,
  type Dockerfile,
} from '../src/dockerfile/index.ts';
import type { ImageConfig, Platform } from '../src/oci/index.ts';
import { BuildError, type Progress, UsageError } from '../src/support/index.ts';
import type { PlannedStage } from './plan.ts';
import { StageState } from './stage-state.ts';

/** What the checks want to know of an image that a stage starts from. */
export function factsOf(config: ImageConfig): BaseFacts {
  const { env, shell } = StageState.fromImage(config);
  const { os, architecture, variant } = config;
  const platform: Platform = { os, architecture, ...(variant === undefined ? {} : { variant }) };
  return { env, hasShell: shell !== undefined, platform };
}

/**
 * Runs the build checks over the stages that a build needs, for each platform, and tells what they find as warnings, each once.
 *
 * @param options `failing`: findings fail the build, whatever the Dockerfile says.
 * @throws BuildError `E_CHECK_FAILED` when findings are to fail the build.
 */
export function checkBuild(
  dockerfile: Dockerfile,
  plans: readonly { readonly platform: Platform; readonly stages: readonly PlannedStage[] }[],
  context: Pick<CheckContext, 'buildArguments' | 'isIgnored'>,
  options: { readonly failing: boolean; readonly progress: Progress },
): void {
  const { progress } = options;
  const results = plans.flatMap(({ platform, stages }) => {
    const bases = new Map(stages.map(({ index, base }) => [index, base]));
    const result = checkQuietly(dockerfile, progress, {
      ...context,
      platform,
      baseOf: ({ index }) => {
        const base = bases.get(index);
        return base?.kind === 'image' ? factsOf(base.image.config) : undefined;
      },
      stages: new Set(bases.keys()),
    });
    return result ?? [];
  });
  const result = mergeFindings(results);
  for (const { rule, message, remedy, page, line } of result.findings)
    progress.emit({ type: 'check', rule, message, remedy, page, file: dockerfile.file, line });
  if (options.failing || result.error) requireNoFindings(result, dockerfile);
}

/** What was found for several platforms, without what is the same for them. */
export function mergeFindings(results: readonly CheckResult[]): CheckResult {
  const findings = new Map(
    results.flatMap((result) =>
      result.findings.map(
        (finding) => [`${finding.line} ${finding.rule} ${finding.message}`, finding] as const,
      ),
    ),
  );
  return {
    findings: [...findings.values()].sort((one, other) => one.line - other.line),
    error: results.some(({ error }) => error),
  };
}

/** A directive may name rules that only newer versions know; that is no reason not to build. */
function checkQuietly(
  dockerfile: Dockerfile,
  progress: Progress,
  context: CheckContext,
): CheckResult | undefined {
  try {
    return checkDockerfile(dockerfile, context);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    progress.warn(`${error.where ?? dockerfile.file}: ${error.message}; the Dockerfile is not checked`);
    return undefined;
  }
}

/** @throws BuildError `E_CHECK_FAILED` naming the first finding. */
export function requireNoFindings({ findings }: CheckResult, { file }: Dockerfile): void {
  const [first] = findings;
  if (first === undefined) return;
  const rules = [...new Set(findings.map(({ rule }) => rule))].join(', ');
  throw new BuildError(`the build checks found ${countOf(findings.length, 'problem')}: ${rules}`, {
    code: 'E_CHECK_FAILED',
    where: `${file}:${first.line}`,
    excerpt: first.excerpt,
    remedy: `${first.remedy} Or leave the rule out: # check=skip=${first.rule}.`,
  });
}

/** `1 problem`, `2 problems`. */
export function countOf(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? '' : 's'}`;
}
