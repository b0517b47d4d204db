import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { jsonReporter } from '../../src/support/report-json.ts';
import { plainReporter } from '../../src/support/report-plain.ts';
import { TerminalReporter } from '../../src/support/report-terminal.ts';
import { Progress, type ProgressEvent, type ReportOptions, reportTo } from '../../src/support/index.ts';

const start = (step: string, text: string): ProgressEvent => ({ type: 'step-start', step, text });
const end = (step: string): ProgressEvent => ({ type: 'step-end', step, outcome: 'ran', seconds: 1.5 });
const output = (
  step: string,
  text: string | Uint8Array,
  stream: 'stdout' | 'stderr' = 'stdout',
): ProgressEvent => ({
  type: 'output',
  step,
  stream,
  data: typeof text === 'string' ? Buffer.from(text) : text,
});
const transfer = (id: string, bytes: number, done = false): ProgressEvent => ({
  type: 'transfer',
  id,
  direction: 'pull',
  label: `pulled ${id}`,
  bytes,
  total: 10_000_000,
  done,
});

// eslint-disable-next-line no-control-regex
const sequences = /(\x1b\[[0-9]*[A-Z]|\n)/;

/** A terminal that knows what the reporter uses: new lines, cursor up, and erase to the end. */
class Screen {
  readonly columns: number;
  readonly rows: number;
  lines: string[] = [''];
  #row = 0;

  constructor(columns = 60, rows = 20) {
    this.columns = columns;
    this.rows = rows;
  }

  write(data: string | Uint8Array): void {
    for (const part of Buffer.from(data).toString().split(sequences)) {
      const up = part.startsWith('\x1b') && part.endsWith('A') ? Number(part.slice(2, -1)) : undefined;
      if (up !== undefined) {
        // What has scrolled away cannot be reached again.
        assert.ok(up < this.rows && up <= this.#row, 'the cursor stays on the screen');
        this.#row -= up;
      } else if (part === '\x1b[J') this.lines = [...this.lines.slice(0, this.#row), ''];
      else if (part === '\n') this.lines[++this.#row] ??= '';
      else this.#put(part);
    }
  }

  /** Text that is too long goes on in the next line. */
  #put(text: string): void {
    this.lines[this.#row] = text.slice(0, this.columns);
    if (text.length <= this.columns) return;
    this.#row++;
    this.#put(text.slice(this.columns));
  }

  get text(): string[] {
    return this.lines.filter((line) => line !== '').map((line) => line.trimEnd());
  }
}

describe('progress on a terminal', () => {
  test('has a live line for each running step and transfer, with bytes and rate, below what is done', async () => {
    const screen = new Screen();
    using reporter = new TerminalReporter(screen);
    reporter.listener(start('[app 1/2]', 'RUN make'));
    reporter.listener(start('[web 1/1]', 'RUN build'));
    reporter.listener(transfer('base', 2_000_000));
    await sleep(350);
    reporter.listener(transfer('base', 4_000_000));
    await sleep(150);
    assert.deepEqual(screen.text.slice(0, 2), ['[app 1/2] RUN make', '[web 1/1] RUN build']);
    const [app, web, base, ...rest] = screen.text.slice(2);
    assert.match(app ?? '', /^\[app 1\/2\] RUN make +[0-9]\.[0-9]{2}s$/);
    assert.match(web ?? '', /^\[web 1\/1\] RUN build +[0-9]\.[0-9]{2}s$/);
    assert.match(base ?? '', /^pulled base +4\.00 MB of 10\.0 MB, [0-9.]+ MB\/s$/);
    assert.deepEqual(rest, []);

    reporter.listener(output('[app 1/2]', 'line one\npart'));
    reporter.listener(end('[web 1/1]'));
    reporter.listener(transfer('base', 10_000_000, true));
    await sleep(150);
    assert.deepEqual(screen.text.slice(2, -1), [
      '[app 1/2] | line one',
      '[web 1/1] done in 1.50s',
      'pulled base 10.0 MB',
    ]);
    assert.match(screen.text.at(-1) ?? '', /^\[app 1\/2\] RUN make/);
    reporter.listener(end('[app 1/2]'));
    reporter[Symbol.dispose]();
    assert.deepEqual(screen.text.slice(-2), ['[app 1/2] | part', '[app 1/2] done in 1.50s']);
  });

  test('takes no more lines than the terminal has', async () => {
    const screen = new Screen(40, 6);
    using reporter = new TerminalReporter(screen);
    for (let index = 0; index < 20; index++) reporter.listener(transfer(`layer ${index}`, 1));
    await sleep(250);
    assert.equal(screen.text.length, 5);
    assert.match(screen.text.at(-1) ?? '', /16 more/);
    for (let index = 0; index < 19; index++) reporter.listener(transfer(`layer ${index}`, 2, true));
    await sleep(150);
    assert.equal(screen.text.length, 1);
  });

  test('cuts long lines, and lets no control character of a Dockerfile through', async () => {
    const screen = new Screen(30);
    using reporter = new TerminalReporter(screen);
    reporter.listener(start('[a 1/1]', `RUN \x1b[2J\x07 ${'x'.repeat(15)}`));
    reporter.listener(transfer(`sha256:${'a'.repeat(64)} and more`, 1));
    await sleep(250);
    assert.deepEqual(screen.text.slice(0, 2), ['[a 1/1] RUN  [2J  xxxxxxxxxxxx', 'xxx']);
    assert.equal(screen.text.length, 4);
    assert.ok(screen.text.slice(2).every((line) => line.length < 30));
    assert.doesNotMatch(screen.text.join(), /[0-9]{5}/, 'a rate has no more digits than one can read');
  });
});

describe('plain progress', () => {
  const written = (events: readonly ProgressEvent[]): string => {
    const chunks: Buffer[] = [];
    const listener = plainReporter((data) => chunks.push(Buffer.from(data)));
    for (const event of events) listener(event);
    return Buffer.concat(chunks).toString('latin1');
  };

  test('prefixes each line of output with its step, and passes its bytes on', () => {
    assert.equal(
      written([
        start('[a 1/1]', 'RUN x'),
        output('[a 1/1]', 'one\r\ntw'),
        output('[b 1/1]', 'other\n'),
        output('[a 1/1]', 'error\n', 'stderr'),
        output('[a 1/1]', Buffer.from('o\n\xff\x1b[31mred\n\nlast', 'latin1')),
        end('[a 1/1]'),
      ]),
      [
        '[a 1/1] RUN x\n',
        '[a 1/1] | one\r\n',
        '[b 1/1] | other\n',
        '[a 1/1] | error\n',
        '[a 1/1] | two\n',
        '[a 1/1] | \xff\x1b[31mred\n',
        '[a 1/1] | \n',
        '[a 1/1] | last\n',
        '[a 1/1] done in 1.50s\n',
      ].join(''),
    );
  });

  test('says warnings, results and large transfers, and leaves the rest out', () => {
    const log = (level: 'debug' | 'info' | 'warn'): ProgressEvent => ({ type: 'log', level, message: level });
    assert.equal(
      written([
        log('debug'),
        log('info'),
        log('warn'),
        transfer('small', 100, true),
        transfer('large', 5_000_000, true),
        { type: 'cache', step: '[a 1/1]', key: 'k', outcome: 'miss' },
        { type: 'step-end', step: '[a 1/1]', outcome: 'cached', seconds: 0, bytes: 1234 },
        { type: 'step-end', step: '[a 1/1]', outcome: 'metadata', seconds: 0 },
        { type: 'result', message: 'built', fields: {} },
      ]),
      'info\nwarning: warn\npulled large 5.00 MB\n[a 1/1] CACHED, layer 1.23 kB\nbuilt\n',
    );
  });

  test('does not keep a line that never ends', () => {
    const long = written([output('[a 1/1]', 'x'.repeat(100_000)), output('[a 1/1]', 'y\n')]);
    assert.equal(long, `[a 1/1] | ${'x'.repeat(100_000)}\n[a 1/1] | y\n`);
  });
});

test('JSON progress is one event a line, with its time', () => {
  const lines: string[] = [];
  const listener = jsonReporter((data) => lines.push(data));
  listener(start('[a 1/1]', 'RUN "x"\n'));
  listener(output('[a 1/1]', 'é\n'));
  assert.ok(lines.every((line) => line.indexOf('\n') === line.length - 1));
  const [first, second] = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.equal(first?.text, 'RUN "x"\n');
  assert.ok(!Number.isNaN(Date.parse(String(first.time))));
  assert.deepEqual([second?.type, second?.stream, second?.data], ['output', 'stdout', 'é\n']);
});

describe('what is told', () => {
  const told = (options: ReportOptions): string => {
    let text = '';
    const stream = {
      isTTY: false,
      write: (data: string | Uint8Array) => (text += String(Buffer.from(data))),
    };
    const progress = new Progress();
    using _reporter = reportTo(progress, options, stream as unknown as NodeJS.WriteStream);
    progress.emit({ type: 'log', level: 'debug', message: 'in detail' });
    progress.info('by the way');
    progress.warn('beware');
    progress.emit(start('[a 1/1]', 'RUN x'));
    progress.emit(output('[a 1/1]', 'out\n'));
    progress.emit({ type: 'step-end', step: '[a 1/1]', outcome: 'failed', seconds: 1 });
    return text;
  };

  for (const [verbosity, lines] of [
    [
      undefined,
      ['by the way', 'warning: beware', '[a 1/1] RUN x', '[a 1/1] | out', '[a 1/1] FAILED in 1.00s'],
    ],
    [
      'debug',
      [
        'in detail',
        'by the way',
        'warning: beware',
        '[a 1/1] RUN x',
        '[a 1/1] | out',
        '[a 1/1] FAILED in 1.00s',
      ],
    ],
    ['warn', ['warning: beware', '[a 1/1] | out', '[a 1/1] FAILED in 1.00s']],
    ['error', ['[a 1/1] | out', '[a 1/1] FAILED in 1.00s']],
    ['panic', ['[a 1/1] | out']],
  ] as const)
    test(`with --verbosity ${verbosity ?? 'not given'} are ${lines.length} lines`, () => {
      const options: ReportOptions =
        verbosity === undefined ? { logFormat: 'text' } : { logFormat: 'text', verbosity };
      assert.deepEqual(told(options).trimEnd().split('\n'), lines);
    });

  test('with --log-timestamp every line begins with the time', () => {
    for (const line of told({ logFormat: 'text', logTimestamp: true }).trimEnd().split('\n'))
      assert.match(line, /^20[0-9-]{8}T[0-9:.]{12}Z (?:by|warning|\[a)/);
  });

  test('as JSON everything is told, unless a verbosity is given', () => {
    assert.match(told({ logFormat: 'json' }), /in detail/);
    assert.doesNotMatch(told({ logFormat: 'json', verbosity: 'warn' }), /in detail|by the way/);
  });
});
