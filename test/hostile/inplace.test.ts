import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { kilnLayers, openPod, type Pod, type PodOptions } from '../support/pod.ts';
import { type Ended, kiln } from '../support/programs.ts';
import { startRegistry, type TestRegistry } from '../support/registry.ts';
import { openWorkshop, type Workshop } from '../support/workshop.ts';

/*
 * What steps in place can learn and do in an ordinary pod, where they share the container with the executor: each claim of
 * docs/isolation.md, tried.
 */

const secret = 'hunter2-never-shown';
const token = '/var/run/secrets/kubernetes.io/serviceaccount/token';
const credentials = '/kaniko/.docker/config.json';

/** For half a minute tries to open the credentials, with O_NONBLOCK, which does not wait for a lease to be given up. */
const impatient = [
  "const fs = require('fs'); const end = Date.now() + 30000;",
  `while (Date.now() < end) try { console.log(fs.readFileSync(fs.openSync('${credentials}', 2048), 'utf8')); } catch {}`,
].join(' ');

describe('a hostile step in place', () => {
  let workshop: Workshop;
  /** Wants a credential, for which the configuration names a helper. */
  let locked: TestRegistry;
  let layers: string[];
  let podOptions: PodOptions;
  let pod: Pod;
  before(async () => {
    workshop = await openWorkshop({ inMemory: true });
    locked = await startRegistry({ user: 'somebody', password: secret });
    const { directory, base, volume } = workshop;
    const auth = Buffer.from(`user:${secret}`).toString('base64');
    mkdirSync(join(directory, 'contexts'));
    mkdirSync(join(directory, 'docker'));
    const config = { auths: { 'registry.invalid': { auth } }, credHelpers: { [locked.host]: 'planted' } };
    writeFileSync(join(directory, 'docker/config.json'), JSON.stringify(config));
    const warmed = await kiln('warmer', ['--cache-dir', volume, '--image', base]);
    assert.equal(warmed.code, 0, warmed.stderr);
    mkdirSync(join(directory, 'layers'));
    layers = await kilnLayers(join(directory, 'layers'));
    podOptions = {
      env: { DOCKER_CONFIG: '/kaniko/.docker', CLOUD_SECRET: secret, PATH: '/usr/local/bin:/kiln/bin' },
      mounts: [
        { source: join(directory, 'contexts'), target: '/kiln/contexts', readOnly: true },
        { source: join(directory, 'docker'), target: '/kaniko/.docker', readOnly: true },
        { source: volume, target: '/cache', readOnly: true },
      ],
    };
    pod = await openPod(layers, podOptions);
    await pod.start();
  });
  after(async () => {
    await (pod as Pod | undefined)?.[Symbol.asyncDispose]();
    await (locked as TestRegistry | undefined)?.[Symbol.asyncDispose]();
    await workshop[Symbol.asyncDispose]();
  });

  /** Builds a Dockerfile in the pod. */
  async function build(
    dockerfile: string,
    args: readonly string[] = ['--no-push'],
    run: Pod['exec'] = (command) => pod.exec(command),
  ): Promise<Ended> {
    const name = workshop.unique('context');
    mkdirSync(join(workshop.directory, 'contexts', name));
    writeFileSync(
      join(workshop.directory, 'contexts', name, 'Dockerfile'),
      dockerfile.replaceAll('%BASE%', workshop.base),
    );
    return run([
      ...['/kiln/bin/executor', '--isolation', 'inplace', '--context', `/kiln/contexts/${name}`],
      ...['--cache=false', ...args],
    ]);
  }

  for (const [what, step] of Object.entries({
    'reads the registry credentials': `RUN cat ${credentials}`,
    'reads the registry credentials as another user': `USER 1000\nRUN cat ${credentials}`,
    'reads the registry credentials through a link': `RUN ln -s ${credentials} /x && cat /x`,
    'copies the credentials in the background': `RUN (cp ${credentials} /x &); sleep 5; cat /x`,
    'tries the credentials without waiting, again and again': `RUN ["/kiln/bin/node", "-e", "${impatient}"]`,
    'reads the service account token': `RUN cat ${token}`,
    'reads the token by another path': 'RUN cat /proc/self/root/var/run/secrets/*/*/..data/token',
    'archives everything that it can see': 'RUN tar -cf /all.tar /kaniko /var 2> /dev/null; cat /all.tar',
  }))
    test(`that ${what} is ended, and has not got them`, async () => {
      const ended = await build(`FROM %BASE%\n${step}\nRUN echo never\n`);
      assert.equal(ended.code, 1, ended.stderr);
      assert.match(ended.messages, /E_RUN_SECRET/);
      assert.doesNotMatch(ended.stderr, /hunter2|aHVudGVyMi|service account token|never/);
    });

  test('reaches the socket of the warmer of the node, and gets nothing from it that it has not', async () => {
    const socket = join(workshop.volume, 'warmer.sock');
    const asked: string[] = [];
    await using server = createServer((request, response) => {
      asked.push(request.url ?? '');
      response.writeHead(404).end();
    });
    await new Promise<void>((resolve) => server.listen(socket, resolve));
    const script = `require('http').get({ socketPath: '/cache/warmer.sock', path: '/from-step' }, (r) => console.log('answered', r.statusCode))`;
    const ended = await build(`FROM %BASE%\nRUN ["/kiln/bin/node", "-e", "${script}"]\n`);
    assert.equal(ended.code, 0, ended.stderr);
    assert.match(ended.stderr, /\| answered 404/);
    assert.ok(asked.includes('/from-step'));
    // The volume itself cannot be changed through a mount that is read-only.
    const written = await build('FROM %BASE%\nRUN touch /cache/x || echo refused\n');
    assert.match(written.stderr, /\| refused/);
  });

  test('sees nothing of the executor in /proc', async () => {
    const attempts = ['environ', 'mem', 'maps', 'fd/0', 'cwd/', 'root/', 'exe', 'task/*/environ', 'auxv'];
    const script = [
      'pid=$(for p in /proc/[0-9]*; do grep -qa bin/executor $p/cmdline && echo ${p#/proc/}; done | head -1)',
      'test -n "$pid"',
      ...attempts.map(
        (name) => `if head -c 1 /proc/$pid/${name} > /dev/null 2>&1; then echo "${name} is open"; fi`,
      ),
      'if readlink /proc/$pid/fd/* 2> /dev/null | grep -q .; then echo fds; fi',
      'cat /proc/*/environ 2> /dev/null | tr "\\0" "\\n"',
      'env',
    ];
    // As the container's first process: others in it, such as the shell of a CI job, have an environment of their own.
    await using first = await openPod(layers, podOptions);
    const dockerfile = `FROM %BASE%\nRUN ${script.join('; ')}; echo looked\n`;
    const ended = await build(dockerfile, ['--no-push'], (command) => first.run(command));
    assert.equal(ended.code, 0, ended.stderr);
    const output = ended.stderr.split('\n').filter((line) => line.includes('] | '));
    assert.match(output.join('\n'), /looked/);
    assert.doesNotMatch(output.join('\n'), /is open|hunter2|CLOUD_SECRET|DOCKER_CONFIG|fds/);
  });

  for (const [what, script, code] of [
    ['writes into a file of Kiln', 'echo x >> /kiln/dist/executor.js', 'E_RUN_SECRET'],
    [
      'writes into its C library',
      'dd if=/dev/zero of=/kiln/lib/libc.so.6 bs=1 seek=5000 conv=notrunc count=1',
      'E_RUN_SECRET',
    ],
    ['empties one', ': > /kiln/lib/libm.so.6', 'E_RUN_SECRET'],
    ['replaces one', 'cp /kiln/dist/executor.js /x; mv /x /kiln/dist/executor.js', 'E_INPLACE_ALTERED'],
    [
      'removes one and puts a link there',
      'mv /kiln/dist/root-worker.js /r; ln -s /r /kiln/dist/root-worker.js',
      'E_INPLACE_ALTERED',
    ],
    ['adds one', 'echo > /kiln/dist/chunk-EVIL.js', 'E_INPLACE_ALTERED'],
    ['changes a mode', 'chmod 666 /kiln/bin/executor', 'E_INPLACE_ALTERED'],
  ] as const)
    test(`that ${what} is found out, and nothing comes of the build`, async () => {
      // A pod of its own, because the step breaks it.
      await using own = await openPod(layers, podOptions);
      const image = `${workshop.registry.host}/${workshop.unique('altered')}:1`;
      const dockerfile = `FROM %BASE%\nRUN ${script}\nRUN echo never\n`;
      const ended = await build(dockerfile, ['--destination', image], (command) => own.run(command));
      assert.match(ended.messages, new RegExp(code));
      assert.notEqual(ended.code, 0);
      assert.doesNotMatch(ended.stderr, /\| never/);
      // It was asked whether the image may be pushed, before the first step; nothing was.
      const stored = (await workshop.registry.accessLog()).filter((line) =>
        /^P(?:UT|ATCH) .*altered/.test(line),
      );
      assert.deepEqual(stored, []);
    });

  test('leaves no process behind, whatever it tries', async () => {
    const ended = await build(`FROM %BASE%
RUN sleep 1000 & true
RUN setsid setsid sleep 1000 > /dev/null 2>&1 < /dev/null & (trap '' TERM HUP INT; sleep 1000) & true
USER 1000
RUN (while :; do setsid sleep 1000 & sleep 0.01; done) > /dev/null 2>&1 & sleep 0.3
USER 0
RUN ps | grep -v grep | grep sleep && echo found || echo none
`);
    assert.equal(ended.code, 0, ended.stderr);
    assert.match(ended.stderr, /\| none/);
    const left = await pod.exec([
      ...['/kiln/bin/node', '-e'],
      'const fs=require("fs");for(const p of fs.readdirSync("/proc"))if(/^[0-9]/.test(p))try{console.log(fs.readFileSync("/proc/"+p+"/cmdline","latin1").replaceAll("\\0"," "))}catch{}',
    ]);
    assert.doesNotMatch(left.stdout, /sleep/);
  });

  test('cannot change what another stage has, nor a layer that was captured', async () => {
    const stages = await build(`FROM %BASE% AS one
RUN echo good > /wanted
FROM %BASE%
RUN for f in /kiln/work/trees/*/wanted; do echo evil > $f; done
COPY --from=one /wanted /wanted
`);
    assert.match(stages.messages, /E_INPLACE_ALTERED/);
    const captured = await build(`FROM %BASE%
RUN echo good > /wanted
RUN for f in $(find /kiln/work -name 'captured-*'); do sed -i s/good/evil/ $f; done; true
`);
    // Either the layer was compressed before it was changed, or the change shows.
    if (captured.code !== 0) assert.match(captured.messages, /E_INPLACE_ALTERED/);
  });

  test('does not have its programs or libraries used by the next build', async () => {
    const planted = await build(
      `FROM %BASE%
RUN mkdir -p /usr/local/bin /etc && echo /planted.so > /etc/ld.so.preload
RUN printf '#!/bin/sh\\necho planted >&2\\necho "{}"' > /usr/local/bin/docker-credential-planted; chmod 755 /usr/local/bin/*
RUN echo 'hosts: planted' > /etc/nsswitch.conf
`,
      ['--destination', `${locked.host}/image:1`],
    );
    assert.match(planted.messages, /E_CREDENTIAL_HELPER/);
    assert.doesNotMatch(planted.stderr, /^planted/m);
    const next = await pod.exec(['/kiln/bin/executor', '--version']);
    assert.equal(next.stderr, '');
  });
});
