import { existsSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';

/** Where the Dockerfile is, as kaniko looks for it: as given, or else inside the context. */
export function dockerfilePath(path: string, context: string): string {
  const inside = join(context, path);
  if (isAbsolute(path) || existsSync(inside) || !existsSync(path)) return isAbsolute(path) ? path : inside;
  return resolve(path);
}
