import type { Descriptor, DiffID, Digest, Reference } from '../oci/index.ts';
import { messageOf } from '../support/index.ts';
import { corrupt } from './blobs.ts';
import { downloadBlob } from './download.ts';
import { Lease, LeaseSet } from './leases.ts';
import { configOf, type Listed, loadListed } from './listed.ts';
import type { VolumeParts } from './parts.ts';
import { layersOf, readImage } from './stored-image.ts';
import type { Damage, VerifyOptions } from './verify.ts';

type Means = NonNullable<VerifyOptions['repair']>;

/**
 * Heals what a verification found, on a volume in use. Whatever it found may be otherwise by now: repaired by somebody
 * else, pulled anew, pruned; so each repair looks again.
 */
export class Repairs {
  readonly #parts: VolumeParts;
  readonly #means: Means;
  readonly #signal: AbortSignal | undefined;

  constructor(parts: VolumeParts, means: Means, signal: AbortSignal | undefined) {
    this.#parts = parts;
    this.#means = means;
    this.#signal = signal;
  }

  /**
   * Fetches a manifest and a configuration that cannot be read. A prune that is under way did not know what such an image
   * needs. So it is entered anew, as if it had been pulled: everything is leased until `index.json` has been written.
   */
  async repairDocuments({ reference, descriptor, image }: Listed): Promise<void> {
    if (reference === undefined || image !== undefined) return;
    const { layout } = this.#parts;
    const { blobs } = layout;
    await using leases = new LeaseSet();
    if ((await blobs.stat(descriptor.digest)) === undefined) {
      const source = this.#means.client.source(reference);
      const found = await source.getManifest(descriptor.digest, this.#signal);
      if (found === undefined) return;
      leases.add(await blobs.putLeased(descriptor.mediaType, found.bytes));
    }
    const config = await configOf(layout, descriptor);
    if (config === undefined) return;
    await this.#fetch(reference, config);
    const { manifest } = await readImage(layout, descriptor);
    for (const { digest } of [descriptor, manifest.config, ...manifest.layers]) {
      const lease = await Lease.tryAcquire(blobs.path(digest));
      if (lease !== undefined) leases.add(lease);
    }
    await layout.updateIndex((entries) => entries);
  }

  /**
   * Repairs one damage, and notes in it what came of that.
   *
   * @param images those that need it.
   * @param identity of a layer: what was found to be altered.
   */
  async repair(damage: Damage, images: readonly Listed[], identity: string | undefined): Promise<void> {
    try {
      damage.outcome = await (damage.kind === 'blob'
        ? this.#repairBlob(damage.digest, images)
        : this.#repairLayer(damage.digest as DiffID, images, identity));
    } catch (error) {
      this.#signal?.throwIfAborted();
      if ((await this.#stillListed(images)).length === 0) damage.outcome = 'removed';
      else {
        damage.outcome = 'failed';
        damage.message = messageOf(error);
      }
    }
  }

  async #repairBlob(digest: Digest, images: readonly Listed[]): Promise<Damage['outcome']> {
    const { blobs } = this.#parts.layout;
    // An altered blob was dropped when it was read; another process, or the documents' repair, may have brought it back.
    if (await blobs.verify(digest, this.#signal)) return 'repaired';
    const needed = await this.#stillListed(images);
    let failure: Error | undefined;
    for (const { reference, image, config } of needed) {
      const parts = [config ?? [], image?.manifest.config ?? [], image?.manifest.layers ?? []].flat();
      const wanted = parts.find((part) => part.digest === digest);
      if (reference === undefined || wanted === undefined) continue;
      try {
        await this.#fetch(reference, wanted);
        return 'repaired';
      } catch (error) {
        this.#signal?.throwIfAborted();
        failure = error instanceof Error ? error : new Error(messageOf(error));
      }
    }
    if (failure !== undefined) throw failure;
    return needed.length === 0 ? 'removed' : 'failed';
  }

  async #fetch(reference: Reference, descriptor: Descriptor): Promise<void> {
    const { blobs } = this.#parts.layout;
    const source = this.#means.client.source(reference);
    const fetched = await downloadBlob(
      blobs,
      descriptor,
      (offset, signal) => source.openBlob(descriptor, signal, offset),
      this.#signal,
    );
    // Somebody else brought it; or it is as long as it should be, and nobody could drop it.
    if (fetched === 0 && !(await blobs.verify(descriptor.digest, this.#signal)))
      throw corrupt(descriptor.digest, blobs.path(descriptor.digest));
  }

  /** Unpacks a layer again. A running build that has it mounted keeps what it has: taking it away would only break more. */
  async #repairLayer(
    diffID: DiffID,
    images: readonly Listed[],
    identity: string | undefined,
  ): Promise<Damage['outcome']> {
    const { layers, layout } = this.#parts;
    const removed = await layers.remove(diffID, identity);
    if (removed === 'in_use') return 'in_use';
    // Whoever replaced it has unpacked it anew.
    if (removed === 'replaced' && (await layers.serves(diffID))) return 'repaired';
    for (const { image } of await this.#stillListed(images)) {
      const layer =
        image === undefined ? undefined : layersOf(layout, image).find((own) => own.diffID === diffID);
      if (layer === undefined) continue;
      await this.#means.unpacker.ensure(layer, this.#signal);
      return 'repaired';
    }
    return 'removed';
  }

  async #stillListed(images: readonly Listed[]): Promise<Listed[]> {
    return images.filter(await loadListed(this.#parts.layout));
  }
}
