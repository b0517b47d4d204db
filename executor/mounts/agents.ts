import { stat } from 'node:fs/promises';
import { BuildError, UsageError } from '../../src/support/index.ts';
import { type AnswerAgent, askAgent, serveAgent } from './agent-relay.ts';
import type { MountSources } from './sources.ts';

/** The agents of a build, by their ids. */
export class Agents {
  readonly #answers = new Map<string, AnswerAgent>();

  /**
   * Opens those of these ids that were given. Keys in files are read now: in place, the files may not be there later.
   *
   * @throws UsageError `E_SSH_AGENT`, `E_SSH_KEY`.
   */
  static async open(sources: MountSources['agents'], ids: ReadonlySet<string>): Promise<Agents> {
    const agents = new Agents();
    for (const [id, paths] of sources) if (ids.has(id)) agents.#answers.set(id, await answerFor(id, paths));
    return agents;
  }

  /**
   * What has a step's socket listen; undefined for an agent that was not given and need not be.
   *
   * @throws BuildError `E_SSH_MISSING`.
   */
  get(
    id: string,
    required: boolean,
    where: string,
  ): ((path: string) => Promise<AsyncDisposable>) | undefined {
    const answer = this.#answers.get(id);
    if (answer !== undefined) return (path) => serveAgent(path, answer);
    if (!required) return undefined;
    throw new BuildError(`the agent ${id} is required, and was not given`, {
      code: 'E_SSH_MISSING',
      where,
      subject: 'type=ssh',
      remedy: `Give it to the build: --ssh ${id}, with an agent in SSH_AUTH_SOCK, or --ssh ${id}=SOCKET.`,
    });
  }
}

async function answerFor(id: string, paths: readonly string[]): Promise<AnswerAgent> {
  const kinds = await Promise.all(paths.map((path) => kindOf(id, path)));
  const [first = ''] = paths;
  if (kinds.length === 1 && kinds[0] === 'socket') return askAgent(first);
  if (kinds.includes('socket'))
    throw new UsageError(`--ssh ${id} has both an agent's socket and files with keys`, {
      code: 'E_SSH_AGENT',
      remedy: 'Give one socket, or files alone.',
    });
  const { KeyRing } = await import('./key-ring.ts');
  const ring = await KeyRing.read(paths);
  return (request) => Promise.resolve(ring.answer(request));
}

async function kindOf(id: string, path: string): Promise<'socket' | 'file'> {
  try {
    return (await stat(path)).isSocket() ? 'socket' : 'file';
  } catch (cause) {
    throw new UsageError(`--ssh ${id}: there is neither an agent nor a key at ${path}`, {
      code: 'E_SSH_AGENT',
      cause,
      remedy: 'Check the path, or SSH_AUTH_SOCK.',
    });
  }
}
