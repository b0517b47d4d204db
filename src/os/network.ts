import koffi from 'koffi';
import { namespaces, SystemCallError, unshare } from './libc.ts';

const loopback = 'lo';
/** SIOCSIFFLAGS, IFF_UP; netdevice(7). */
const setFlags = 0x8914;
const up = 1;

/**
 * Gives the calling thread, and the processes it starts, a network of their own in which there is nothing but the loopback
 * device. Without the right to bring that up (`CAP_NET_ADMIN`) not even it can be used.
 */
export function isolateNetwork(): void {
  unshare(namespaces.network);
  const libc = koffi.load(null);
  const socket = libc.func('int socket(int domain, int type, int protocol)');
  const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)');
  const close = libc.func('int close(int fd)');
  const fd = socket(2, 2, 0) as number;
  if (fd < 0) throw new SystemCallError('socket', koffi.errno());
  try {
    const request = Buffer.alloc(40);
    request.write(loopback);
    request.writeInt16LE(up, 16);
    if ((ioctl(fd, setFlags, request) as number) === 0) return;
    const errno = koffi.errno();
    if (errno !== koffi.os.errno.EPERM) throw new SystemCallError('ioctl', errno, loopback);
  } finally {
    close(fd);
  }
}
