import type { TreeCase } from '../support/reference.ts';

/** COPY and ADD from the context, and between stages. */
const simple: Readonly<Record<string, string>> = {
  'a file to a name': 'COPY a.txt /to',
  'a file into a directory that is made': 'COPY a.txt /new/directory/',
  'several files': 'COPY a.txt b.txt /to/',
  'files in JSON form': 'COPY ["sp ace.txt", "a.txt", "/to/"]',
  'a wildcard': 'COPY *.txt /to/',
  'a wildcard of one character': 'COPY ?.txt /to/',
  'a class of characters': 'COPY [ab].txt /to/',
  'a name that is not ASCII': 'COPY äöü.txt /to/',
  'a hidden file': 'COPY .hidden /to/',
  'a program': 'COPY program.sh /bin/program',
  'a private file': 'COPY private /to/',
  'set-id bits': 'COPY setuid /to/',
  'a directory': 'COPY dir /to',
  'a directory with a slash': 'COPY dir/ /to/',
  'the content of several directories': 'COPY dir empty /to/',
  'an empty directory': 'COPY empty /to/',
  'a directory that is closed': 'COPY closed /to/',
  'links below a directory': 'COPY links /to/',
  'a link by its name': 'COPY alias /to/',
  'a path through a link': 'COPY dirlink/one /to/',
  'to the working directory': 'WORKDIR /work\nCOPY a.txt .',
  'to a path from the working directory': 'WORKDIR /work\nCOPY a.txt sub/name',
  'onto a file that is there': 'COPY a.txt /to\nCOPY b.txt /to',
  'onto a directory that is there': 'COPY dir /to\nCOPY dir/sub /to',
  'with an owner by number': 'COPY --chown=12:34 dir /to/',
  'with a user alone': 'COPY --chown=12 a.txt /to/',
  'with an octal mode': 'COPY --chmod=640 a.txt program.sh /to/',
  'with an owner and a mode': 'COPY --chown=1:2 --chmod=4711 program.sh /to/',
  'with attributes': 'COPY noted /to/',
  'dots in the source': 'COPY ./dir/../a.txt /to/',
  'a source that begins with a slash': 'COPY /a.txt /to/',
  'variables in both': 'ENV FROM=a TO=/to\nCOPY $FROM.txt ${TO}/named-$FROM',
  'an archive by COPY': 'COPY plain.tar /to/',
  'an archive by ADD': 'ADD plain.tar /to/',
  'a gzip archive': 'ADD packed.tgz /to/',
  'a bzip2 archive': 'ADD packed.tar.bz2 /to/',
  'an xz archive': 'ADD packed.tar.xz /to/',
  'an archive onto the root': 'ADD plain.tar /',
  'what is no archive, by ADD': 'ADD not.tar.gz a.txt /to/',
  'a directory by ADD': 'ADD dir /to/',
};

/** The same onto an image that has files. */
const onBase: Readonly<Record<string, string>> = {
  'an owner by name': 'COPY --chown=nobody a.txt /to/',
  'an owner and group by name': 'COPY --chown=nobody:nogroup dir /to/',
  'a name and a number': 'COPY --chown=nobody:7 a.txt /to/',
  'into a directory of the image': 'COPY a.txt /etc/',
  'onto a file of the image': 'COPY a.txt /etc/passwd',
  'through a link of the image': 'RUN ln -s /real /link && mkdir /real\nCOPY a.txt /link/',
  'with a mode into a directory of the image': 'COPY --chmod=600 a.txt /tmp/',
  'beside what a step made': 'RUN mkdir -m 700 /made && echo x > /made/x\nCOPY dir /made/',
};

const ignoring: Readonly<Record<string, readonly [ignore: string, instruction: string]>> = {
  'a name': ['a.txt\n', 'COPY . /to/'],
  'a directory': ['dir\n', 'COPY . /to/'],
  'a pattern': ['*.txt\n', 'COPY . /to/'],
  'a pattern at any depth': ['**/*.txt\n', 'COPY . /to/'],
  'a directory but for a file': ['dir\n!dir/two.txt\n', 'COPY dir /to/'],
  'everything but': ['*\n!a.txt\n', 'COPY . /to/'],
  'a comment, an empty line and a slash': ['# x\n\n/a.txt\n', 'COPY . /to/'],
  'the last rule counts': ['*.txt\n!a.txt\na.txt\n', 'COPY . /to/'],
  'what a wildcard matches': ['b.txt\n', 'COPY *.txt /to/'],
};

