import { messageOf, type Progress } from '../../src/support/index.ts';
import type { Clock } from './clock.ts';
import { type Configuration, parseConfiguration, readConfigurationText } from './configuration.ts';
import type { NodeWarming } from './warming.ts';
import { FileWatch } from './watch.ts';

export interface ReloaderParts {
  readonly warming: Pick<NodeWarming, 'configuration' | 'apply' | 'reject'>;
  readonly clock: Clock;
  readonly progress: Progress;
  /** What the command line says instead of the file. */
  readonly override: (configuration: Configuration) => Configuration;
}

/**
 * Keeps the configuration in force that its file has: when it or one of its Dockerfiles changes, and on SIGHUP. A version
 * that is not valid is reported and changes nothing.
 */
export class Reloader implements AsyncDisposable {
  readonly #parts: ReloaderParts;
  readonly #watch: FileWatch;
  #running: Promise<void> | undefined;
  #again = false;

  constructor(parts: ReloaderParts) {
    this.#parts = parts;
    const { clock, progress } = parts;
    this.#watch = new FileWatch({ clock, progress, onChange: () => void this.reload() });
    this.#follow();
    process.on('SIGHUP', this.#onHangUp);
  }

  /** Reads the file again. What is asked for while that goes on is done once more afterwards. */
  reload(): Promise<void> {
    if (this.#running !== undefined) {
      this.#again = true;
      return this.#running;
    }
    this.#running = this.#reloadAll().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    process.off('SIGHUP', this.#onHangUp);
    await this.#watch[Symbol.asyncDispose]();
    await this.#running;
  }

  readonly #onHangUp = (): void => void this.reload();

  async #reloadAll(): Promise<void> {
    do {
      this.#again = false;
      await this.#reload();
    } while (this.#again);
  }

  async #reload(): Promise<void> {
    const { warming, override, progress } = this.#parts;
    const { path } = warming.configuration;
    let configuration: Configuration;
    try {
      configuration = override(parseConfiguration(path, await readConfigurationText(path)));
    } catch (error) {
      await warming.reject(error).catch((cause: unknown) => progress.warn(messageOf(cause)));
      return;
    }
    if (JSON.stringify(configuration.listen) !== JSON.stringify(warming.configuration.listen))
      progress.warn('the new addresses of listen are used at the next start');
    try {
      await warming.apply(configuration);
      this.#follow();
    } catch (error) {
      progress.warn(`the configuration could not be applied: ${messageOf(error)}`);
    }
  }

  #follow(): void {
    const { path, dockerfiles } = this.#parts.warming.configuration;
    this.#watch.follow([path, ...dockerfiles.map((dockerfile) => dockerfile.path)]);
  }
}
