import {
  heredocBody,
  parseHeredocOpening,
  type ResolvedStage,
  type RunInstruction,
} from '../src/dockerfile/index.ts';
import { BuildError } from '../src/support/index.ts';
import { runText } from './history-text.ts';
import { interpretMounts } from './interpret-mounts.ts';
import { proxyArguments, type StageState } from './stage-state.ts';
import type { MountOperation, Operation } from './steps.ts';

/** What a RUN has to know of the stage that it is in. */
export interface RunScope {
  readonly file: string;
  /** The Dockerfile and line. */
  readonly where: string;
  readonly state: StageState;
  readonly sources: ResolvedStage['sources'];
  readonly buildArguments: ReadonlyMap<string, string>;
  /** ARGs that count in no key. */
  readonly ignoredArguments: ReadonlySet<string>;
  readonly expand: (word: string) => string;
}

type RunOperation = Extract<Operation, { kind: 'run' }>;

/** A step with what is told of it. */
export interface InterpretedRun {
  readonly operation: RunOperation;
  readonly text: string;
  /** For the history. */
  readonly createdBy: string;
}

/** Where a here-document lies that is run as a program, as in BuildKit. */
const scriptDirectory = '/dev/pipes';

/** Makes a step of RUN. @throws BuildError for what only shows after expansion, and for what cannot be had here. */
export function interpretRun(instruction: RunInstruction, scope: RunScope): InterpretedRun {
  refuseRights(instruction, scope.where);
  const { state, ignoredArguments, buildArguments } = scope;
  const { network, original } = instruction;
  const mounts = interpretMounts(instruction.mounts, {
    place: { file: scope.file, line: instruction.line },
    expand: scope.expand,
    workingDirectory: state.workingDirectory,
    originOf: (fields) => scope.sources.get(fields),
  });
  const { argv, script } = commandOf(instruction, state);
  const env = state.stepEnvironment();
  const argumentNames = new Set([...state.arguments.keys()].filter((name) => !state.env.has(name)));
  const counts = (name: string): boolean => !argumentNames.has(name) || !ignoredArguments.has(name);
  const proxies = [...buildArguments].filter(([name]) => proxyArguments.has(name));
  const operation: RunOperation = {
    kind: 'run',
    argv,
    env: { ...Object.fromEntries(proxies), ...agentEnvironment(mounts), ...env },
    keyedEnv: Object.fromEntries(Object.entries(env).filter(([name]) => counts(name))),
    argumentNames,
    user: state.user,
    workingDirectory: state.workingDirectory === '' ? '/' : state.workingDirectory,
    mounts,
    script,
    // Steps always have the network of the executor, which is what `host` asks for.
    network: network === 'none' ? 'none' : 'default',
  };
  const ran = runText(argv, state.arguments, state.lookup);
  return { operation, text: original.replace(/\s+/g, ' '), createdBy: `RUN ${ran} # buildkit` };
}

/** Programs find the agent where the first one of the step is, unless the image says something else. */
function agentEnvironment(mounts: readonly MountOperation[]): Record<string, string> {
  const agent = mounts.find(({ type }) => type === 'ssh');
  return agent?.target === undefined ? {} : { SSH_AUTH_SOCK: agent.target };
}

/** What is run. A here-document alone is the script, or a program when it begins with `#!`; behind a command it is its input. */
function commandOf(
  { command, heredocs }: RunInstruction,
  state: StageState,
): Pick<RunOperation, 'argv' | 'script'> {
  if (command.form === 'exec') return { argv: command.command, script: undefined };
  const text = command.command;
  const [first] = heredocs;
  const shell = (script: string): Pick<RunOperation, 'argv' | 'script'> => ({
    argv: state.shellCommand(script),
    script: undefined,
  });
  if (first === undefined) return shell(text);
  if (parseHeredocOpening(text) === undefined)
    return shell(`${text}\n${heredocs.map(({ name, content }) => `${content}${name}`).join('\n')}`);
  const content = heredocBody(first);
  if (!content.startsWith('#!')) return shell(content);
  const { name } = first;
  return { argv: state.shellCommand(`${scriptDirectory}/${name}`), script: { name, content } };
}

/** The path of the file of a step's script. */
export function scriptPath({ name }: { readonly name: string }): string {
  return `${scriptDirectory}/${name}`;
}

/** Rights that a builder without a daemon cannot give to one step. */
function refuseRights({ security, devices }: RunInstruction, where: string): void {
  if (security === 'insecure')
    throw new BuildError('RUN --security=insecure cannot be had: no step gets more rights than a container', {
      code: 'E_RUN_SECURITY',
      where,
      subject: '--security=insecure',
      remedy:
        "Leave it out: the step has a container's default capabilities. What needs more, such as a nested container engine, belongs outside of the build.",
    });
  if (devices.length > 0)
    throw new BuildError(
      'RUN --device cannot be had: there is no daemon that devices (CDI) are registered with',
      {
        code: 'E_RUN_DEVICE',
        where,
        subject: '--device',
        remedy: 'Leave it out, and do what needs the device when the image runs.',
      },
    );
}
