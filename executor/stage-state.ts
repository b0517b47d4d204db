import type { ContainerConfig, HealthConfig, ImageConfig } from '../src/oci/index.ts';

/** The PATH of a stage whose base sets none, as BuildKit has it for Linux. */
export const defaultPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Proxy settings that every RUN sees when given, without being declared, and that never count in a key. */
export const proxyArguments: ReadonlySet<string> = new Set(
  ['HTTP_PROXY', 'HTTPS_PROXY', 'FTP_PROXY', 'NO_PROXY', 'ALL_PROXY'].flatMap((name) => [
    name,
    name.toLowerCase(),
  ]),
);

/**
 * What the instructions of a stage have set so far: the configuration of the image, and the ARGs in scope.
 * Plain data that a later stage copies when it starts FROM this one.
 */
export class StageState {
  /** ENV: what the image keeps. */
  env = new Map<string, string>();
  /** ENV and ARG: what `$name` means and what a RUN sees. Of both with the same name, the later one counts. */
  variables = new Map<string, string>();
  /** Declared ARGs in their order, with or without a value; stages FROM this one have them too, others do not. */
  arguments = new Map<string, string | undefined>();
  user = '';
  workingDirectory = '';
  shell: readonly string[] | undefined;
  entrypoint: readonly string[] | null | undefined;
  command: readonly string[] | null | undefined;
  /** True once this stage set CMD: an ENTRYPOINT then leaves it. */
  commandSet = false;
  labels = new Map<string, string>();
  ports = new Set<string>();
  volumes = new Set<string>();
  stopSignal: string | undefined;
  healthcheck: HealthConfig | undefined;
  onBuild: string[] = [];
  author: string | undefined;

  /** The state at the start of a stage FROM an image with this configuration. */
  static fromImage(image: ImageConfig | undefined): StageState {
    const state = new StageState();
    const config = image?.config ?? {};
    for (const variable of config.Env ?? []) {
      const equals = variable.indexOf('=');
      if (equals > 0) state.env.set(variable.slice(0, equals), variable.slice(equals + 1));
    }
    if (!state.env.has('PATH')) state.env.set('PATH', defaultPath);
    state.variables = new Map(state.env);
    state.user = config.User ?? '';
    state.workingDirectory = image === undefined ? '/' : (config.WorkingDir ?? '');
    state.shell = config.Shell ?? undefined;
    state.entrypoint = config.Entrypoint;
    state.command = config.Cmd;
    state.labels = new Map(Object.entries(config.Labels ?? {}));
    state.ports = new Set(Object.keys(config.ExposedPorts ?? {}));
    state.volumes = new Set(Object.keys(config.Volumes ?? {}));
    state.stopSignal = config.StopSignal ?? undefined;
    state.healthcheck = config.Healthcheck ?? undefined;
    state.onBuild = [...(config.OnBuild ?? [])];
    state.author = image?.author;
    return state;
  }

  /** The state at the start of a stage FROM the stage that ended in this one. */
  inherit(): StageState {
    const state = new StageState();
    state.env = new Map(this.env);
    state.variables = new Map(this.variables);
    state.arguments = new Map(this.arguments);
    state.user = this.user;
    state.workingDirectory = this.workingDirectory;
    state.shell = this.shell;
    state.entrypoint = this.entrypoint;
    state.command = this.command;
    state.labels = new Map(this.labels);
    state.ports = new Set(this.ports);
    state.volumes = new Set(this.volumes);
    state.stopSignal = this.stopSignal;
    state.healthcheck = this.healthcheck;
    state.onBuild = [...this.onBuild];
    state.author = this.author;
    return state;
  }

  /** What `$name` means in an instruction of this stage. */
  lookup = (name: string): string | undefined => this.variables.get(name);

  setEnv(name: string, value: string): void {
    this.env.set(name, value);
    this.variables.set(name, value);
  }

  /** Declares an ARG; without a value it only has a name. */
  declare(name: string, value: string | undefined): void {
    this.arguments.set(name, value);
    if (value !== undefined) this.variables.set(name, value);
  }

  /** The environment of a RUN step. */
  stepEnvironment(): Record<string, string> {
    return Object.fromEntries(this.variables);
  }

  /** The argument vector of a command in shell form. */
  shellCommand(script: string): string[] {
    return [...(this.shell ?? ['/bin/sh', '-c']), script];
  }

  /** The image configuration these settings make; what is empty is left out, as BuildKit does. */
  containerConfig(): ContainerConfig {
    const names = (set: ReadonlySet<string>): Record<string, object> =>
      Object.fromEntries([...set].sort().map((name) => [name, {}]));
    return {
      ...(this.user === '' ? {} : { User: this.user }),
      ...(this.ports.size === 0 ? {} : { ExposedPorts: names(this.ports) }),
      Env: [...this.env].map(([name, value]) => `${name}=${value}`),
      ...(this.entrypoint == null ? {} : { Entrypoint: this.entrypoint }),
      ...(this.command == null ? {} : { Cmd: this.command }),
      ...(this.volumes.size === 0 ? {} : { Volumes: names(this.volumes) }),
      ...(this.workingDirectory === '' ? {} : { WorkingDir: this.workingDirectory }),
      ...(this.labels.size === 0
        ? {}
        : { Labels: Object.fromEntries([...this.labels].sort(([a], [b]) => (a < b ? -1 : 1))) }),
      ...(this.stopSignal === undefined ? {} : { StopSignal: this.stopSignal }),
      ...(this.healthcheck === undefined ? {} : { Healthcheck: this.healthcheck }),
      ...(this.onBuild.length === 0 ? {} : { OnBuild: this.onBuild }),
      ...(this.shell === undefined ? {} : { Shell: this.shell }),
    };
  }
}
