import { formatPlatform, formatReference, type Reference } from '../../src/oci/index.ts';
import { RegistryClient } from '../../src/registry/index.ts';
import { EnvironmentError, Progress, SingleFlight } from '../../src/support/index.ts';
import { type PullResult, Volume } from '../../src/volume/index.ts';
import { startServers } from '../../warmer/daemon/servers.ts';
import type { Ensured, Warming } from '../../warmer/daemon/types.ts';
import { FakeWarming } from './warming.ts';

/** A `Warming` that pulls for builds what `allows` allows, and does nothing by itself. */
export class VolumeWarming extends FakeWarming {
  allows: (reference: Reference) => boolean = () => true;
  readonly #volume: Volume;
  readonly #client: RegistryClient;
  readonly #flights = new SingleFlight<string, PullResult>();

  constructor(volume: Volume, client: RegistryClient) {
    super();
    this.#volume = volume;
    this.#client = client;
  }

  override async ensure(...[reference, platform, progress]: Parameters<Warming['ensure']>): Promise<Ensured> {
    if (!this.allows(reference))
      throw new EnvironmentError('its configuration does not allow it', { code: 'E_NOT_ALLOWED' });
    const key = `${formatReference(reference)} ${formatPlatform(platform)}`;
    let mine = false as boolean;
    progress(0, 1);
    // The pull does not end with whoever asked first.
    const { image, outcome } = await this.#flights.run(key, () => {
      mine = true;
      return this.#volume.pull(this.#client, reference, platform);
    });
    const lease = await this.#volume.acquireLayers(image.layers);
    if (lease === undefined) throw new Error('the volume is writable');
    return {
      digest: image.descriptor.digest,
      outcome: outcome === 'fresh' ? 'warm' : mine ? 'pulled' : 'joined',
      lease,
    };
  }
}

/** Serves the socket of a volume in this process. */
export async function serveVolume(
  directory: string,
): Promise<AsyncDisposable & { readonly warming: VolumeWarming }> {
  await using cleanup = new AsyncDisposableStack();
  const volume = cleanup.use(await Volume.open(directory, { access: 'read-write' }));
  const client = cleanup.use(new RegistryClient());
  const warming = new VolumeWarming(volume, client);
  cleanup.use(await startServers({ warming, directory, socket: true, listen: [], progress: new Progress() }));
  const open = cleanup.move();
  return { warming, [Symbol.asyncDispose]: () => open.disposeAsync() };
}
