/** Names of variables that are likely to hold a secret. */
const secretName =
  /(?:^|_)(?:SECRETS?|TOKENS?|PASS|PASSWD|PASSWORDS?|PASSPHRASE|PW|CREDENTIALS?|CREDS?|AUTH|COOKIE|SESSION|PAT|DSN)(?:_|$)|(?:API|ACCESS|PRIVATE|SIGNING|ENCRYPTION|SSH|LICENSE|DEPLOY|ACCOUNT|STORAGE)_?KEY|KEY$|(?:TOKEN|SECRET|PASSWORD)$/i;

/** Values that are likely to be one, whatever they are called. */
const secretValues: readonly RegExp[] = [
  /-----BEGIN [A-Z ]*PRIVATE KEY-----/,
  /[a-z][a-z0-9+.-]*:\/\/[^/\s:@]*:[^/\s@]+@/i,
  /\b(?:AKIA|ASIA)[A-Z0-9]{16}\b/,
  /\b(?:gh[opsur]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|npm_[A-Za-z0-9]{30,})/,
  /\b(?:xox[abpr]-[A-Za-z0-9-]{10,}|sk-[A-Za-z0-9_-]{20,}|dckr_pat_[A-Za-z0-9_-]{20,}|hvs\.[A-Za-z0-9_-]{20,}|AIza[A-Za-z0-9_-]{30,})/,
  /\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\./,
  /\b(?:Bearer|Basic)\s+[A-Za-z0-9+/=._-]{12,}/i,
];

/** Build arguments that may be written down, and the names of those that look like secrets. */
export interface ShownArguments {
  readonly shown: Readonly<Record<string, string>>;
  readonly hidden: readonly string[];
}

/** Tells build arguments that look like secrets from the others. When in doubt it is a secret. */
export function hideSecrets(values: ReadonlyMap<string, string>): ShownArguments {
  const sorted = [...values].sort(([a], [b]) => (a < b ? -1 : 1));
  const isSecret = ([name, value]: readonly [string, string]): boolean =>
    secretName.test(name) || secretValues.some((pattern) => pattern.test(value)) || looksRandom(value);
  return {
    shown: Object.fromEntries(sorted.filter((pair) => !isSecret(pair))),
    hidden: sorted.filter(isSecret).map(([name]) => name),
  };
}

/** A long word of small and capital letters and digits; commits and digests have no capitals. */
function looksRandom(value: string): boolean {
  return value
    .split(/[^A-Za-z0-9+/_=-]+/)
    .some((word) => word.length >= 24 && /[a-z]/.test(word) && /[A-Z]/.test(word) && /[0-9]/.test(word));
}

/** Text without what in it is likely to be a secret. */
export function hideInText(text: string): string {
  return secretValues.reduce(
    (shown, pattern) => shown.replace(new RegExp(pattern, `g${pattern.flags}`), '***'),
    text,
  );
}
