import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type ContainerFacts,
  readContainerFacts,
  requireOwnContainer,
} from '../../executor/isolation/inplace/own-container.ts';
import { Territory } from '../../src/layer/index.ts';
import { temporaryDirectory, writeFiles } from '../support/programs.ts';

/** A container that was started from an image of Kiln, and nothing else. */
const own: ContainerFacts = {
  foreignPrograms: [],
  seesMachine: false,
  hasMachineRights: false,
  imageFiles: ['/etc/passwd', '/usr/share/ca'],
  isTaken: false,
};

/** Asks whether a root with these files may be taken over. */
async function judge(
  facts: Partial<ContainerFacts>,
  files: Readonly<Record<string, string>> = {},
  force = false,
): Promise<void> {
  await using directory = await temporaryDirectory();
  await writeFiles(directory.path, { 'kiln/bin/node': '', ...files });
  const territory = new Territory({
    root: directory.path,
    exclusions: ['/kiln', '/workspace'],
    shadow: `${directory.path}/shadow`,
  });
  requireOwnContainer({ ...own, ...facts }, territory, { home: '/kiln', force });
}

describe('the root of a container may be taken over', () => {
  test("when Kiln runs from its own directory and the container has only what Kiln's image has", async () => {
    await judge({});
    await judge(
      {},
      {
        'etc/passwd': '',
        'usr/share/ca/deep/file': '',
        'tmp/anything': '',
        'workspace/Dockerfile': '',
        '.dockerenv': '',
      },
    );
  });

  test('when an earlier build of this container left something', async () => {
    await judge({ isTaken: true }, { 'usr/bin/left': '' });
  });
});

describe('the root is not taken over', () => {
  test('where the processes of the whole machine are seen', async () => {
    await assert.rejects(judge({ seesMachine: true }), { code: 'E_INPLACE_HOST', message: /no container/ });
  });

  test('with the rights of a machine', async () => {
    await assert.rejects(judge({ hasMachineRights: true }), {
      code: 'E_INPLACE_HOST',
      message: /CAP_SYS_MODULE/,
    });
  });

  test("in an image that is not Kiln's", async () => {
    await assert.rejects(judge({ imageFiles: undefined }), {
      code: 'E_INPLACE_HOST',
      message: /kiln\.json.* is missing or damaged/,
    });
  });

  test('when it holds anything else, which is named', async () => {
    const foreign = { 'home/user/thesis.tex': '', 'etc/other': '' };
    await assert.rejects(judge({}, foreign), {
      code: 'E_INPLACE_FOREIGN',
      message: /\/etc\/other, \/home\/user\/thesis\.tex/,
    });
    await judge({}, foreign, true); // said explicitly
  });

  test('when Kiln itself would be removed, whatever is said', async () => {
    const facts = { foreignPrograms: ['/usr/bin/node'] };
    await assert.rejects(judge(facts, {}, true), { code: 'E_INPLACE_HOST', message: /\/usr\/bin\/node/ });
  });

  test('on the machine that runs this test', async () => {
    const facts = readContainerFacts('/kiln', '/kiln/work');
    await assert.rejects(judge({ foreignPrograms: facts.foreignPrograms }), { code: 'E_INPLACE_HOST' });
    assert.equal(facts.imageFiles, undefined);
  });
});
