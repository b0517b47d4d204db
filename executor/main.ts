import { runCommand } from '../src/support/index.ts';

process.umask(0o022);
process.exitCode = await runCommand(async (signal) => {
  const { runExecutor } = await import('./cli.ts');
  return runExecutor(process.argv.slice(2), signal);
});
