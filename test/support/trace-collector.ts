import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { gunzipSync } from 'node:zlib';

/** A span as a collector got it. */
export interface CollectedSpan {
  readonly trace: string;
  readonly id: string;
  readonly parent: string;
  readonly name: string;
  /** Nanoseconds since 1970. */
  readonly start: bigint;
  readonly end: bigint;
  readonly attributes: Readonly<Record<string, string | bigint | number | boolean>>;
  readonly failed: boolean;
  readonly service: string;
}

export interface TraceCollector extends AsyncDisposable {
  readonly url: string;
  readonly spans: readonly CollectedSpan[];
  readonly headers: readonly NodeJS.Dict<string | string[]>[];
}

/**
 * Takes traces over OTLP/HTTP in its binary form, as collectors do.
 *
 * @param status what it answers with.
 */
export async function startCollector(status = 200): Promise<TraceCollector> {
  const spans: CollectedSpan[] = [];
  const headers: NodeJS.Dict<string | string[]>[] = [];
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on('data', (chunk: Buffer) => chunks.push(chunk));
    request.on('end', () => {
      const body = Buffer.concat(chunks);
      headers.push({ ...request.headers, path: request.url });
      if (status === 200)
        spans.push(...spansOf(request.headers['content-encoding'] === 'gzip' ? gunzipSync(body) : body));
      response.writeHead(status, { 'content-type': 'application/x-protobuf' }).end();
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans,
    headers,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

/** A field of a message in protocol buffers' wire format: its number, and what it has. */
type Field = readonly [number: number, value: bigint | Buffer];

function fieldsOf(message: Buffer): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = message.readUInt8(at++);
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const take = (length: number): Buffer => message.subarray(at, (at += length));
  while (at < message.length) {
    const tag = Number(varint());
    const readers: Readonly<Record<number, () => bigint | Buffer>> = {
      0: varint,
      1: () => take(8).readBigUInt64LE(),
      2: () => take(Number(varint())),
      5: () => BigInt(take(4).readUInt32LE()),
    };
    const read = readers[tag & 7];
    if (read === undefined) throw new Error(`wire type ${tag & 7}`);
    fields.push([tag >> 3, read()]);
  }
  return fields;
}

const all = (message: Buffer, number: number): Buffer[] =>
  fieldsOf(message).flatMap(([field, value]) =>
    field === number && typeof value !== 'bigint' ? [value] : [],
  );
const one = (message: Buffer, number: number): Buffer => all(message, number)[0] ?? Buffer.alloc(0);
const integer = (message: Buffer, number: number): bigint => {
  const found = fieldsOf(message).find(([field]) => field === number)?.[1];
  return typeof found === 'bigint' ? found : 0n;
};

/** The spans of an ExportTraceServiceRequest, see opentelemetry/proto/trace/v1/trace.proto. */
function spansOf(request: Buffer): CollectedSpan[] {
  return all(request, 1).flatMap((resource) => {
    const { 'service.name': service = '' } = attributesOf(one(resource, 1), 1);
    return all(resource, 2).flatMap((scope) =>
      all(scope, 2).map((span) => ({
        trace: one(span, 1).toString('hex'),
        id: one(span, 2).toString('hex'),
        parent: one(span, 4).toString('hex'),
        name: String(one(span, 5)),
        start: integer(span, 7),
        end: integer(span, 8),
        attributes: attributesOf(span, 9),
        failed: integer(one(span, 15), 3) === 2n,
        service: String(service),
      })),
    );
  });
}

function attributesOf(message: Buffer, number: number): CollectedSpan['attributes'] {
  return Object.fromEntries(
    all(message, number).map((pair) => {
      const [[kind, value] = [1, Buffer.alloc(0)]] = fieldsOf(one(pair, 2));
      return [String(one(pair, 1)), kind === 1 ? String(value) : typeof value === 'bigint' ? value : '…'];
    }),
  );
}
