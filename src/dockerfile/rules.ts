/** A build check, by the name and with the page that BuildKit gives it. */
export interface CheckRule {
  readonly name: string;
  /** What to do about it. */
  readonly remedy: string;
  /** Off unless asked for. */
  readonly experimental?: boolean;
}

/** All build checks (Docker's "Build checks" reference), and how each is mended. */
export const checkRules = {
  ConsistentInstructionCasing: { remedy: 'Write all instructions in capitals, or all in small letters.' },
  CopyIgnoredFile: { remedy: 'Take the path out of .dockerignore, or do not copy it.' },
  DuplicateStageName: { remedy: 'Give every stage a name of its own.' },
  ExposeInvalidFormat: {
    remedy: 'Write the port of the container only; host ports are chosen when it runs.',
  },
  ExposeProtoCasing: { remedy: 'Write the protocol in small letters.' },
  FromAsCasing: { remedy: 'Write FROM and AS in the same case.' },
  FromPlatformFlagConstDisallowed: {
    remedy: 'Use $BUILDPLATFORM or $TARGETPLATFORM, or name the platform in the stage.',
  },
  InvalidBaseImagePlatform: { remedy: 'Name an image of the platform that is built for.' },
  InvalidDefaultArgInFrom: { remedy: 'Give the ARG a default with which FROM names an image.' },
  InvalidDefinitionDescription: {
    remedy: 'Begin the comment with the name, or put an empty comment line after it.',
    experimental: true,
  },
  JSONArgsRecommended: { remedy: 'Write the command as a JSON list, so that it gets the signals.' },
  LegacyKeyValueFormat: { remedy: 'Write name=value.' },
  MaintainerDeprecated: { remedy: 'Write LABEL org.opencontainers.image.authors=….' },
  MultipleInstructionsDisallowed: { remedy: 'Remove all but the last one.' },
  NoEmptyContinuation: { remedy: 'Remove the empty line.' },
  RedundantTargetPlatform: { remedy: 'Leave --platform out.' },
  ReservedStageName: { remedy: 'Give the stage another name.' },
  SecretsUsedInArgOrEnv: {
    remedy: 'Use RUN --mount=type=secret; ARG and ENV stay readable in the image.',
  },
  StageNameCasing: { remedy: 'Write the name in small letters.' },
  UndefinedArgInFrom: { remedy: 'Declare it with ARG before the first FROM.' },
  UndefinedVar: { remedy: 'Declare it with ARG or ENV before it is used.' },
  WorkdirRelativePath: { remedy: 'Begin with an absolute WORKDIR.' },
} as const satisfies Readonly<Record<string, Omit<CheckRule, 'name'>>>;

export type CheckName = keyof typeof checkRules;

/** The page that explains a rule. */
export function rulePage(name: CheckName): string {
  const words = name
    .replace(/([a-z])([A-Z])/g, '$1-$2')
    .replace(/([A-Z]+)([A-Z][a-z])/g, '$1-$2')
    .toLowerCase();
  return `https://docs.docker.com/go/dockerfile/rule/${words}/`;
}
