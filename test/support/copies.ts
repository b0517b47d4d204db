import type { CopyRequest, IgnoreRules } from '../../executor/context/index.ts';

/** What a COPY or ADD of a test says; everything else as the language has it by default. */
export interface Copy {
  readonly from: readonly string[];
  readonly to: string;
  readonly ignore?: IgnoreRules;
  readonly excludes?: IgnoreRules;
  readonly parents?: boolean;
  readonly files?: CopyRequest['files'];
  readonly chown?: string;
  readonly chmod?: number | string;
  readonly keepOwners?: boolean;
  readonly add?: boolean;
}

/** The request of a copy from `source`, which stands in line 3 of its Dockerfile. */
export function copyRequest(source: string, request: Copy): CopyRequest {
  const { from, to, ignore = [], excludes = [], parents = false, files = [], chown, chmod } = request;
  const where = 'Dockerfile:3';
  const query = {
    root: source,
    patterns: from,
    ignore,
    excludes,
    parents,
    where,
    treeName: 'the build context',
  };
  return {
    query: from.length === 0 ? undefined : query,
    files,
    destination: to,
    chown,
    chmod,
    keepOwners: request.keepOwners ?? false,
    unpackArchives: request.add ?? false,
    where,
  };
}
