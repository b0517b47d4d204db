import { type Command, CommanderError, type Option } from 'commander';
import { hideCredentials } from '../support/index.ts';
import { configurationFlags, readConfigurationFile } from './configuration-file.ts';
import { addFlags, writtenValue } from './flags.ts';

/** Has every command of a program read its flags from a file too, and print them. */
export function addConfiguration(program: Command): void {
  for (const command of program.commands) {
    addFlags(command, configurationFlags());
    command.hook('preAction', async () => {
      const file = await readConfigurationFile(command, program.commands);
      if (command.getOptionValue('printConfig') !== true) return;
      process.stdout.write(await describeConfiguration(command, file));
      // How commander says that all is done.
      throw new CommanderError(0, 'kiln.configurationPrinted', '');
    });
  }
}

/**
 * The flags of a command that have a value, as a file that `--config` reads, each with where its value is from.
 *
 * @param file what `--config` named.
 */
async function describeConfiguration(command: Command, file: string | undefined): Promise<string> {
  const { Document } = await import('yaml');
  const document = new Document({});
  for (const option of command.options) {
    const name = option.long?.slice(2) ?? '';
    const source = command.getOptionValueSource(option.attributeName());
    const value = writtenValue(option, command.getOptionValue(option.attributeName()));
    if (
      name === 'config' ||
      name === 'print-config' ||
      name === 'password' ||
      source === undefined ||
      isNothing(value)
    )
      continue;
    const pair = document.createPair(name, hidden(value));
    if (typeof pair.key === 'object' && Array.isArray(value) && value.length > 0)
      Object.assign(pair.key, { commentBefore: ` ${sourceName(option, source, file)}` });
    else Object.assign(pair.value ?? {}, { comment: ` ${sourceName(option, source, file)}` });
    document.add(pair);
  }
  return document.toString({
    lineWidth: 0,
    commentString: (comment) => comment.replace(/^(?!$)(?: )?/gm, '# '),
  });
}

function isNothing(value: string | boolean | string[] | undefined): value is undefined {
  return value === undefined || (Array.isArray(value) && value.length === 0);
}

function hidden(value: string | boolean | string[]): string | boolean | string[] {
  if (typeof value === 'boolean') return value;
  return typeof value === 'string' ? hideCredentials(value) : value.map((one) => hideCredentials(one));
}

function sourceName(option: Option, source: string, file: string | undefined): string {
  if (source === 'cli') return 'command line';
  if (source === 'env') return option.envVar ?? 'environment';
  return source === 'config' ? (file ?? source) : source;
}