const fromStages: Readonly<Record<string, string>> = {
  'a stage by name': 'FROM scratch AS one@\nCOPY dir /dir\nFROM scratch\nCOPY --from=one@ /dir /to',
  'a stage, owners kept':
    'FROM scratch AS one@\nCOPY --chown=5:6 dir /dir\nFROM scratch\nCOPY --from=one@ /dir /to/',
  'a stage, links kept': 'FROM scratch AS one@\nCOPY links /links\nFROM scratch\nCOPY --from=one@ / /',
  'a stage, with another owner':
    'FROM scratch AS one@\nCOPY --chown=5:6 dir /dir\nFROM scratch\nCOPY --from=one@ --chown=7:8 /dir /to/',
  'an image': 'FROM scratch\nCOPY --from=base /etc/passwd /to/',
  'a stage that is FROM another':
    'FROM scratch AS one@\nCOPY a.txt /a\nFROM one@ AS two@\nCOPY b.txt /b\nFROM scratch\nCOPY --from=two@ / /',
  'a wildcard in a stage':
    'FROM scratch AS one@\nCOPY a.txt b.txt c.md /x/\nFROM scratch\nCOPY --from=one@ /x/*.txt /to/',
  'a stage whose file another has replaced':
    'FROM scratch AS one@\nCOPY a.txt /x\nFROM one@ AS two@\nCOPY b.txt /x\nFROM scratch\nCOPY --from=two@ /x /',
};

/** Steps whose results are in /out. */
const running: Readonly<Record<string, string>> = {
  'the shell form': 'RUN echo $FROM_BASE > /out/x',
  'the JSON form': 'RUN ["sh", "-c", "echo $0 > /out/x", "a b"]',
  'continuation lines': 'RUN echo one \\\n  # a comment\n  two > /out/x',
  'an ARG': 'ARG A=1\nRUN echo $A > /out/x',
  'an ENV over an ARG': 'ARG A=1\nENV A=2\nRUN echo $A > /out/x',
  'an ENV that names another': 'ENV A=1\nENV A=2 B=$A\nRUN echo $A $B > /out/x',
  'quotes and blanks in ENV': 'ENV A="a  b" B=\'c $d\' C=e\\ f\nRUN env | grep "^[ABC]=" | sort > /out/x',
  'the old form of ENV': 'ENV A a  b  c\nRUN echo "$A" > /out/x',
  'defaults of variables':
    'ENV S=set E=\nENV A=${S:-d} B=${U:-d} C=${E:-d} D=${S:+a}\nRUN env | grep "^[ABCD]=" | sort > /out/x',
  'a user': 'RUN chmod 777 /out\nUSER nobody\nRUN id -u > /out/x && id -g >> /out/x',
  'a user by number': 'RUN chmod 777 /out\nUSER 12:34\nRUN id -u > /out/x && id -g >> /out/x',
  'a working directory': 'WORKDIR /w/x\nRUN pwd > /out/x',
  'a relative working directory': 'WORKDIR /w\nWORKDIR x\nWORKDIR y/../z\nRUN pwd > /out/x',
  'a working directory with a variable': 'ENV D=dir\nWORKDIR /w/$D\nRUN pwd > /out/x',
  'another shell': 'SHELL ["sh", "-ec"]\nRUN echo $0 $- | grep -o e > /out/x',
  'modes and owners': 'RUN mkdir -m 1777 /out/d && echo x > /out/f && chmod 4750 /out/f && chown 5:6 /out/f',
  links: 'RUN echo x > /out/a && ln /out/a /out/b && ln -s a /out/c && ln -s nowhere /out/d',
  'a removed file': 'RUN touch /out/a /out/b\nRUN rm /out/a',
  'a removed directory made again':
    'RUN mkdir /out/d && touch /out/d/a\nRUN rm -r /out/d && mkdir /out/d && touch /out/d/b',
  'a renamed directory': 'RUN mkdir /out/d && touch /out/d/a\nRUN mv /out/d /out/e',
  'a file that becomes a directory': 'RUN touch /out/a\nRUN rm /out/a && mkdir /out/a && touch /out/a/b',
  'a directory that becomes a link': 'RUN mkdir /out/a && touch /out/a/b\nRUN rm -r /out/a && ln -s b /out/a',
  'a changed mode': 'RUN touch /out/a\nRUN chmod 600 /out/a',
  'a FIFO': 'RUN mkfifo /out/fifo',
  'names with blanks and quotes': "RUN touch '/out/a b' '/out/\"' \"/out/'\"",
  'a copied file that a step changes': 'COPY a.txt /out/\nRUN echo more >> /out/a.txt',
};

