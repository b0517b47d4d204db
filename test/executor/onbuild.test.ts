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
    assert.deepEqual(await texts(dockerfile, 'child'), ['RUN from base', 'COPY <<EOF /x', 'RUN child']);
    assert.deepEqual(await texts(dockerfile, 'grandchild'), ['RUN grandchild'], 'it is not inherited twice');
    const [base, child] = await planOf(dockerfile, tmpdir(), { target: 'child' });
    assert.equal(base?.interpreted.state.onBuild.length, 3);
    assert.deepEqual(child?.interpreted.state.onBuild, []);
    const copy = child?.steps[1]?.operation;
    assert.ok(copy?.kind === 'copy');
    assert.deepEqual(copy.files, [{ name: 'EOF', content: '1\n' }]);
  });

  test('that copies from a stage or image is refused with its line, not taken for a copy from the context', async () => {
    const dockerfile =
      'FROM scratch AS tools\nFROM scratch AS base\nONBUILD COPY --from=tools /a /a\n\nFROM base\n';
    await assert.rejects(planOf(dockerfile, tmpdir()), {
      code: 'E_DOCKERFILE_UNSUPPORTED',
      where: 'Dockerfile:5',
      message: /COPY --from in an ONBUILD trigger/,
    });
  });
});
