import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import { describe, test } from 'node:test';
import { planOf } from '../support/plan.ts';

describe('a trigger of ONBUILD', () => {
  const texts = async (dockerfile: string, target?: string): Promise<string[]> => {
    const stage = (await planOf(dockerfile, tmpdir(), target === undefined ? {} : { target })).at(-1);
    return (stage?.steps ?? []).map(({ text }) => text);
  };

  test('does nothing in its own stage, and comes first in a stage that is FROM it', async () => {
    const dockerfile = [
      'FROM scratch AS base',
      'ONBUILD RUN from base',
      'ONBUILD ENV X=1',
      'ONBUILD COPY <<EOF /x',
      '$X',
      'EOF',
      'RUN own',
      'FROM base AS child',
      'RUN child',
      'FROM child AS grandchild',
      'RUN grandchild',
    ].join('\n');
    assert.deepEqual(await texts(dockerfile, 'base'), ['RUN own']);
    assert.deepEqual(await texts(dockerfile, 'child'), [
      'ONBUILD RUN from base',
      'ONBUILD COPY <<EOF /x',
      'RUN child',
    ]);
    assert.deepEqual(await texts(dockerfile, 'grandchild'), ['RUN grandchild'], 'it is not inherited twice');
    const [base, child] = await planOf(dockerfile, tmpdir(), { target: 'child' });
    assert.equal(base?.interpreted.state.onBuild.length, 3);
    assert.deepEqual(child?.interpreted.state.onBuild, []);
    const copy = child?.steps[1]?.operation;
    assert.ok(copy?.kind === 'copy');
    assert.deepEqual(copy.files, [{ name: 'EOF', content: '1\n' }]);
  });

  test('brings in a stage that nothing else needs, wherever it stands, and what that one is made from', async () => {
    const dockerfile = [
      'FROM scratch AS base',
      'ONBUILD COPY --from=assets /a /a',
      'ONBUILD COPY --from=0 /b /b',
      'FROM base AS app',
      'RUN app',
      'FROM scratch AS under',
      'ONBUILD RUN nested',
      'FROM under AS assets',
      'RUN assets',
      'FROM scratch AS unneeded',
    ].join('\n');
    const planned = await planOf(dockerfile, tmpdir(), { target: 'app' });
    assert.deepEqual(
      planned.map(({ label, steps }) => [label, ...steps.map(({ text }) => text)]),
      [
        ['base'],
        ['under'],
        ['assets', 'ONBUILD RUN nested', 'RUN assets'],
        ['app', 'ONBUILD COPY --from=assets /a /a', 'ONBUILD COPY --from=0 /b /b', 'RUN app'],
      ],
    );
    const sources = planned.at(-1)?.steps.map(({ source }) => source?.kind === 'stage' && source.stage.label);
    assert.deepEqual(sources, ['assets', 'base', false]);
  });

  for (const [what, dockerfile, where, message] of [
    [
      'copies from a stage that is not there',
      'FROM scratch AS tools\nFROM scratch AS base\nONBUILD COPY --from=tols /a /a\n\nFROM base\n',
      'Dockerfile:5',
      /there is no stage named tols \(ONBUILD COPY --from=tols \/a \/a\)/,
    ],
    [
      'copies from the stage that it is in',
      'FROM scratch AS base\nONBUILD COPY --from=app /a /a\nFROM base AS app\n',
      'Dockerfile:3',
      /copies the stage into itself/,
    ],
    [
      'copies from a stage that needs this one',
      'FROM scratch AS base\nONBUILD COPY --from=last /a /a\nFROM base AS app\nFROM app AS last\n',
      'Dockerfile:3',
      /stage app needs itself/,
    ],
    ['is FROM', 'FROM scratch\nONBUILD FROM x\n', 'Dockerfile:2', /FROM cannot be a trigger/],
    ['is ONBUILD', 'FROM scratch\nONBUILD onbuild RUN x\n', 'Dockerfile:2', /ONBUILD cannot be a trigger/],
    [
      'is MAINTAINER',
      'FROM scratch\nONBUILD MAINTAINER x\n',
      'Dockerfile:2',
      /MAINTAINER cannot be a trigger/,
    ],
  ] as const)
    test(`that ${what} is refused at its line`, async () => {
      await assert.rejects(planOf(dockerfile, tmpdir()), { where, message });
    });
});