/** What buildah has no words for, and the same in words that it has. */
const newer: Readonly<Record<string, readonly [ours: string, theirs: string]>> = {
  '--parents of a file': ['COPY --parents links/target /to/', 'COPY links/target /to/links/target'],
  '--parents from a pivot': ['COPY --parents links/./target /to/', 'COPY links/target /to/'],
  '--exclude of a pattern': ['COPY --exclude=*.md a.txt b.txt c.md /to/', 'COPY a.txt b.txt /to/'],
  '--exclude below a directory': ['COPY --exclude=sub dir /to/', 'COPY dir/one dir/two.txt /to/'],
  '--link into a new directory': ['COPY --link a.txt /new/to/', 'COPY a.txt /new/to/'],
  'a symbolic mode': ['COPY --chmod=u=rw,go=r private a.txt /to/', 'COPY --chmod=644 private a.txt /to/'],
  'a symbolic mode of a program': ['COPY --chmod=go-rx program.sh /to/', 'COPY --chmod=700 program.sh /to/'],
  'an archive that stays packed': ['ADD --unpack=false plain.tar /to/', 'COPY plain.tar /to/'],
  'a here-document': ['COPY <<a.txt /to/\na\na.txt', 'COPY line.txt /to/a.txt'],
  'a here-document with a variable': ['ENV X=a\nCOPY <<a.txt /to/\n$X\na.txt', 'COPY line.txt /to/a.txt'],
  'a quoted here-document': ['ENV X=b\nCOPY <<"a.txt" /to/\na\na.txt', 'COPY line.txt /to/a.txt'],
  'a here-document with tabs': ['COPY <<-a.txt /to/\n\ta\n\ta.txt', 'COPY line.txt /to/a.txt'],
  'a prefix cut off a variable': ['ENV V=x/a.txt\nCOPY ${V#*/} /to/', 'COPY a.txt /to/'],
  'a suffix cut off a variable': ['ENV V=a.txt.gz\nCOPY ${V%.gz} /to/', 'COPY a.txt /to/'],
  'a part of a variable replaced': ['ENV V=a.md\nCOPY ${V/md/txt} /to/', 'COPY a.txt /to/'],
};

const setIdBits = {
  what: /^to\/setuid: f 4755 .* \| f 755 /,
  why: 'Dockerfile reference, "Copying from the build context": permissions are preserved; buildah drops set-id bits',
};
const modeOfNew = {
  what: /^to: d (?:640|711) .* \| d 755 /,
  why: 'BuildKit gives directories that it makes for a copy the mode of --chmod (fsutil, copy.Copy); buildah 755',
};
/** What differs in cases of one name. */
const known: Readonly<Record<string, TreeCase['differs']>> = {
  'set-id bits': setIdBits,
  'with an octal mode': modeOfNew,
  'with an owner and a mode': modeOfNew,
};
const leftovers = {
  what: /^(?:home|dev|proc|run|sys|etc\/(?:hostname|hosts|resolv\.conf)): nothing \| /,
  why: 'buildah leaves what it mounts steps on, and makes the working directory of the base for any step',
};

export const treeCases: readonly TreeCase[] = [
  ...Object.entries(simple).map(([name, body]) => ({
    name: `COPY or ADD: ${name}`,
    dockerfile: `FROM scratch\n${body}\n`,
    ...(known[name] === undefined ? {} : { differs: known[name] }),
  })),
  ...Object.entries(onBase).map(([name, body]) => ({
    name: `COPY onto an image: ${name}`,
    dockerfile: `FROM base\n${body}\n`,
    differs: leftovers,
  })),
  ...Object.entries(ignoring).map(([name, [ignore, body]]) => ({
    name: `.dockerignore: ${name}`,
    dockerfile: `FROM scratch\n${body}\n`,
    ignore,
    differs: setIdBits,
  })),
  ...Object.entries(fromStages).map(([name, dockerfile]) => ({ name: `COPY --from: ${name}`, dockerfile })),
  ...Object.entries(running).map(([name, body]) => ({
    name: `RUN: ${name}`,
    dockerfile: `FROM base\nRUN mkdir /out\n${body}\n`,
    result: '/out',
  })),
  ...Object.entries(newer).map(([name, [ours, theirs]]) => ({
    name: `COPY or ADD: ${name}`,
    dockerfile: `FROM scratch\n${ours}\n`,
    equivalent: `FROM scratch\n${theirs}\n`,
  })),
];
