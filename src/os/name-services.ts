import koffi from 'koffi';

/**
 * Fixes where the C library of this process looks up hosts and users: in files, and hosts in DNS. Otherwise it would read
 * /etc/nsswitch.conf again when that changes, and load the libraries that it names.
 */
export function pinNameServices(): void {
  const libc = koffi.load(null);
  let configure: (database: string, services: string) => number;
  try {
    configure = libc.func('int __nss_configure_lookup(const char *database, const char *services)');
  } catch {
    return; // another C library, which loads none
  }
  configure('hosts', 'files dns');
  for (const database of ['passwd', 'group', 'services', 'protocols']) configure(database, 'files');
}
