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
