import type { KanikoFlag } from '../src/cli/index.ts';

/** Every flag of kaniko's warmer 1.24, and what becomes of it. docs/kaniko.md shows this table; `npm run flags` writes it there. */
export const warmerFlags: readonly KanikoFlag[] = [
  { name: 'build-arg', verdict: 'same' },
  { name: 'cache-dir', verdict: 'differs', remark: 'images are unpacked there, so that a build need not' },
  {
    name: 'cache-ttl',
    verdict: 'differs',
    remark:
      "how long an answer about a tag counts: `0s`, asking each time. kaniko's says how long an image counts, and does not renew it",
  },
  { name: 'customPlatform', verdict: 'respelt', remark: 'platform' },
  { name: 'dockerfile', verdict: 'differs', remark: 'also several' },
  { name: 'force', verdict: 'not needed', takes: 'boolean', remark: 'tags are asked for each time' },
  { name: 'image', verdict: 'same' },
  {
    name: 'insecure-pull',
    verdict: 'differs',
    remark: 'HTTPS first, with any certificate; plain HTTP if there is none',
  },
  { name: 'insecure-registry', verdict: 'same' },
  { name: 'log-format', verdict: 'same' },
  { name: 'log-timestamp', verdict: 'same' },
  { name: 'registry-certificate', verdict: 'same' },
  { name: 'registry-client-cert', verdict: 'same' },
  { name: 'registry-map', verdict: 'same' },
  { name: 'registry-mirror', verdict: 'same' },
  { name: 'skip-default-registry-fallback', verdict: 'same' },
  { name: 'skip-tls-verify-pull', verdict: 'same' },
  { name: 'skip-tls-verify-registry', verdict: 'same' },
  { name: 'verbosity', verdict: 'same' },
];
