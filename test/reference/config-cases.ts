import type { ConfigCase } from '../support/reference.ts';

/** What buildah does not say of an image FROM scratch. */
const rootDirectory = {
  what: /^WorkingDir: "\/" \| nothing$/,
  why: 'BuildKit gives an image FROM scratch the working directory / (dockerfile2llb, image.go)',
};

/** What else differs in cases of one name. */
const known: Readonly<Record<string, ConfigCase['differs']>> = {
  'EXPOSE of a range': {
    what: /^WorkingDir:|^ExposedPorts:/,
    why: 'BuildKit exposes each port of a range (dockerfile2llb, convert_expose.go); buildah keeps the text',
  },
  'SHELL and CMD': {
    what: /^WorkingDir:|^Cmd:/,
    why: 'Dockerfile reference, "SHELL": the shell form of RUN, CMD and ENTRYPOINT; buildah minds it for RUN alone',
  },
  PATH: {
    what: /^Env:/,
    why: 'BuildKit puts a new value in the place of the old one (dockerfile2llb, addEnv); buildah behind the others',
  },
};

/** What instructions say in the configuration, FROM scratch. */
const fromScratch: Readonly<Record<string, string>> = {
  ENV: 'ENV A=1 B="two words" C=$A',
  'ENV twice': 'ENV A=1\nENV A=2',
  'the old form of ENV': 'ENV A one two',
  'ENV with quotes within': 'ENV A="say \\"hi\\"" B=\'single $A\'',
  'ENV from an ARG': 'ARG X=1\nENV A=$X',
  'ENV with a default': 'ENV A=${NOT:-default} B=${NOT:+none}',
  LABEL: 'LABEL a=1 b="two words" c.d/e=$X',
  'LABEL twice': 'LABEL a=1\nLABEL a=2',
  'LABEL with quotes around its name': 'LABEL "a b"="c"',
  'CMD in JSON form': 'CMD ["a", "b c"]',
  'CMD in shell form': 'CMD echo $HOME "x  y"',
  'CMD twice': 'CMD ["a"]\nCMD ["b"]',
  'ENTRYPOINT in JSON form': 'ENTRYPOINT ["a"]',
  'ENTRYPOINT in shell form': 'ENTRYPOINT exec a',
  'ENTRYPOINT and CMD': 'ENTRYPOINT ["a"]\nCMD ["b"]',
  WORKDIR: 'WORKDIR /a/b',
  'WORKDIR twice': 'WORKDIR /a\nWORKDIR b',
  'WORKDIR with a variable': 'ENV D=x\nWORKDIR /a/$D',
  USER: 'USER 12:34',
  'USER by name': 'USER app',
  'USER with a variable': 'ARG U=app\nUSER $U',
  EXPOSE: 'EXPOSE 80',
  'EXPOSE with protocols': 'EXPOSE 80/tcp 53/udp',
  'EXPOSE with a variable': 'ENV P=8080\nEXPOSE $P',
  'EXPOSE of a range': 'EXPOSE 8000-8002',
  VOLUME: 'VOLUME /data',
  'VOLUME of several': 'VOLUME /a /b',
  'VOLUME in JSON form': 'VOLUME ["/a", "/b"]',
  STOPSIGNAL: 'STOPSIGNAL SIGQUIT',
  'STOPSIGNAL by number': 'STOPSIGNAL 9',
  SHELL: 'SHELL ["/bin/ash", "-ec"]',
  'SHELL and CMD': 'SHELL ["/bin/ash", "-ec"]\nCMD run me',
  ONBUILD: 'ONBUILD RUN make',
  'ONBUILD of several': 'ONBUILD COPY . /app\nONBUILD ENV A=1',
  HEALTHCHECK: 'HEALTHCHECK CMD true',
  'HEALTHCHECK in JSON form': 'HEALTHCHECK CMD ["a", "b"]',
  'HEALTHCHECK with options': 'HEALTHCHECK --interval=30s --timeout=5s --start-period=1m --retries=4 CMD a',
  'HEALTHCHECK NONE': 'HEALTHCHECK NONE',
  'instructions in small letters': 'env A=1\nlabel b=2\ncmd ["c"]',
  'comments and empty lines': '# x\n\nENV A=1\n   # y\nENV B=2',
  'continuation lines': 'ENV A=1 \\\n    B=2 \\\n# z\n    C=3',
  'a line that ends in carriage return': 'ENV A=1\r\nENV B=2\r',
  'ENV of several that name one another': 'ENV A=1 B=$A\nENV A=2 B=$A',
  'LABEL over several lines': 'LABEL a="one \\\n two" \\\n  b=3',
  'ARG with quotes': 'ARG A="x y"\nENV B=$A',
  'the platform of the build': 'ARG TARGETOS\nARG TARGETARCH\nENV A=$TARGETOS-$TARGETARCH',
  'EXPOSE of one twice': 'EXPOSE 80\nEXPOSE 80 81',
  'CMD after ENTRYPOINT after CMD': 'CMD ["a"]\nENTRYPOINT ["b"]\nCMD ["c"]',
};

