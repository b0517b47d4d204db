import { needsRoot, runCommand } from '../src/support/index.ts';

/** What touches no files of images, so that an ordinary user needs no user namespace for it. */
const plainCommands = ['ls', 'du', 'inspect', 'remote'];

process.umask(0o022);
process.exitCode = await runCommand(async (signal) => {
  const argv = process.argv.slice(2);
  if (process.geteuid?.() !== 0 && needsRoot(argv, plainCommands)) {
    const { enterUserNamespace } = await import('../src/os/index.ts');
    await enterUserNamespace(signal);
  }
  const { runWarmer } = await import('./cli.ts');
  return runWarmer(argv, signal);
});
