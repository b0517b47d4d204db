import { posix } from 'node:path';
import type { CopyInstruction, Heredoc, Origin } from '../src/dockerfile/index.ts';
import { BuildError, hideCredentials } from '../src/support/index.ts';
import { ModeChange, parseExcludes } from './context/index.ts';
import { parseRemote } from './remote/index.ts';
import type { Operation, PlacedRemote } from './steps.ts';

/** What a copy has to know of the stage that it is in. */
export interface CopyScope {
  /** The Dockerfile and line. */
  readonly where: string;
  /** What `--from` names; undefined for the build context. */
  readonly from: Origin | undefined;
  readonly workingDirectory: string;
  readonly expand: (word: string) => string;
  readonly textOf: (heredoc: Heredoc) => string;
}

/** A step with what is told of it. */
export interface InterpretedCopy {
  readonly operation: Extract<Operation, { kind: 'copy' }>;
  readonly text: string;
  /** For the history. */
  readonly createdBy: string;
}

/** Makes a step of COPY or ADD. @throws BuildError for what only shows after expansion. */
export function interpretCopy(instruction: CopyInstruction, scope: CopyScope): InterpretedCopy {
  const { kind, parents } = instruction;
  const { where } = scope;
  const expandIf = (word: string | undefined): string | undefined =>
    word === undefined ? undefined : scope.expand(word);
  const sources = instruction.sources.map(scope.expand);
  const destination = scope.expand(instruction.destination);
  const [chown, chmod, checksum] = [instruction.chown, instruction.chmod, instruction.checksum].map(expandIf);
  const { patterns, remotes } = splitSources(instruction, sources, checksum, where);
  const files = instruction.heredocs.map((heredoc) => ({
    name: heredoc.name,
    content: scope.textOf(heredoc),
  }));
  const operation: InterpretedCopy['operation'] = {
    kind: 'copy',
    from: scope.from,
    patterns,
    remotes,
    files,
    destination: destinationPath(destination, scope.workingDirectory),
    chown,
    chmod: chmod === undefined ? undefined : modeOf(chmod, instruction, where),
    unpackArchives: instruction.unpack ?? kind === 'add',
    link: isLinked(instruction, chown, where),
    parents,
    excludes: parseExcludes(instruction.excludes, where),
  };
  const word = kind.toUpperCase();
  const words = [
    ...sources.map((line) => hideCredentials(line)),
    ...files.map(({ name }) => `<<${name}`),
    destination,
  ].join(' ');
  const from = instruction.from === undefined ? '' : ` --from=${instruction.from}`;
  const flags = [
    ...(parents ? [' --parents'] : []),
    ...(chown === undefined ? [] : [` --chown=${chown}`]),
    ...(chmod === undefined ? [] : [` --chmod=${chmod}`]),
  ].join('');
  return { operation, text: `${word}${from} ${words}`, createdBy: `${word}${flags} ${words} # buildkit` };
}

/** Tells sources of ADD that are elsewhere from paths of the context. */
function splitSources(
  instruction: CopyInstruction,
  sources: readonly string[],
  checksum: string | undefined,
  where: string,
): { patterns: string[]; remotes: PlacedRemote[] } {
  const { kind, keepGitDir, unpack = false } = instruction;
  const patterns: string[] = [];
  const remotes: PlacedRemote[] = [];
  for (const text of sources) {
    const source = parseRemote(text, { checksum, keepGitDir }, where);
    if (source === undefined) patterns.push(text);
    else if (kind === 'copy')
      throw new BuildError(`COPY takes files of the context, not ${hideCredentials(text)}`, {
        code: 'E_ADD_ADDRESS',
        where,
        remedy: 'Write ADD instead of COPY.',
      });
    else remotes.push({ source, after: patterns.length, unpack });
  }
  const isOneRemote = remotes.length === 1 && sources.length === 1 && instruction.heredocs.length === 0;
  if (checksum !== undefined && !isOneRemote)
    throw new BuildError('--checksum is that of one file or repository from elsewhere', {
      code: 'E_ADD_ADDRESS',
      where,
      subject: '--checksum',
      remedy: 'Write an ADD for each source that has one.',
    });
  return { patterns, remotes };
}

/**
 * Whether the layer is made on nothing. With `--chmod` it is not, as in BuildKit: the directories that lead to the
 * destination would have that mode too, and take it to the image.
 */
function isLinked({ link, chmod }: CopyInstruction, chown: string | undefined, where: string): boolean {
  if (!link || chmod !== undefined) return false;
  if (chown === undefined || /^[0-9]+(?::[0-9]*)?$/.test(chown)) return true;
  throw new BuildError('--chown of a copy with --link takes numbers: its layer has no /etc/passwd', {
    code: 'E_USER_NOT_FOUND',
    where,
    subject: chown,
    remedy: 'Write --chown=1000:1000, or leave --link out.',
  });
}

function destinationPath(text: string, workingDirectory: string): string {
  const path = posix.resolve('/', workingDirectory, text);
  const directory = text.endsWith('/') || /(?:^|\/)\.$/.test(text);
  return directory && path !== '/' ? `${path}/` : path;
}

function modeOf(text: string, { chmod }: CopyInstruction, where: string): number | string {
  if (/^0*[0-7]{1,4}$/.test(text)) return parseInt(text, 8);
  if (!/^[0-9]/.test(text) && ModeChange.parse(text) !== undefined) return text;
  throw new BuildError(`"${text}" is not a mode`, {
    code: 'E_DOCKERFILE_SYNTAX',
    where,
    subject: chmod,
    remedy: 'Write --chmod=0644, or --chmod=u=rwX,go=rX.',
  });
}
