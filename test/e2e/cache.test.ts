import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type Ended, stepsThat } from '../support/programs.ts';
import { freePort } from '../support/registry.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

describe('the layer cache', () => {
  let workshop: Workshop;
  before(async () => {
    workshop = await openWorkshop();
  });
  after(() => workshop[Symbol.asyncDispose]());

  const succeed = async (context: string, args: readonly string[]): Promise<Ended> => {
    const ended = await workshop.build(context, args);
    assert.equal(ended.code, 0, ended.stderr);
    return ended;
  };

  for (const kind of ['a registry', 'an OCI layout'])
    test(`in ${kind}: a changed middle step reuses what is before it and nothing after it`, async () => {
      const context = await workshop.context({
        Dockerfile: [
          'FROM %BASE%',
          'RUN echo one > /one',
          'COPY middle /middle',
          'RUN cat /one /middle > /three',
          'WORKDIR /four',
          'RUN echo five > five',
        ].join('\n'),
        middle: 'a',
      });
      const name = workshop.unique('middle');
      const cache =
        kind === 'a registry'
          ? ['--cache-repo', `${workshop.registry.host}/${name}/layers`]
          : ['--cache-repo', `oci:${join(workshop.directory, name)}`];
      const args = ['--cache', ...cache, '--destination', `${workshop.registry.host}/${name}:1`];
      assert.equal(stepsThat('ran', await succeed(context, args)).length, 5);
      assert.deepEqual(stepsThat('ran', await succeed(context, args)), []);
      await writeFile(join(context, 'middle'), 'b');
      const changed = await succeed(context, args);
      assert.deepEqual(stepsThat('cached', changed), ['RUN echo one > /one']);
      assert.equal(stepsThat('ran', changed).length, 4);
      await writeFile(join(context, 'middle'), 'a');
      assert.deepEqual(stepsThat('ran', await succeed(context, args)), [], 'the first build is still there');
    });

  test('is asked for all keys before anything runs, and a miss between hits is the only step that runs', async () => {
    const name = workshop.unique('probe');
    const destination = `${workshop.registry.host}/${name}:1`;
    const context = await workshop.context({
      Dockerfile: 'FROM %BASE%\nRUN echo a > /a\nARG X=1\nRUN echo $X > /x\n',
    });
    const args = ['--cache', '--destination', destination];
    await succeed(context, args);
    await workshop.registry.clearLog();
    const second = await succeed(context, [...args, '--build-arg', 'X=2']);
    assert.deepEqual(stepsThat('ran', second), ['RUN echo $X > /x']);
    const lines = await workshop.registry.accessLog();
    const read = lines.filter((line) => line.startsWith(`GET /v2/${name}/cache/manifests/`));
    assert.equal(read.filter((line) => /k1-[0-9a-f]{64} /.test(line)).length, 2, 'one request for each key');
    assert.equal(read.length, 3, 'and one, beside the step that runs, to say why it missed');
  });

  test('never joins a layer to a rootfs that it was not made on', async () => {
    // The first step gives another result each time it runs; the second hits by key but not by what is below it.
    const name = workshop.unique('chain');
    const args = ['--cache', '--destination', `${workshop.registry.host}/${name}:1`];
    const context = await workshop.context({
      Dockerfile: 'FROM %BASE%\nRUN head -c 16 /dev/urandom | md5sum > /random\nRUN cp /random /copy\n',
    });
    await succeed(context, args);
    // As if the first entry had been pruned.
    const tags = join(
      workshop.registry.storage,
      `docker/registry/v2/repositories/${name}/cache/_manifests/tags`,
    );
    const first = await firstStepTag(context, args);
    await rm(join(tags, first), { recursive: true });
    const again = await succeed(context, args);
    assert.equal(stepsThat('ran', again).length, 2);
    const refused = again.events.filter(
      (event) => event.type === 'cache' && event.outcome === 'other-rootfs',
    );
    assert.equal(refused.length, 1);
  });

  async function firstStepTag(context: string, args: readonly string[]): Promise<string> {
    const { events } = await succeed(context, args);
    const [lookup] = events.flatMap((event) => (event.type === 'cache' ? [event] : []));
    return `k1-${lookup?.key ?? ''}`;
  }

  test('remembers a step that ran and changed nothing', async () => {
    const name = workshop.unique('nothing');
    const args = ['--cache', '--destination', `${workshop.registry.host}/${name}:1`];
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN true\n' });
    assert.deepEqual(stepsThat('ran', await succeed(context, args)), ['RUN true']);
    assert.deepEqual(stepsThat('cached', await succeed(context, args)), ['RUN true']);
  });

  test('is neither read nor written without --cache, and never written with --no-push-cache', async () => {
    const name = workshop.unique('none');
    const destination = ['--destination', `${workshop.registry.host}/${name}:1`];
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN echo > /x\n' });
    await workshop.registry.clearLog();
    await succeed(context, destination);
    await succeed(context, [...destination, '--cache=false']);
    assert.deepEqual(
      (await workshop.registry.accessLog()).filter((line) => line.includes('/cache/')),
      [],
    );
    await succeed(context, [...destination, '--cache', '--no-push-cache']);
    const written = (await workshop.registry.accessLog()).filter((line) =>
      /^(?:PUT|POST|PATCH) .*\/cache\//.test(line),
    );
    assert.deepEqual(written, []);
  });

  test('can leave out RUN steps, or COPY steps', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nCOPY a /a\nRUN echo > /x\n', a: 'a' });
    const args = ['--cache', '--destination', `${workshop.registry.host}/${workshop.unique('kinds')}:1`];
    await succeed(context, args);
    assert.deepEqual(stepsThat('ran', await succeed(context, [...args, '--cache-run-layers=false'])), [
      'RUN echo > /x',
    ]);
    assert.deepEqual(stepsThat('ran', await succeed(context, [...args, '--cache-copy-layers=false'])), [
      'COPY a /a',
    ]);
  });

  test('expires after --cache-ttl', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN echo > /x\n' });
    const args = ['--cache', '--destination', `${workshop.registry.host}/${workshop.unique('ttl')}:1`];
    await succeed(context, args);
    const expired = await succeed(context, [...args, '--cache-ttl', '1ms']);
    assert.equal(stepsThat('ran', expired).length, 1);
    assert.ok(expired.events.some((event) => event.type === 'cache' && event.outcome === 'expired'));
  });

  test('that cannot be written gives one warning and an image', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN echo > /x\nRUN echo > /y\n' });
    const port = await freePort();
    const ended = await succeed(context, [
      ...['--cache', '--cache-repo', `127.0.0.1:${port}/cache`],
      ...['--destination', `${workshop.registry.host}/${workshop.unique('down')}:1`],
    ]);
    const warnings = ended.events.flatMap((event) =>
      event.type === 'log' && event.level === 'warn' ? [event.message] : [],
    );
    assert.equal(warnings.filter((text) => text.includes('cannot be read')).length, 1);
    assert.equal(warnings.filter((text) => text.includes('could not be written')).length, 1);
  });

  test('with nothing but a context, lives on the volume, and the image beside it', async () => {
    const context = await workshop.context({ Dockerfile: 'FROM %BASE%\nRUN echo > /x\n' });
    const first = await succeed(context, []);
    const [result] = first.events.flatMap((event) => (event.type === 'result' ? [event] : []));
    const place = String(result?.fields.place)
      .replace(/^oci:/, '')
      .replace(/:latest$/, '');
    assert.ok(existsSync(join(place, 'index.json')), place);
    assert.ok((await readdir(join(workshop.volume, 'layer-cache'))).includes('index.json'));
    assert.deepEqual(stepsThat('ran', await succeed(context, [])), []);
  });
});

