import type { TreeCase } from '../support/reference.ts';

/** What one RUN alone sees, and here-documents of RUN. What they give is in /to; places of mounts are not compared. */
const runs: Readonly<Record<string, string>> = {
  'the whole context bound': 'RUN --mount=type=bind,target=/m mkdir /to && cp -R /m/dir /m/a.txt /to',
  'a directory bound': 'RUN --mount=source=dir,target=/m cp -R /m /to',
  'a file bound': 'RUN --mount=source=a.txt,target=/m mkdir /to && cat /m > /to/copy',
  'a bind mount below the working directory': 'WORKDIR /work\nRUN --mount=source=dir,target=m cp -R m /to',
  'a bind mount that is written to':
    'RUN --mount=source=dir,target=/m,rw mkdir /to && echo lost > /m/lost && ls /m > /to/listed\nRUN --mount=source=dir,target=/m ls /m > /to/again',
  'variables in a mount': 'ENV FROM=dir TO=/m\nRUN --mount=source=$FROM,target=${TO} cp -R /m /to',
  'a directory of a stage bound':
    'RUN mkdir /made && echo x > /made/x && chown 5:6 /made/x && chmod 640 /made/x\nFROM base\nRUN --mount=from=stage@,source=/made,target=/m cp -a /m /to',
  'an image bound': 'RUN --mount=from=base,source=/bin,target=/m mkdir /to && ls /m > /to/listed',
  'a cache between steps':
    'RUN --mount=type=cache,target=/m,id=one@ echo kept > /m/file\nRUN --mount=type=cache,target=/n,id=one@ mkdir /to && cp /n/file /to/file',
  'a cache with a mode':
    'RUN --mount=type=cache,target=/m,id=two@,mode=0750,uid=3,gid=4 mkdir /to && stat -c "%a %u %g" /m > /to/facts',
  'a tmpfs': 'RUN mkdir /to\nRUN --mount=type=tmpfs,target=/m echo lost > /m/x && ls /m > /to/listed',
  'a mount over what is there':
    'RUN mkdir /m /to && echo kept > /m/file\nRUN --mount=type=tmpfs,target=/m ls /m > /to/listed\nRUN cp /m/file /to/file',
  'a here-document as a script': 'RUN <<EOF\nmkdir /to\necho $((1 + 2)) > /to/three\nEOF',
  'a here-document as input': 'RUN mkdir /to && cat > /to/text <<EOF\nhello $HOME\nEOF',
  'two here-documents': 'RUN mkdir /to && cat > /to/a <<A && cat > /to/b <<B\nfirst\nA\nsecond\nB',
  'a here-document with an interpreter': 'RUN <<EOF\n#!/bin/sh\nmkdir /to && echo run > /to/by\nEOF',
};

const given = (text: string): string => `FROM base${text.includes('stage@') ? ' AS stage@' : ''}\n${text}`;

/** What buildah refuses, in words that it takes. */
const equivalents: Readonly<Record<string, string>> = {
  // It writes to the context itself, which the reference says is discarded.
  'a bind mount that is written to':
    'RUN --mount=source=dir,target=/m mkdir /to && cp -R /m /n && echo lost > /n/lost && ls /n > /to/listed\nRUN --mount=source=dir,target=/m ls /m > /to/again',
  'a here-document as a script': 'RUN mkdir /to && echo 3 > /to/three',
  'a here-document as input': 'RUN mkdir /to && echo "hello $HOME" > /to/text',
  'two here-documents': 'RUN mkdir /to && echo first > /to/a && echo second > /to/b',
  'a here-document with an interpreter': 'RUN mkdir /to && echo run > /to/by',
  // It loses what is below a tmpfs when steps run in a chroot.
  'a mount over what is there': 'RUN mkdir /to && touch /to/listed && echo kept > /to/file',
  'a bind mount below the working directory':
    'WORKDIR /work\nRUN --mount=source=dir,target=/work/m cp -R m /to',
};

export const mountCases: readonly TreeCase[] = Object.entries(runs).map(([name, text]) => ({
  name: `What a RUN is given: ${name}`,
  dockerfile: given(text),
  ...(equivalents[name] === undefined ? {} : { equivalent: given(equivalents[name]) }),
  result: '/to',
}));
