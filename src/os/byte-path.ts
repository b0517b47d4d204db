/**
 * A path as bytes, one character a byte: names of files need not be UTF-8, and Node's own strings cannot hold those that
 * are not. Such strings can be joined, split and sorted (by bytes) like any others.
 */
export type BytePath = string;

/** The bytes of a path that is text. */
export function toBytePath(text: string | Buffer): BytePath {
  return (typeof text === 'string' ? Buffer.from(text) : text).toString('latin1');
}

/** What the calls of `node:fs` take. */
export function pathBuffer(path: BytePath): Buffer {
  return Buffer.from(path, 'latin1');
}

/** The path for people and for patterns; bytes that are no UTF-8 are replaced. */
export function pathText(path: BytePath): string {
  return pathBuffer(path).toString();
}

/** An absolute path, given as a string of UTF-8, as it is named within a tree: without slashes around it. */
export function treePath(path: string): BytePath {
  return toBytePath(path.replace(/^\/+|\/+$/g, ''));
}
