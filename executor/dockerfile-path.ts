import { existsSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { standardInput } from './context/index.ts';

/** Where the Dockerfile is, as kaniko looks for it: as given, or else inside the context; `-` is standard input. */
export function dockerfilePath(path: string, context: string): string {
  if (path === standardInput) return path;
  const inside = join(context, path);
  if (isAbsolute(path) || existsSync(inside) || !existsSync(path)) return isAbsolute(path) ? path : inside;
  return resolve(path);
}
