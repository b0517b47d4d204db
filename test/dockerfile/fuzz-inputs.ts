import { SeededRandom } from '../support/random.ts';
import { configCases } from '../reference/config-cases.ts';
import { treeCases } from '../reference/tree-cases.ts';

/** Dockerfiles that are right, or nearly: what is mutated. */
const corpus = [
  ...[...configCases, ...treeCases].map(({ dockerfile }) => dockerfile),
  '# syntax=x\n# escape=`\nFROM a\nRUN echo `\n  b\n',
  '# check=skip=all;error=true\nFROM --platform=$BUILDPLATFORM a AS b\n',
  'FROM a\nRUN --mount=type=cache,target=/x,sharing=locked --mount=type=secret,id=y,env=Z true\n',
  'FROM a\nRUN <<EOF cat && <<-"B" sh\none\nEOF\n\ttwo\n\tB\n',
  'FROM a\nADD --checksum=sha256:00 --keep-git-dir=true https://user:pw@host/x.git?ref=a&subdir=b#c:d /x\n',
  'FROM a\nCOPY --link --parents --exclude=**/*.[a-z] --chmod=u=rwX,go= --chown=a:b x/./y* /z/\n',
  'ARG A=${B:-${C:+d}}\nFROM a${A##*/}${A%%.*}${A//x/y}\nHEALTHCHECK --interval=1h30m CMD ["a"]\n',
];

/** Pieces that mean something somewhere in the language. */
const pieces = [
  ...[
    '\\',
    '\\\n',
    '`',
    '\n',
    '\r\n',
    '\t',
    ' ',
    '"',
    "'",
    '$',
    '${',
    '}',
    '${A:-',
    '$$',
    '<<',
    '<<-',
    '<<EOF',
    '\nEOF\n',
  ],
  ...[
    '--',
    '--from=',
    '--mount=type=',
    '--chmod=',
    '=',
    ',',
    ';',
    ':',
    '/',
    '/./',
    '**',
    '*',
    '?',
    '[',
    ']',
    '[^',
    '!',
    '#',
  ],
  ...[
    'FROM ',
    'AS ',
    'COPY ',
    'ADD ',
    'RUN ',
    'ONBUILD ',
    'ENV ',
    'ARG ',
    'SHELL ',
    '# escape=',
    '# check=',
    'https://',
    '.git',
  ],
  ...[
    '\0',
    '\u{1F600}',
    '\uFEFF',
    '\uD800',
    '\x1b[31m',
    '__proto__',
    'constructor',
    '0',
    '-1',
    '999999999999999999999',
  ],
];

/** The text of a round: a Dockerfile of the corpus with a few changes. The same for the same seed and round. */
export function mutate(seed: number, round: number): string {
  const random = new SeededRandom(seed * 1_000_003 + round);
  let text = random.pick(corpus);
  for (let change = 1 + random.below(8); change > 0; change--) text = mutateOnce(random, text);
  return text;
}

function mutateOnce(random: SeededRandom, text: string): string {
  const at = random.below(text.length + 1);
  const end = Math.min(text.length, at + random.below(12));
  switch (random.below(7)) {
    case 0:
      return text.slice(0, at) + random.pick(pieces) + text.slice(at);
    case 1:
      return text.slice(0, at) + text.slice(end);
    case 2:
      return text.slice(0, at) + random.pick(pieces).repeat(1 + random.below(30)) + text.slice(end);
    case 3: {
      const other = random.pick(corpus);
      return text.slice(0, at) + other.slice(random.below(other.length));
    }
    case 4: {
      const lines = text.split('\n');
      const line = lines.splice(random.below(lines.length), 1);
      lines.splice(random.below(lines.length + 1), 0, ...line, ...(random.chance(0.3) ? line : []));
      return lines.join('\n');
    }
    case 5:
      return text.slice(0, at) + text.slice(at, end).repeat(random.below(200)) + text.slice(end);
    default:
      return text.slice(0, at) + String.fromCharCode(random.below(256)) + text.slice(at + 1);
  }
}