describe('stages', () => {
  let workshop: Workshop;
  before(async () => {
    workshop = await openWorkshop();
  });
  after(() => workshop[Symbol.asyncDispose]());

  test('that do not need each other run at the same time', async () => {
    // Each waits for the other, so one after the other would never end well. What they say lies ready in files: nc ends
    // when the other has said all, whether it has said its own or not.
    const port = await freePort();
    const context = await workshop.context({
      Dockerfile: [
        'FROM %BASE% AS listens',
        `RUN echo from-a > /say; timeout 60 nc -l -p ${port} < /say > /heard`,
        'FROM %BASE% AS calls',
        `RUN echo from-b > /say; for i in $(seq 300); do nc 127.0.0.1 ${port} < /say > /heard && [ -s /heard ] && exit 0; sleep 0.1; done; exit 1`,
        'FROM %BASE%',
        'COPY --from=listens /heard /a',
        'COPY --from=calls /heard /b',
        'RUN cat /a /b',
      ].join('\n'),
    });
    const ended = await workshop.build(context, ['--no-push']);
    assert.equal(ended.code, 0, ended.stderr);
    const output = ended.events.map((event) => (event.type === 'output' ? String(event.data) : '')).join('');
    assert.match(output, /from-b\nfrom-a/);
  });

  test('that the target does not need never run', async () => {
    const context = await workshop.context({
      Dockerfile: [
        'FROM %BASE% AS broken',
        'RUN exit 1',
        'FROM does.not.exist.invalid/image AS unknown',
        'RUN true',
        'FROM %BASE% AS wanted',
        'RUN echo yes > /yes',
        'FROM broken',
        'RUN true',
      ].join('\n'),
    });
    const ended = await workshop.build(context, ['--no-push', '--target', 'wanted']);
    assert.equal(ended.code, 0, ended.stderr);
    assert.deepEqual(stepsThat('ran', ended), ['RUN echo yes > /yes']);
  });

  test('that fail stop the others', async () => {
    const context = await workshop.context({
      Dockerfile: [
        'FROM %BASE% AS slow',
        'RUN sleep 300',
        'FROM %BASE% AS broken',
        'RUN exit 7',
        'FROM %BASE%',
        'COPY --from=slow /etc/passwd /a',
        'COPY --from=broken /etc/passwd /b',
      ].join('\n'),
    });
    const ended = await workshop.build(context, ['--no-push']);
    assert.equal(ended.code, 1);
    assert.match(ended.messages, /exit code 7/);
    assert.ok(!(await readFile('/proc/self/mountinfo', 'utf8')).includes(workshop.directory));
  });
});
