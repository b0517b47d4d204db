import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { pushTestImage } from '../test/support/images.ts';
import { startRegistry } from '../test/support/registry.ts';
import { highWaterMark, root } from './support.ts';

/** Peak resident memory of the daemon while it pulls and unpacks eight images of 700 MB at once. */
const mebibyte = 1024 ** 2;
const images = 8;
const layersPerImage = 7;
const layerSize = 100 * mebibyte;

/** A layer of one file, compressed so that it is quickly made; what reads it works as hard for any other. */
async function writeLayer(file: string, name: string): Promise<void> {
  const header = Buffer.alloc(512);
  header.write(name, 0);
  header.write('0000644\0', 100);
  header.write('0000000\0'.repeat(2), 108);
  header.write(`${layerSize.toString(8).padStart(11, '0')}\0${'0'.padStart(11, '0')}\0`, 124);
  header.write('        0', 148);
  header.write('ustar\0' + '00', 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  const block = randomBytes(mebibyte);
  function* content(): Generator<Buffer> {
    yield header;
    for (let count = 0; count < layerSize / mebibyte; count++) {
      createHash('sha256').update(`${name} ${count}`).digest().copy(block);
      yield Buffer.from(block);
    }
    yield Buffer.alloc(1024);
  }
  await pipeline(Readable.from(content()), createGzip({ level: 0 }), createWriteStream(file));
}

/** Runs the daemon until all images are warm. */
async function warmAll(config: string, volume: string): Promise<{ peakMemory: number; seconds: number }> {
  const started = performance.now();
  const args = [
    'daemon',
    '--config',
    config,
    '--cache-dir',
    volume,
    '--log-format',
    'json',
    '--listen',
    'off',
  ];
  const child = spawn(join(root, 'bin', 'warmer'), args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  let pulled = 0;
  const done = Promise.withResolvers<void>();
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    log += text;
    pulled = log.match(/"outcome":"pulled"/g)?.length ?? 0;
    if (pulled === images || log.includes('"outcome":"failed"')) done.resolve();
  });
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  await Promise.race([done.promise, ended]);
  const peakMemory = highWaterMark(child.pid ?? 0);
  const seconds = (performance.now() - started) / 1000;
  child.kill('SIGTERM');
  await ended;
  if (pulled < images) throw new Error(log);
  return { peakMemory, seconds };
}

const directory = await mkdtemp(join(tmpdir(), 'kiln-bench-'));
const registry = await startRegistry();
try {
  const names: string[] = [];
  for (let image = 0; image < images; image++) {
    const scratch = join(directory, `image${image}`);
    await mkdir(scratch);
    const layers = Array.from({ length: layersPerImage }, (_, layer) =>
      join(scratch, `layer${layer}.tar.gz`),
    );
    for (const [layer, file] of layers.entries()) await writeLayer(file, `image${image}-layer${layer}`);
    names.push(`${registry.host}/large${image}:1`);
    await pushTestImage(scratch, names.at(-1) ?? '', { layers });
    await rm(scratch, { recursive: true });
  }
  for (const [what, concurrency] of [
    ['the default: six layers fetched and two unpacked at a time', `{images: ${images}}`],
    ['all layers of all images at once, as before', `{images: ${images}, layers: 64, unpack: 64}`],
  ] as const) {
    const config = join(directory, 'warmer.yaml');
    await writeFile(
      config,
      `images: [${names.join(', ')}]\nconcurrency: ${concurrency}\nlisten: {socket: false}\n`,
    );
    const volume = join(directory, 'volume');
    const { peakMemory, seconds } = await warmAll(config, volume);
    await rm(volume, { recursive: true });
    console.log(
      `eight images of 700 MB at once, ${what}: ${(peakMemory / mebibyte).toFixed(0)} MiB, ${seconds.toFixed(0)} s (goal 250)`,
    );
  }
} finally {
  await registry[Symbol.asyncDispose]();
  await rm(directory, { recursive: true, force: true });
}
