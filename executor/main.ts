import { needsRoot, runCommand } from '../src/support/index.ts';

/** What touches no files of images, so that an ordinary user needs no user namespace for it. */
const plainCommands = ['push', 'login', 'logout', 'explain', 'check'];

process.umask(0o022);
process.exitCode = await runCommand(async (signal) => {
  const argv = process.argv.slice(2);
  if (process.geteuid?.() !== 0 && needsRoot(argv, plainCommands)) {
    const { enterUserNamespace } = await import('../src/os/index.ts');
    await enterUserNamespace(signal);
  }
  const { runExecutor } = await import('./cli.ts');
  return runExecutor(argv, signal);
});
