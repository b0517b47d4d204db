import { EnvironmentError, needsRoot, runCommand } from '../src/support/index.ts';

/** What touches no files of images, so that an ordinary user needs no user namespace for it. */
const plainCommands = ['push', 'login', 'logout', 'explain', 'check'];

process.umask(0o022);
process.exitCode = await runCommand(async (signal) => {
  const argv = process.argv.slice(2);
  const looksAround = argv[0] === 'check' && argv.some((word) => word.startsWith('--environment'));
  if (process.geteuid?.() !== 0 && (looksAround || needsRoot(argv, plainCommands))) {
    const { enterUserNamespace } = await import('../src/os/index.ts');
    // What a build would fail with, the look at the environment tells among the rest.
    await enterUserNamespace(signal).catch((error: unknown) => {
      if (!looksAround || !(error instanceof EnvironmentError)) throw error;
    });
  }
  const { runExecutor } = await import('./cli.ts');
  return runExecutor(argv, signal);
});
