/** One challenge of a WWW-Authenticate header (RFC 9110, 11.6.1). */
export interface Challenge {
  /** In lower case. */
  readonly scheme: string;
  readonly parameters: ReadonlyMap<string, string>;
}

/** Parses all challenges of WWW-Authenticate headers; what cannot be read ends the list. */
export function parseChallenges(headers: readonly string[]): Challenge[] {
  return headers.flatMap(parseHeader);
}

function parseHeader(header: string): Challenge[] {
  const challenges: { scheme: string; parameters: Map<string, string> }[] = [];
  const token = /^[\s,]*([A-Za-z0-9!#$%&'*+.^_`|~-]+)/;
  const parameter = /^\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))/;
  let rest = header;
  for (let match = token.exec(rest); match !== null; match = token.exec(rest)) {
    const name = (match[1] ?? '').toLowerCase();
    rest = rest.slice(match[0].length);
    const value = parameter.exec(rest);
    if (value === null) {
      challenges.push({ scheme: name, parameters: new Map() });
      continue;
    }
    rest = rest.slice(value[0].length);
    challenges.at(-1)?.parameters.set(name, (value[1] ?? value[2] ?? '').replace(/\\(.)/g, '$1'));
  }
  return challenges;
}
