import { mount, mountFlags } from '../../src/os/index.ts';

/*
 * The first process of a step where there is no shell to be it, as in Kiln's own image: see ContainerRun. Everything is
 * loaded before it says that it is ready, since soon after its root is the step's.
 */

const [, , proc = ''] = process.argv;
mount('proc', proc, 'proc', mountFlags.noSuid | mountFlags.noDev | mountFlags.noExec, null);
process.stdin.on('end', () => process.exit()).resume();
process.stdout.write('ready\n');
