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
  'the whole context': 'COPY . /to/',
  'what a wildcard finds in a directory': 'COPY dir/* /to/',
  'a wildcard between directories': 'COPY dir/*/three /to/',
  'a path through a link that a wildcard finds': 'COPY dirl*/one /to/',
  'the same links twice (O926)': 'COPY links /to/\nCOPY links /to/',
  'an owner from an ARG': 'ARG O=5:6\nCOPY --chown=$O a.txt /to/',
  'onto the root': 'COPY a.txt dir /',
  'archives that a wildcard finds': 'ADD plain.t?r packed.t* /to/',
  'an archive with an owner': 'ADD --chown=5:6 plain.tar /to/',
  'an archive beside a file': 'ADD plain.tar a.txt /to/',
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
  'an archive into a directory whose mode stays (O842)': 'RUN mkdir -m 700 /made\nADD plain.tar /made/',
  'into a directory that an earlier layer removed':
    'RUN mkdir /gone && touch /gone/x\nRUN rm -r /gone\nCOPY a.txt /gone/',
  'a file in the place of one that a step removed (G1637)': 'COPY a.txt /x\nRUN rm /x\nCOPY b.txt /x',
  'as a user, root being the owner': 'USER nobody\nCOPY a.txt /to/',
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
  'a directory at any depth, but for one': ['**/sub\n!dir/sub/deep\n', 'COPY . /to/'],
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
  'a stage whose file is gone (O774)':
    'FROM base AS one@\nRUN mkdir /d && touch /d/a /d/b\nRUN rm /d/a\nFROM scratch\nCOPY dir/one /to/a\nCOPY --from=one@ /d /to/',
  'a stage, attributes and set-id bits kept':
    'FROM base AS one@\nCOPY noted /d/\nRUN touch /d/s && chmod 6755 /d/s && mkdir -m 1777 /d/t\nFROM scratch\nCOPY --from=one@ /d /to/',
  'a stage, hard links in one directory (G1743)':
    'FROM base AS one@\nRUN mkdir /d && echo x > /d/a && ln /d/a /d/b\nFROM scratch\nCOPY --from=one@ /d /to/',
  'a stage, links that lead nowhere':
    'FROM base AS one@\nRUN mkdir /d && ln -s /nowhere /d/a && ln -s . /d/b\nFROM scratch\nCOPY --from=one@ /d /to/',
  'a stage, a link by its name':
    'FROM base AS one@\nRUN mkdir /d && echo x > /d/a && ln -s a /d/b\nFROM scratch\nCOPY --from=one@ /d/b /to/',
  'two stages into one directory':
    'FROM scratch AS one@\nCOPY a.txt /x\nFROM scratch AS two@\nCOPY b.txt /x\nFROM scratch\nCOPY --from=one@ /x /to/one\nCOPY --from=two@ /x /to/two',
  'triggers of ONBUILD in a stage that is FROM another':
    'FROM base AS one@\nONBUILD COPY a.txt /to/\nONBUILD ENV A=1\nFROM one@ AS two@\nRUN echo $A > /to/x\nFROM scratch\nCOPY --from=two@ /to /to',
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
  'a file removed and made again (G1637)': 'RUN echo a > /out/a\nRUN rm /out/a\nRUN echo b > /out/a',
  'a link that becomes a directory (G2308)':
    'RUN ln -s b /out/a\nRUN rm /out/a && mkdir /out/a && touch /out/a/c',
  'a directory that becomes a file':
    'RUN mkdir /out/a && touch /out/a/b\nRUN rm -r /out/a && echo x > /out/a',
  'a hard link to a file of an earlier step (G282)':
    'RUN echo x > /out/a\nRUN ln /out/a /out/b && mv /out/a /out/c',
  'a changed owner': 'RUN mkdir /out/d && touch /out/d/a\nRUN chown 5:6 /out/d',
  'a step that changes nothing (G2157)': 'RUN touch /out/a\nRUN true\nRUN touch /out/b',
  'a sparse file': 'RUN truncate -s 1M /out/a && echo x >> /out/a',
  'a long path and a long link':
    'RUN d=/out; for i in 1 2 3 4 5 6; do d=$d/0123456789012345678901234567890123456789; done; mkdir -p $d && ln -s $d /out/l',
  'a user with a group (O840)': 'RUN chmod 777 /out\nUSER nobody:root\nRUN id -u > /out/x && id -g >> /out/x',
  'the home of the user':
    'RUN chmod 777 /out && echo $HOME > /out/root\nUSER nobody\nRUN echo $HOME > /out/x',
  'the umask': 'RUN umask > /out/x && touch /out/y && mkdir /out/z',
  'several ARGs of one line': 'ARG A=1\nARG B=$A-2 C\nRUN echo $A $B x$C > /out/x',
  'a default within a default': 'ENV A=${U:-${V:-deep}}\nRUN echo $A > /out/x',
  'an escaped variable': 'ENV A=\\$HOME B="\\${C}"\nRUN env | grep "^[AB]=" | sort > /out/x',
  'an ENV taken back by a later one': 'ENV A=1\nENV A=\nRUN env | grep "^A=" > /out/x',
  'what lies in /var/run (G506)': 'RUN mkdir -p /var/run && echo x > /var/run/a && mv /var /out/',
  'what a step writes into a VOLUME': 'RUN mkdir /out/v\nVOLUME /out/v\nRUN touch /out/v/a',
  'the JSON form, in which no shell expands': 'ENV A=1\nRUN ["touch", "/out/$A", "/out/a b"]',
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
  'every part of a variable replaced': ['ENV V=a_.tx_t\nCOPY ${V//_/} /to/', 'COPY a.txt /to/'],
  'the longest prefix and suffix cut off': [
    'ENV V=x/y/a.txt W=a.txt.gz.x\nCOPY ${V##*/} ${W%%.gz*} /to/',
    'COPY a.txt /to/',
  ],
  '--parents of several': [
    'COPY --parents links/target dir/one /to/',
    'COPY links/target /to/links/\nCOPY dir/one /to/dir/',
  ],
  '--exclude of several': [
    'COPY --exclude=a.txt --exclude=l*.txt *.txt /to/',
    'COPY b.txt äöü.txt sp?ace.txt /to/',
  ],
  '--exclude of a directory by ADD': ['ADD --exclude=sub dir /to/', 'COPY dir/one dir/two.txt /to/'],
  '--link with an owner': ['COPY --link --chown=5:6 dir/one /to/', 'COPY --chown=5:6 dir/one /to/'],
  '--link by ADD, of an archive': ['ADD --link plain.tar /to/', 'ADD plain.tar /to/'],
  'a symbolic mode that adds': [
    'COPY --chmod=+x private a.txt /to/',
    'COPY --chmod=711 private /to/\nCOPY --chmod=755 a.txt /to/',
  ],
  'a here-document by ADD': ['ADD <<a.txt /to/\na\na.txt', 'COPY line.txt /to/a.txt'],
  'two here-documents': [
    'COPY <<a.txt <<b.txt /to/\na\na.txt\na\nb.txt',
    'COPY line.txt /to/a.txt\nCOPY line.txt /to/b.txt',
  ],
  'a here-document beside a file': [
    'COPY b.txt <<a.txt /to/\na\na.txt',
    'COPY b.txt /to/\nCOPY line.txt /to/a.txt',
  ],
};

