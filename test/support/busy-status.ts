import { digestOf } from '../../src/oci/index.ts';
import type { HitRateSample, PullRecord, WarmingImage, WarmingStatus } from '../../warmer/daemon/types.ts';
import { fakeImage, fakeStatus } from './warming.ts';

const names = [
  'docker.io/library/debian:bookworm-slim',
  'docker.io/library/node:24-bookworm',
  'docker.io/library/golang:1.25-alpine',
  'docker.io/library/python:3.13-slim',
  'docker.io/library/eclipse-temurin:21-jre-alpine',
  'ghcr.io/acme/platform/build-tools:2026.10',
  'ghcr.io/acme/platform/java-service-base:21.0.8-20260211',
  'quay.io/keycloak/keycloak:26.1',
  'registry.internal.example:5000/very/deeply/nested/group/of/teams/application-runtime:release-2026-02-11.4',
  'gcr.io/distroless/static-debian12:nonroot',
  'mcr.microsoft.com/dotnet/sdk:9.0',
  'public.ecr.aws/lambda/python:3.13',
];

/** Numbers that look random and are the same every time. */
function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** The status of a node with so many images, in every state there is. */
export function busyStatus(count: number, part: Partial<WarmingStatus> = {}): WarmingStatus {
  const random = randomFrom(count);
  const now = Date.now();
  const images = Array.from({ length: count }, (_, index) => image(index, random, now));
  return fakeStatus({
    startedAt: new Date(now - 9 * 86_400_000),
    ready: count < 1000,
    checks: [
      { name: 'configuration', ok: true, detail: 'in force' },
      { name: 'index', ok: true, detail: 'open' },
      { name: 'volume', ok: true, detail: 'writable' },
      {
        name: 'images',
        ok: count < 1000,
        detail: count < 1000 ? 'all are warm' : '12 configured images are not warm yet',
      },
    ],
    images,
    builds: Array.from({ length: Math.min(count, 3) }, (_, index) => ({
      build: `build-${index}`,
      label: `registry.example/team/service-${index}:1.${index}.0`,
      images: [{ reference: names[index] ?? '', platform: 'linux/amd64' }],
      since: new Date(now - 1000 * (20 + 95 * index)),
    })),
    pulls: Array.from({ length: Math.min(count * 2, 40) }, (_, index) => pull(index, random, now)),
    hitRate: hitRate(random, now),
    ...part,
  });
}

function image(index: number, random: () => number, now: number): WarmingImage {
  const base = names[index % names.length] ?? '';
  const reference = index < names.length ? base : `${base}-${index}`;
  const size = Math.round(20e6 + random() * 900e6);
  const common = {
    size,
    platform: index % 7 === 6 ? 'linux/arm64' : 'linux/amd64',
    pinned: index % 11 === 3,
    checkedAt: new Date(now - random() * 7_200_000),
    nextRefreshAt: index % 9 === 8 ? undefined : new Date(now + random() * 7_200_000),
    lastUsedAt: index % 5 === 4 ? undefined : new Date(now - random() * 30 * 86_400_000),
    uses: Math.round(random() * 400),
    usedBy: index < 3 ? [`registry.example/team/service-${index}:1.${index}.0`] : [],
    source:
      (['configured', 'configured', 'dockerfile', 'adopted', 'on-demand', 'unmanaged'] as const)[index % 6] ??
      'configured',
  };
  if (index === 1 || index % 23 === 22)
    return fakeImage(reference, {
      ...common,
      phase: 'pulling',
      transfer: { bytes: size * 0.37, total: size },
    });
  if (index % 29 === 28 || index === 4)
    return fakeImage(reference, {
      ...common,
      phase: 'failed',
      failures: 4,
      lastError: {
        code: 'E_REGISTRY_UNAVAILABLE',
        message:
          'HEAD https://registry-1.docker.io/v2/: the registry answered 429 (TOOMANYREQUESTS: You have reached your pull rate limit)',
        remedy: 'The registry limits requests; wait, log in, or use a mirror.',
        at: new Date(now - 240_000),
      },
    });
  if (index % 31 === 30)
    return fakeImage(reference, {
      ...common,
      phase: 'failed',
      digest: undefined,
      size: undefined,
      pulledAt: undefined,
      failures: 1,
      lastError: {
        code: 'E_MANIFEST_NOT_FOUND',
        message: `${reference} does not exist`,
        at: new Date(now - 60_000),
      },
    });
  if (index % 37 === 36)
    return fakeImage(reference, { ...common, phase: 'pending', digest: undefined, size: undefined });
  return fakeImage(reference, common);
}

function pull(index: number, random: () => number, now: number): PullRecord {
  const outcome =
    (['pulled', 'fresh', 'fresh', 'fresh', 'rate_limited', 'pulled', 'failed', 'fresh'] as const)[
      index % 8
    ] ?? 'fresh';
  return {
    reference: names[(index * 5) % names.length] ?? '',
    platform: 'linux/amd64',
    registry: 'docker.io',
    outcome,
    reason: (['schedule', 'build', 'schedule', 'start'] as const)[index % 4] ?? 'schedule',
    startedAt: new Date(now - index * 340_000 - 20_000),
    seconds: outcome === 'pulled' ? 4 + random() * 40 : 0.1 + random(),
    bytes: outcome === 'pulled' ? Math.round(random() * 300e6) : 0,
    ...(outcome === 'failed'
      ? { error: `the registry cannot be reached (${digestOf(String(index)).slice(7, 19)})` }
      : {}),
  };
}

function hitRate(random: () => number, now: number): HitRateSample[] {
  return Array.from({ length: 96 }, (_, index) => {
    const night = index % 96 > 60 && index % 96 < 74;
    const all = night ? (index % 5 === 0 ? 2 : 0) : Math.round(4 + random() * 30);
    const misses = Math.min(
      all,
      Math.round(random() * random() * (index > 20 && index < 26 ? all * 1.6 : all * 0.25)),
    );
    return { at: new Date(now - (96 - index) * 900_000), hits: all - misses, misses };
  });
}
