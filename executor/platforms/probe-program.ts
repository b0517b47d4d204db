/** What the smallest program of an architecture is made of (System V ABI, "ELF header"; the architectures' own supplements). */
interface Machine {
  readonly bits: 32 | 64;
  readonly order: 'little' | 'big';
  /** `e_machine`. */
  readonly number: number;
  /** `e_flags`, where the kernel looks at them. */
  readonly flags?: number;
  /** exit(0), as instructions. */
  readonly exit: string;
}

const machines: Readonly<Record<string, Machine>> = {
  amd64: { bits: 64, order: 'little', number: 62, exit: 'b83c000000 31ff 0f05' },
  '386': { bits: 32, order: 'little', number: 3, exit: 'b801000000 31db cd80' },
  arm64: { bits: 64, order: 'little', number: 183, exit: '000080d2 a80b80d2 010000d4' },
  arm: { bits: 32, order: 'little', number: 40, flags: 0x0500_0000, exit: '0000a0e3 0170a0e3 000000ef' },
  riscv64: { bits: 64, order: 'little', number: 243, exit: '13050000 9308d005 73000000' },
  ppc64le: { bits: 64, order: 'little', number: 21, flags: 2, exit: '00006038 01000038 02000044' },
  s390x: { bits: 64, order: 'big', number: 22, exit: 'a7290000 0a01' },
  mips64le: { bits: 64, order: 'little', number: 8, flags: 0x8000_0000, exit: '00000424 c2130224 0c000000' },
  loong64: { bits: 64, order: 'little', number: 258, flags: 3, exit: '04001500 0b748103 00002b00' },
};

const address = 0x10000;

/** A program of an architecture (as images call it) that does nothing but end well; undefined when none is known. */
export function probeProgram(architecture: string): Uint8Array | undefined {
  const machine = Object.hasOwn(machines, architecture) ? machines[architecture] : undefined;
  return machine === undefined ? undefined : executable(machine);
}

/** An ELF file of one segment, which is the whole file. */
function executable({ bits, order, number, flags = 0, exit }: Machine): Uint8Array {
  const code = Buffer.from(exit.replaceAll(' ', ''), 'hex');
  const wide = bits === 64;
  const [headerSize, segmentSize] = wide ? [64, 56] : [52, 32];
  const file = Buffer.alloc(headerSize + segmentSize + code.length);
  const writer = new Writer(file, order, wide);
  file.write('\x7fELF', 'latin1');
  file.set([wide ? 2 : 1, order === 'little' ? 1 : 2, 1], 4);
  writer.at = 16;
  writer.half(2); // ET_EXEC
  writer.half(number);
  writer.word(1);
  writer.address(address + headerSize + segmentSize);
  writer.address(headerSize);
  writer.address(0); // no sections
  writer.word(flags);
  for (const value of [headerSize, segmentSize, 1, 0, 0, 0]) writer.half(value);
  writer.word(1); // PT_LOAD
  const readAndExecute = 5;
  if (wide) writer.word(readAndExecute);
  for (const value of [0, address, address, file.length, file.length]) writer.address(value);
  if (!wide) writer.word(readAndExecute);
  writer.address(0x10000);
  file.set(code, headerSize + segmentSize);
  return file;
}

class Writer {
  readonly #view: DataView;
  readonly #little: boolean;
  readonly #wide: boolean;
  at = 0;

  constructor(file: Buffer, order: Machine['order'], wide: boolean) {
    this.#view = new DataView(file.buffer, file.byteOffset, file.length);
    this.#little = order === 'little';
    this.#wide = wide;
  }

  half(value: number): void {
    this.#view.setUint16(this.at, value, this.#little);
    this.at += 2;
  }

  word(value: number): void {
    this.#view.setUint32(this.at, value, this.#little);
    this.at += 4;
  }

  address(value: number): void {
    if (!this.#wide) return this.word(value);
    this.#view.setBigUint64(this.at, BigInt(value), this.#little);
    this.at += 8;
  }
}