/** Here-documents of RUN, whose results are in /out. */
const scripts: Readonly<Record<string, readonly [ours: string, theirs: string]>> = {
  'a here-document': [
    'RUN <<EOF\necho a > /out/x\necho $FROM_BASE > /out/y\nEOF',
    'RUN echo a > /out/x && echo $FROM_BASE > /out/y',
  ],
  'a here-document for a command': ['RUN cat <<EOF > /out/x\na\nEOF', 'RUN echo a > /out/x'],
  'a here-document with tabs': ['RUN <<-EOF\n\techo a > /out/x\n\tEOF', 'RUN echo a > /out/x'],
  'a here-document for another shell': ['RUN <<EOF ash -e\necho a > /out/x\nEOF', 'RUN echo a > /out/x'],
};

const setIdBits = {
  what: /^to\/setuid: f 4755 .* \| f 755 /,
  why: 'Dockerfile reference, "Copying from the build context": permissions are preserved; buildah drops set-id bits',
};
const keptParent = {
  what: /^to\/setuid: f 4755 .* \| f 755 |^to\/dir\/sub: d 711 .* \| d 755 /,
  why: 'BuildKit takes the directories on the way to what is let in as they are (fsutil, filter.go); set-id bits as above',
};
const modeOfNew = {
  what: /^to: d (?:640|711) .* \| d 755 /,
  why: 'BuildKit gives directories that it makes for a copy the mode of --chmod (fsutil, copy.Copy); buildah 755',
};
/** What differs in cases of one name. */
const known: Readonly<Record<string, TreeCase['differs']>> = {
  'set-id bits': setIdBits,
  'the whole context': setIdBits,
  'an archive with an owner': {
    what: /^to\/in.* 5:6.* \| .* 12:34/,
    why: 'BuildKit gives what it unpacks the owner of --chown (llbsolver, file/unpack.go); buildah leaves it',
  },
  'what a step writes into a VOLUME': {
    what: /^v\/a: f .* \| nothing$/,
    why: 'Dockerfile reference, "Notes about specifying volumes": BuildKit keeps what steps change there; buildah does not',
  },
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
    differs: name === 'a directory at any depth, but for one' ? keptParent : setIdBits,
  })),
  ...Object.entries(fromStages).map(([name, dockerfile]) => ({ name: `COPY --from: ${name}`, dockerfile })),
  {
    name: 'COPY --from: a stage that comes later',
    dockerfile:
      'FROM scratch AS one@\nCOPY --from=two@ /b /to/\nFROM scratch AS two@\nCOPY b.txt /b\nFROM one@\n',
    equivalent:
      'FROM scratch AS two@\nCOPY b.txt /b\nFROM scratch AS one@\nCOPY --from=two@ /b /to/\nFROM one@\n',
  },
  {
    name: 'COPY --from: a trigger of ONBUILD that copies from a stage',
    dockerfile:
      'FROM scratch AS tools@\nCOPY b.txt /b\nFROM scratch AS one@\nONBUILD COPY --from=tools@ /b /to/\nFROM one@\nCOPY a.txt /to/\n',
    equivalent:
      'FROM scratch AS tools@\nCOPY b.txt /b\nFROM scratch\nCOPY --from=tools@ /b /to/\nCOPY a.txt /to/\n',
  },
  ...Object.entries(running).map(([name, body]) => ({
    name: `RUN: ${name}`,
    dockerfile: `FROM base\nRUN mkdir /out\n${body}\n`,
    result: '/out',
    ...(known[name] === undefined ? {} : { differs: known[name] }),
  })),
  ...Object.entries(scripts).map(([name, [ours, theirs]]) => ({
    name: `RUN: ${name}`,
    dockerfile: `FROM base\nRUN mkdir /out\n${ours}\n`,
    equivalent: `FROM base\nRUN mkdir /out\n${theirs}\n`,
    result: '/out',
  })),
  ...Object.entries(newer).map(([name, [ours, theirs]]) => ({
    name: `COPY or ADD: ${name}`,
    dockerfile: `FROM scratch\n${ours}\n`,
    equivalent: `FROM scratch\n${theirs}\n`,
  })),
];
