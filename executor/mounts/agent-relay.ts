import { connect, createServer, type Server, type Socket } from 'node:net';

/*
 * The protocol of agents (draft-ietf-sshm-ssh-agent): messages of a length of four bytes, a type and a body. A step may ask
 * which keys there are and have something signed. It may not add, remove or lock keys, as with BuildKit.
 */

const requestIdentities = 11;
const signRequest = 13;
const failure = Buffer.from([0, 0, 0, 1, 5]);
/** That of OpenSSH's agent. */
const longestMessage = 256 * 1024;

/** Answers one request of a step: a message without its length. */
export type AnswerAgent = (request: Buffer, connection: AgentConnection) => Promise<Buffer>;

/** What an agent remembers of one connection of a step. */
export interface AgentConnection {
  /** Ended with the connection. */
  upstream?: Socket;
}

/**
 * Listens at a path for programs that look for an agent, and passes on what they may ask.
 *
 * @param answer gives the answer with its length.
 */
export async function serveAgent(path: string, answer: AnswerAgent): Promise<AsyncDisposable> {
  const open = new Set<Socket>();
  const server: Server = createServer((socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
    // A step may go away at any time.
    socket.on('error', () => socket.destroy());
    void serve(socket, answer).finally(() => socket.destroy());
  });
  server.unref();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => resolve());
  });
  return {
    [Symbol.asyncDispose]: async () => {
      for (const socket of open) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

async function serve(socket: Socket, answer: AnswerAgent): Promise<void> {
  const connection: AgentConnection = {};
  try {
    for await (const message of messages(socket)) {
      const isAllowed = message[0] === requestIdentities || message[0] === signRequest;
      socket.write(isAllowed ? await answer(message, connection) : failure);
    }
  } catch {
    // What cannot be answered, or is no message, ends the connection: the program says that there is no agent.
  } finally {
    connection.upstream?.destroy();
  }
}

/** The messages of a connection, without their lengths. @throws Error for one that is too long. */
async function* messages(socket: Socket): AsyncGenerator<Buffer> {
  let rest: Buffer = Buffer.alloc(0);
  for await (const chunk of socket) {
    rest = Buffer.concat([rest, chunk as Buffer]);
    for (;;) {
      if (rest.length < 4) break;
      const length = rest.readUInt32BE(0);
      if (length === 0 || length > longestMessage) throw new Error('no message of an agent');
      if (rest.length < 4 + length) break;
      yield rest.subarray(4, 4 + length);
      rest = rest.subarray(4 + length);
    }
  }
}

/** Has an agent that listens at a path answer. */
export function askAgent(path: string): AnswerAgent {
  return async (request, connection) => {
    const upstream = (connection.upstream ??= await connectTo(path));
    const length = Buffer.alloc(4);
    length.writeUInt32BE(request.length);
    upstream.write(Buffer.concat([length, request]));
    return readMessage(upstream);
  };
}

async function connectTo(path: string): Promise<Socket> {
  const socket = connect(path);
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  socket.on('error', () => socket.destroy());
  return socket;
}

async function readMessage(socket: Socket): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let received = Buffer.alloc(0);
    const end = (): void => {
      socket.off('data', take);
      socket.off('close', closed);
    };
    const closed = (): void => {
      end();
      reject(new Error('the agent closed the connection'));
    };
    const take = (chunk: Buffer): void => {
      received = Buffer.concat([received, chunk]);
      const length = received.length < 4 ? undefined : received.readUInt32BE(0);
      if (length !== undefined && length > longestMessage) return closed();
      if (length === undefined || received.length < 4 + length) return;
      end();
      resolve(received.subarray(0, 4 + length));
    };
    socket.on('data', take);
    socket.once('close', closed);
  });
}
