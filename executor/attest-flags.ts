import type { Option } from 'commander';
import { listFlag } from '../src/cli/index.ts';
import { UsageError } from '../src/support/index.ts';

/** What is said of an image beside it. */
export interface AttestOptions {
  readonly provenance: { readonly mode: 'min' | 'max'; readonly builderID: string } | undefined;
  readonly sbom: boolean;
}

/** Who says so when nothing else is given. */
const defaultBuilder = 'urn:kiln:executor';
const forms = 'Write it as type=provenance,mode=min, type=provenance,mode=max or type=sbom.';

export function attestFlag(): Option {
  return listFlag('--attest <type>', 'attach an attestation: type=provenance,mode=min|max, or type=sbom');
}

/** The form is BuildKit's; the type alone will do. @throws UsageError. */
export function parseAttestations(values: readonly string[]): AttestOptions {
  let options: AttestOptions = { provenance: undefined, sbom: false };
  for (const value of values) {
    const { type, ...attributes } = parseAttributes(value);
    const disabled = takeBoolean(attributes, 'disabled', value);
    if (type === 'provenance') {
      const {
        mode = 'min',
        'builder-id': builderID = defaultBuilder,
        version = 'v1',
        ...others
      } = attributes;
      refuseOthers(others, value);
      if (mode !== 'min' && mode !== 'max')
        throw new UsageError(`--attest ${value}: there is no mode ${mode}`, { remedy: forms });
      if (version !== 'v1')
        throw new UsageError(`--attest ${value}: only version v1 of SLSA provenance is written`, {});
      options = { ...options, provenance: disabled ? undefined : { mode, builderID } };
    } else if (type === 'sbom') {
      refuseOthers(attributes, value);
      options = { ...options, sbom: !disabled };
    } else throw new UsageError(`--attest ${value}: there is no type ${type ?? ''}`, { remedy: forms });
  }
  return options;
}

function parseAttributes(value: string): Record<string, string> {
  const attributes: Record<string, string> = {};
  for (const part of value.split(',')) {
    const equals = part.indexOf('=');
    if (equals < 0 && attributes.type === undefined) attributes.type = part;
    else if (equals <= 0) throw new UsageError(`--attest ${value} cannot be understood`, { remedy: forms });
    else attributes[part.slice(0, equals)] = part.slice(equals + 1);
  }
  return attributes;
}

function takeBoolean(attributes: Record<string, string>, name: string, value: string): boolean {
  const text = attributes[name];
  Reflect.deleteProperty(attributes, name);
  if (text === undefined || text === 'false') return false;
  if (text === 'true') return true;
  throw new UsageError(`--attest ${value}: ${name} must be true or false`, {});
}

function refuseOthers(attributes: Readonly<Record<string, string>>, value: string): void {
  const [name] = Object.keys(attributes);
  if (name !== undefined) throw new UsageError(`--attest ${value}: ${name} is not known`, { remedy: forms });
}
