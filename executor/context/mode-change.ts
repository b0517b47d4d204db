/**
 * A change of permission bits as chmod(1) writes it (POSIX, "chmod", and FreeBSD's setmode(3), which BuildKit follows):
 * `u=rwX,go=rX`, `+x`, `g=u`. No umask counts.
 */
export class ModeChange {
  readonly #operations: readonly Operation[];

  private constructor(operations: readonly Operation[]) {
    this.#operations = operations;
  }

  /** @returns undefined for a text that is no such change. */
  static parse(text: string): ModeChange | undefined {
    const operations: Operation[] = [];
    for (const clause of text.split(',')) {
      const match = /^([ugoa]*)((?:[-+=][rwxXstugo]*)+)$/.exec(clause);
      if (match === null) return undefined;
      const [, classes = '', changes = ''] = match;
      for (const [, operator = '', permissions = ''] of changes.matchAll(/([-+=])([rwxXstugo]*)/g))
        operations.push({ classes, operator: operator as Operation['operator'], permissions });
    }
    return new ModeChange(operations);
  }

  /** The mode (twelve bits) that a file of this mode gets. */
  apply(mode: number, isDirectory: boolean): number {
    const executable = isDirectory || (mode & 0o111) !== 0;
    let changed = mode & 0o7777;
    for (const operation of this.#operations) changed = applyOne(operation, changed, executable);
    return changed;
  }
}

interface Operation {
  /** Of `ugoa`; empty for all. */
  readonly classes: string;
  readonly operator: '+' | '-' | '=';
  readonly permissions: string;
}

/** What each class covers: its permissions, and the bit that lends its identity. */
const covered: Readonly<Record<string, number>> = { u: 0o4700, g: 0o2070, o: 0o0007, a: 0o6777 };
const shifts: Readonly<Record<string, number>> = { u: 6, g: 3, o: 0 };

function applyOne({ classes, operator, permissions }: Operation, mode: number, executable: boolean): number {
  const cover =
    classes === '' ? 0o6777 : [...classes].reduce((bits, letter) => bits | (covered[letter] ?? 0), 0);
  const bits = [...permissions].reduce(
    (sum, letter) => sum | permissionBits(letter, operator, mode, executable),
    0,
  );
  // The sticky bit belongs to no class, but means nothing for others alone.
  const sticky = permissions.includes('t') && classes !== 'o' ? 0o1000 : 0;
  const set = (bits & cover) | sticky;
  if (operator === '+') return mode | set;
  return operator === '-' ? mode & ~set : (mode & ~(cover | sticky)) | set;
}

function permissionBits(letter: string, operator: string, mode: number, executable: boolean): number {
  switch (letter) {
    case 'r':
      return 0o444;
    case 'w':
      return 0o222;
    case 'x':
      return 0o111;
    case 'X':
      return executable || operator === '-' ? 0o111 : 0;
    case 's':
      return 0o6000;
    case 'u':
    case 'g':
    case 'o':
      // The permissions that this class has now, for every class.
      return ((mode >> (shifts[letter] ?? 0)) & 0o7) * 0o111;
    default:
      return 0;
  }
}
