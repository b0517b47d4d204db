import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NodePresence } from '../../executor/node-presence.ts';
import { Progress } from '../../src/support/index.ts';
import { type BuildReport, decodeBuildReport, type NodeClient } from '../../src/volume/index.ts';

test("a build tells the node's warmer of each cache what it took from it", async () => {
  const reports: BuildReport[] = [];
  const progress = new Progress();
  // Only the report is of interest; the socket has tests of its own.
  const client = { report: (report: BuildReport) => Promise.resolve(reports.push(report)) };
  {
    await using _presence = new NodePresence({
      client: client as unknown as NodeClient,
      ...{ build: 'build-1', label: 'app', progress },
      caches: ['registry.example/own', 'registry.example/main'],
    });
    const hit = (key: string, location: string): void =>
      progress.emit({ type: 'cache', step: '1', key, outcome: 'hit', location });
    hit('k1-a', 'registry.example/main');
    hit('k1-b', 'registry.example/own');
    hit('k1-c', 'registry.example/main');
    progress.emit({ type: 'cache', step: '1', key: 'k1-d', outcome: 'miss' });
  }
  const [report] = reports.map((sent) => decodeBuildReport(JSON.parse(JSON.stringify(sent))));
  assert.deepEqual(report?.cache, { location: 'registry.example/own', hits: ['k1-b'] });
  assert.deepEqual(report?.otherCaches, [{ location: 'registry.example/main', hits: ['k1-a', 'k1-c'] }]);
});
