/** What a registry or its token server is told about who asks. */
export type Credential = (
  | { readonly kind: 'basic'; readonly username: string; readonly password: string }
  /** A refresh token, which the token server turns into tokens. */
  | { readonly kind: 'identity'; readonly token: string }
  /** A token that the registry takes as it is. */
  | { readonly kind: 'bearer'; readonly token: string }
) & {
  /** Where it is from, in words for an error message. */
  readonly source: string;
  /** Milliseconds since 1970 after which another one must be asked for. */
  readonly expiresAt?: number;
};

/** What credentials are asked for. */
export interface CredentialTarget {
  /** Host as in references, `docker.io` for Docker Hub. */
  readonly registry: string;
  readonly repository: string;
}

/** Told why a source that should have a credential has none: what a person needs to know if the registry then refuses. */
export type Note = (text: string) => void;

/** Somewhere that credentials come from. */
export interface CredentialSource {
  /** The credential for a repository, or undefined for none. */
  find(target: CredentialTarget, signal?: AbortSignal, note?: Note): Promise<Credential | undefined>;
}

/** Asks one source after the other; the first that has a credential is right. */
export class Keychain implements CredentialSource {
  readonly #sources: readonly CredentialSource[];

  constructor(sources: readonly CredentialSource[]) {
    this.#sources = sources;
  }

  async find(target: CredentialTarget, signal?: AbortSignal, note?: Note): Promise<Credential | undefined> {
    for (const source of this.#sources) {
      const found = await source.find(target, signal, note);
      if (found !== undefined) return found;
    }
    return undefined;
  }
}

/** The credential in words that may be shown: never its secret. */
export function describeCredential(credential: Credential | undefined, notes: readonly string[]): string {
  if (credential === undefined)
    return `without credentials${notes.length === 0 ? '' : ` (${notes.join('; ')})`}`;
  const who = credential.kind === 'basic' ? `as ${credential.username}` : 'with a token';
  return `${who} from ${credential.source}`;
}
