import { BuildError } from '../src/support/index.ts';

/** The error for what the Dockerfile reference has and this version cannot do. */
export function unsupported(
  what: string,
  where: string,
  remedy = 'Rewrite the line without it.',
): BuildError {
  return new BuildError(`${what} is not supported by this version`, {
    code: 'E_DOCKERFILE_UNSUPPORTED',
    where,
    remedy,
  });
}
