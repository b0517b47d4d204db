import { UsageError } from '../support/index.ts';
import type { Platform } from './types.ts';

const architectureNames: Readonly<Record<string, Pick<Platform, 'architecture' | 'variant'>>> = {
  x86_64: { architecture: 'amd64' },
  'x86-64': { architecture: 'amd64' },
  x64: { architecture: 'amd64' },
  i386: { architecture: '386' },
  ia32: { architecture: '386' },
  aarch64: { architecture: 'arm64' },
  armhf: { architecture: 'arm', variant: 'v7' },
  armel: { architecture: 'arm', variant: 'v6' },
};

/** The platform of the machine this process runs on. */
export function hostPlatform(): Platform {
  const name = process.arch as string;
  return normalizePlatform({ os: 'linux', architecture: name, ...(name === 'arm' ? { variant: 'v7' } : {}) });
}

/**
 * Parses `os/architecture[/variant]`, or an architecture alone, in the words that Docker accepts.
 *
 * @throws UsageError for anything else.
 */
export function parsePlatform(text: string): Platform {
  const parts = text.toLowerCase().split('/');
  if (parts.length > 3 || parts.some((part) => !/^[a-z0-9_.-]+$/.test(part)))
    throw new UsageError(`invalid platform "${text}"`, {
      remedy: 'Write it as os/architecture[/variant], for example linux/arm64.',
    });
  if (parts.length === 1) {
    const only = parts[0] ?? '';
    if (only === 'linux') return { ...hostPlatform(), os: 'linux' };
    return normalizePlatform({ os: 'linux', architecture: only });
  }
  const [os = '', architecture = '', variant] = parts;
  return normalizePlatform({ os, architecture, ...(variant === undefined ? {} : { variant }) });
}

/** As {@link parsePlatform}, of what an image can be built for. @throws UsageError also for Windows. */
export function parseBuildPlatform(text: string): Platform {
  const platform = parsePlatform(text);
  if (platform.os !== 'windows') return platform;
  throw new UsageError(`images for ${formatPlatform(platform)} cannot be built`, {
    code: 'E_PLATFORM_UNSUPPORTED',
    remedy: 'Their paths and accounts are not those of Linux: use a builder that runs on Windows.',
  });
}

/** One spelling for each platform: `x86_64` → `amd64`, `arm64/v8` → `arm64`, `arm` → `arm/v7`. */
export function normalizePlatform(platform: Platform): Platform {
  const known = architectureNames[platform.architecture];
  const architecture = known?.architecture ?? platform.architecture;
  let variant = platform.variant ?? known?.variant;
  if (architecture === 'arm64' && variant === 'v8') variant = undefined;
  if (architecture === 'amd64' && variant === 'v1') variant = undefined;
  if (architecture === 'arm' && variant === undefined) variant = 'v7';
  return { os: platform.os, architecture, ...(variant === undefined || variant === '' ? {} : { variant }) };
}

export function formatPlatform(platform: Platform): string {
  const { os, architecture, variant } = platform;
  return variant === undefined ? `${os}/${architecture}` : `${os}/${architecture}/${variant}`;
}

/** True when an image of platform `offered` is what was asked for by `wanted`. */
export function platformMatches(offered: Platform, wanted: Platform): boolean {
  return formatPlatform(normalizePlatform(offered)) === formatPlatform(normalizePlatform(wanted));
}

/**
 * What an image may be for so that it runs on a platform, the best first: newer processors run what is for older ones
 * (containerd's `platforms.Only`, by which BuildKit chooses from an index).
 */
export function compatiblePlatforms(wanted: Platform): Platform[] {
  const { os, architecture, variant } = normalizePlatform(wanted);
  const version = Number(/^v([0-9]+)$/.exec(variant ?? '')?.[1] ?? NaN);
  const older = (name: string, from: number, to: number): Platform[] =>
    Array.from({ length: Math.max(0, from - to + 1) }, (_, index) =>
      normalizePlatform({ os, architecture: name, variant: `v${from - index}` }),
    );
  const itself = normalizePlatform(wanted);
  if (architecture === 'amd64')
    return [itself, ...older('amd64', version - 1, 1), { os, architecture: '386' }];
  if (architecture === 'arm') return [itself, ...older('arm', version - 1, 5)];
  if (architecture !== 'arm64') return [itself];
  const plain = variant === undefined ? [] : [{ os, architecture }];
  return [itself, ...plain, ...older('arm', 8, 5)];
}

/** Whether an image of platform `offered` runs on `wanted`. */
export function platformServes(offered: Platform, wanted: Platform): boolean {
  return compatiblePlatforms(wanted).some((platform) => platformMatches(offered, platform));
}

/** Of several entries, the one for a platform; otherwise the best that runs on it. Entries without a platform are none. */
export function chooseByPlatform<Entry extends { readonly platform?: Platform }>(
  entries: readonly Entry[],
  wanted: Platform,
): Entry | undefined {
  for (const platform of compatiblePlatforms(wanted)) {
    const found = entries.find(
      (entry) => entry.platform != null && platformMatches(entry.platform, platform),
    );
    if (found !== undefined) return found;
  }
  return undefined;
}
