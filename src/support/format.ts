/** Bytes in decimal units, as registries and cloud bills count them: `52.3 MB`. */
export function formatBytes(bytes: number): string {
  if (bytes < 999.5) return `${Math.round(bytes)} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = '';
  for (const next of units) {
    if (value < 999.5 && unit !== '') break;
    value /= 1000;
    unit = next;
  }
  return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)} ${unit}`;
}

/** Seconds for a person: `0.42s`, `12.3s`, `3m05s`. */
export function formatSeconds(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(2)}s`;
  if (seconds < 60) return `${seconds.toFixed(1)}s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)}m${String(whole % 60).padStart(2, '0')}s`;
}

/** A time for a person, coarsely: `3 hours`; `less than a second` at the least. */
export function formatDuration(seconds: number): string {
  const steps: readonly (readonly [number, string])[] = [
    [86400, 'day'],
    [3600, 'hour'],
    [60, 'minute'],
    [1, 'second'],
  ];
  for (const [size, name] of steps) {
    const count = Math.floor(seconds / size);
    if (count >= 1) return `${count} ${name}${count === 1 ? '' : 's'}`;
  }
  return 'less than a second';
}

/** How long ago a moment was, coarsely: `3 hours ago`. */
export function formatAge(from: Date, now: Date = new Date()): string {
  const seconds = Math.max(0, (now.getTime() - from.getTime()) / 1000);
  return seconds < 1 ? 'just now' : `${formatDuration(seconds)} ago`;
}

/** Lays rows out in columns as wide as their widest cell. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((name) => name.length);
  for (const row of rows)
    for (const [column, cell] of row.entries())
      if (cell.length > (widths[column] ?? 0)) widths[column] = cell.length;
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => (column === row.length - 1 ? cell : cell.padEnd(widths[column] ?? 0)))
      .join('   ');
  return [header, ...rows].map(line).join('\n') + '\n';
}

/** Cuts digests in a text to the twelve digits that people compare. */
export function shortenDigests(text: string): string {
  return text.replace(/sha256:([0-9a-f]{12})[0-9a-f]{52}/g, 'sha256:$1');
}

/** A text of somebody else's on one line: control characters, which could steer a terminal, are blanks. */
export function printable(text: string): string {
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, ' ');
}

/**
 * A text with the credentials hidden that addresses in it have: user and password before the host, and what looks like a
 * secret among the query.
 *
 * @param hide what stands in the place of a secret.
 */
export function hideCredentials(text: string, hide: (secret: string) => string = () => '***'): string {
  return text
    .replace(
      /(\bhttps?:\/\/)([^/?#@\s]+)(?=@)/gi,
      (_all, scheme: string, login: string) => scheme + hide(login),
    )
    .replace(
      /(:\/\/[^/?#@:\s]*:)([^/?#@\s]+)(?=@)/g,
      (_all, before: string, password: string) => before + hide(password),
    )
    .replace(
      /([?&][^=&#\s]*(?:token|signature|sig|secret|password|key|credential)[^=&#\s]*=)([^&#\s"']+)/gi,
      (_all, name: string, value: string) => name + hide(value),
    );
}