/** The same on an image that has a configuration. */
const onBase: Readonly<Record<string, string>> = {
  nothing: '',
  ENV: 'ENV FROM_BASE=no OTHER=$FROM_BASE',
  LABEL: 'LABEL more=2',
  'LABEL in the place of that of the image': 'LABEL base=2',
  ENTRYPOINT: 'ENTRYPOINT ["a"]',
  CMD: 'CMD ["a"]',
  WORKDIR: 'WORKDIR sub',
  PATH: 'ENV PATH=/x:$PATH',
  'USER and back to root': 'USER 12\nUSER root',
};

const failing: Readonly<Record<string, string>> = {
  'an instruction that does not exist': 'NOPE x',
  'COPY of what is not there': 'COPY nowhere /',
  'COPY without a destination': 'COPY a.txt',
  'ENV without a value': 'ENV A',
  'a stage that does not exist': 'COPY --from=nowhere.invalid/x:1 /a /b',
  'ONBUILD of ONBUILD': 'ONBUILD ONBUILD RUN x',
  'ONBUILD of FROM': 'ONBUILD FROM x',
  'a flag that does not exist': 'COPY --nope a.txt /',
  'SHELL in shell form': 'SHELL /bin/sh',
  'HEALTHCHECK of what does not exist': 'HEALTHCHECK MAYBE x',
  'a variable that must be set': 'ENV A=${NOT:?it is needed}',
};

const stages: readonly ConfigCase[] = [
  {
    name: 'the target of a build',
    dockerfile: 'FROM scratch AS one\nENV A=1\nFROM one AS two\nENV A=2\n',
    target: 'one',
    differs: rootDirectory,
  },
  { name: 'a stage FROM another', dockerfile: 'FROM base AS one\nENV A=1\nCMD ["x"]\nFROM one\nENV B=$A\n' },
  { name: 'an ARG before FROM', dockerfile: 'ARG B=base\nFROM $B\nENV A=1\n' },
  {
    name: 'an ARG before FROM that a stage declares',
    dockerfile: 'ARG V=1\nFROM scratch\nARG V\nENV A=$V\n',
    differs: rootDirectory,
  },
  {
    name: 'an ARG before FROM that no stage declares',
    dockerfile: 'ARG V=1\nFROM scratch\nENV A=x$V\n',
    differs: rootDirectory,
  },
  {
    name: 'a build argument',
    dockerfile: 'FROM scratch\nARG V=1\nENV A=$V\n',
    arguments: { V: 'given' },
    differs: rootDirectory,
  },
  {
    name: 'triggers of ONBUILD, which only the next stage has',
    dockerfile: 'FROM base AS one\nONBUILD ENV A=1\nONBUILD LABEL b=2\nFROM one AS two\nFROM two\nENV C=3\n',
  },
  {
    name: 'another escape character',
    dockerfile: '# escape=`\nFROM base\nENV A=1 `\n    B=c:\\d\n',
    differs: {
      what: /^Env:.*"B=c:\\\\d"\] \| /,
      why: 'Dockerfile reference, "escape": with another escape character a backslash is one; buildah drops it',
    },
  },
  {
    name: 'a build argument that chooses the image',
    dockerfile: 'ARG B=nowhere.invalid/x\nFROM $B\n',
    arguments: { B: 'base' },
  },
  {
    name: 'a build argument after ENV of its name',
    dockerfile: 'FROM scratch\nENV V=env\nARG V=arg\nENV A=$V\n',
    arguments: { V: 'given' },
    differs: {
      what: /^WorkingDir:|^Env:/,
      why: 'Dockerfile reference, "Using ARG variables": the later one counts here, as BuildKit has it',
    },
  },
];

export const configCases: readonly ConfigCase[] = [
  ...Object.entries(fromScratch).map(([name, body]) => ({
    name: `${name} FROM scratch`,
    dockerfile: `FROM scratch\n${body}\n`,
    differs: known[name] ?? rootDirectory,
  })),
  ...Object.entries(onBase).map(([name, body]) => ({
    name: `${name} on an image`,
    dockerfile: `FROM base\n${body}\n`,
    ...(known[name] === undefined ? {} : { differs: known[name] }),
  })),
  ...Object.entries(failing).map(([name, body]) => ({
    name: `${name} is refused`,
    dockerfile: `FROM scratch\n${body}\n`,
    fails: true as const,
  })),
  ...stages,
];
