/** The variables of a process's environment, in which credentials may be. */
export type ProcessEnvironment = Readonly<Record<string, string | undefined>>;
