import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { backoff, nextRefresh } from '../../warmer/daemon/refresh.ts';
import { RegistryGates } from '../../warmer/daemon/registry-gates.ts';
import { TestClock } from '../support/daemon.ts';

const now = Date.UTC(2026, 10, 24, 12, 0, 0);

describe('a refresh', () => {
  test('comes at its interval, a tenth earlier or later', () => {
    const rule = { kind: 'interval', seconds: 1000 } as const;
    assert.equal(
      nextRefresh(rule, now, () => 0),
      now + 900_000,
    );
    assert.equal(
      nextRefresh(rule, now, () => 0.5),
      now + 1_000_000,
    );
    assert.ok((nextRefresh(rule, now, () => 0.999999) ?? Infinity) < now + 1_100_000);
  });

  test('by cron comes in its time zone, within a minute', () => {
    const rule = { kind: 'cron', expression: '30 3 * * *', timeZone: 'Europe/Berlin' } as const;
    assert.equal(
      nextRefresh(rule, now, () => 0),
      Date.UTC(2026, 10, 25, 2, 30),
    );
    assert.equal(
      nextRefresh(rule, now, () => 0.5),
      Date.UTC(2026, 10, 25, 2, 30, 30),
    );
    // In summer the same hour of the day is another one of the world.
    assert.equal(
      nextRefresh(rule, Date.UTC(2026, 6, 1), () => 0),
      Date.UTC(2026, 6, 1, 1, 30),
    );
  });

  test('that is not wanted never comes', () => {
    assert.equal(
      nextRefresh({ kind: 'never' }, now, () => 0.5),
      undefined,
    );
  });
});

describe('a pause after failures', () => {
  test('doubles up to its bound, and is spread', () => {
    const pauses = [1, 2, 3, 10, 1000].map((failures) => backoff(failures, 5000, 60_000, () => 0.5));
    assert.deepEqual(pauses, [5000, 10_000, 20_000, 60_000, 60_000]);
    assert.equal(
      backoff(1, 5000, 60_000, () => 0),
      2500,
    );
  });
});

describe('the gate of a registry', () => {
  const open = (): { gates: RegistryGates; clock: TestClock } => {
    const clock = new TestClock();
    return { clock, gates: new RegistryGates(clock, () => 0.5) };
  };

  test('closes after a failure, for this registry alone, and opens by itself for one visitor', async () => {
    const { gates, clock } = open();
    gates.visit('a').failed(undefined);
    assert.equal(gates.closedUntil('a'), clock.now() + 5000);
    assert.equal(gates.closedUntil('b'), undefined);
    await clock.advance(5001);
    assert.equal(gates.closedUntil('a'), undefined);
    const probe = gates.visit('a');
    assert.notEqual(gates.closedUntil('a'), undefined, 'the others wait for the first');
    probe.succeeded();
    assert.equal(gates.closedUntil('a'), undefined);
  });

  test('counts visits that met the same fault as one failure', async () => {
    const { gates, clock } = open();
    const visits = [gates.visit('a'), gates.visit('a'), gates.visit('a')];
    await clock.advance(100);
    for (const visit of visits) visit.failed(undefined);
    assert.equal(gates.closedUntil('a'), clock.now() + 5000);
  });

  test('stays closed as long as a limit says, for builds too, but not for years', async () => {
    const { gates, clock } = open();
    gates.visit('a').failed({ retryAfter: 90_000 });
    assert.equal(gates.limitedUntil('a'), clock.now() + 90_000);
    assert.ok((gates.closedUntil('a') ?? 0) >= clock.now() + 90_000);
    gates.visit('b').failed({ retryAfter: 10 ** 12 });
    assert.equal(gates.limitedUntil('b'), clock.now() + 6 * 3_600_000);
    gates.visit('c').failed({ retryAfter: undefined });
    assert.equal(gates.limitedUntil('c'), clock.now() + 60_000);
    await clock.advance(90_001);
    assert.equal(gates.limitedUntil('a'), undefined);
  });

  test('lets the next one try when a visit ended without a word', async () => {
    const { gates, clock } = open();
    gates.visit('a').failed(undefined);
    await clock.advance(5001);
    gates.visit('a')[Symbol.dispose]();
    assert.equal(gates.closedUntil('a'), undefined);
  });
});
