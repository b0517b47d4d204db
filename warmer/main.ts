import { runCommand } from '../src/support/index.ts';

process.umask(0o022);
process.exitCode = await runCommand(async (signal) => {
  const { runWarmer } = await import('./cli.ts');
  return runWarmer(process.argv.slice(2), signal);
});
