import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { DaemonGround } from '../support/daemon-ground.ts';
import { busyboxLayer, pushTestImage } from '../support/images.ts';
import { writeFiles } from '../support/programs.ts';
import type { SeededRandom } from '../support/random.ts';

const execute = promisify(execFile);

/** What a tag names from one moment to another; milliseconds of `performance.now`. */
export interface Version {
  /** The content of the file `/first` of its second layer and of `/second` of its third. */
  readonly text: string;
  readonly digest: string;
  /** SHA-256 of its file `/random`. */
  readonly random: string;
  readonly from: number;
  until: number;
}

/** Base images on a registry whose tags move. Each of their layers says which image and which version it belongs to. */
export class MovingBases {
  readonly count: number;
  readonly #ground: DaemonGround;
  readonly #busybox: string;
  readonly #versions: Version[][];

  private constructor(ground: DaemonGround, busybox: string, count: number) {
    this.#ground = ground;
    this.#busybox = busybox;
    this.count = count;
    this.#versions = Array.from({ length: count }, () => []);
  }

  static async push(ground: DaemonGround, count: number, random: SeededRandom): Promise<MovingBases> {
    const bases = new MovingBases(ground, await busyboxLayer(ground.directory), count);
    for (let number = 0; number < count; number += 1) await bases.move(number, random);
    return bases;
  }

  reference(number: number): string {
    return `${this.#ground.registry.host}/base-${number}:1`;
  }

  versions(number: number): readonly Version[] {
    return this.#versions[number] ?? [];
  }

  /** Gives a tag another image. */
  async move(number: number, random: SeededRandom): Promise<void> {
    const versions = this.#versions[number] as Version[];
    const text = `base ${number} version ${versions.length}`;
    const directory = this.#ground.path('base');
    const content = randomBytes(100_000 + random.below(1_500_000));
    const first = await this.#layer(join(directory, 'first'), { first: text });
    const second = await this.#layer(join(directory, 'second'), { second: text }, content);
    const from = performance.now();
    await pushTestImage(directory, this.reference(number), { layers: [this.#busybox, first, second] });
    const answer = await fetch(`http://${this.#ground.registry.host}/v2/base-${number}/manifests/1`, {
      method: 'HEAD',
      headers: { accept: 'application/vnd.oci.image.manifest.v1+json' },
    });
    const last = versions.at(-1);
    if (last !== undefined) last.until = performance.now();
    versions.push({
      text,
      digest: answer.headers.get('docker-content-digest') ?? '',
      random: createHash('sha256').update(content).digest('hex'),
      from,
      until: Infinity,
    });
    await rm(directory, { recursive: true });
  }

  async #layer(directory: string, files: Readonly<Record<string, string>>, random?: Buffer): Promise<string> {
    await writeFiles(join(directory, 'root'), files);
    if (random !== undefined) await writeFile(join(directory, 'root/random'), random);
    const file = join(directory, 'layer.tar.gz');
    await execute('tar', ['-C', join(directory, 'root'), '-czf', file, '.']);
    return file;
  }
}
