import { execFileSync } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pushTestImage } from '../support/images.ts';
import type { Workshop } from '../support/workshop.ts';

/** A base whose files have owners, capabilities and hard links, with deletions of both kinds in its second layer. */
export async function pushFullBase(workshop: Workshop): Promise<string> {
  const script = `
    mkdir lower upper && cd lower
    mkdir -p app/old bin dev etc home opq tmp && chmod 1777 tmp
    cp /bin/busybox bin/busybox
    for name in sh cat chmod chown cp dd find grep id ln ls mkdir mknod mount mv rm sleep stat touch test true chroot kill ps tr umount unshare; do
      ln -s busybox bin/$name
    done
    printf 'root:x:0:0:root:/root:/bin/sh\\napp:x:1000:1000::/home:/bin/sh\\n' > etc/passwd
    printf 'root:x:0:\\ntty:x:5:\\napp:x:1000:\\n' > etc/group
    echo owned > app/owned && chown 1000:1000 app/owned && chmod 640 app/owned
    echo high > app/high && chown 65535:65535 app/high
    echo gone > app/old/gone && echo hidden > opq/hidden && echo linked > app/one && ln app/one app/two
    cp bin/busybox bin/ping && setcap cap_net_raw+ep bin/ping && cp bin/busybox bin/su && chmod 4755 bin/su
    mkfifo app/fifo
    for file in /usr/bin/keyctl $(ldd /usr/bin/keyctl | grep -o '/[^ ]*'); do
      mkdir -p .$(dirname $file) && cp -L $file .$file
    done
    cd ../upper && mkdir -p app opq && touch app/.wh.old opq/.wh..wh..opq && echo new > opq/new
    cd .. && for layer in lower upper; do
      tar -C $layer --xattrs --xattrs-include='*' --numeric-owner --sort=name --mtime=@1700000000 -czf $layer.tar.gz .
    done`;
  const directory = join(workshop.directory, workshop.unique('full-base'));
  await mkdir(directory);
  execFileSync('sh', ['-ec', script], { cwd: directory });
  const reference = `${workshop.registry.host}/full:1`;
  await pushTestImage(directory, reference, {
    layers: ['lower', 'upper'].map((name) => join(directory, `${name}.tar.gz`)),
  });
  return reference;
}

/** Builds on the full base whatever depends on owners, attributes, links and deletions; `%BASE%` stands for its reference. */
export const everything = `FROM %BASE% AS made
COPY --chown=1000:5 payload /made/payload
RUN mv /bin/ping /made/ping && mkdir -p /made/d && chown -R 1000:1000 /made/d && ln /made/payload /made/link
FROM %BASE%
RUN test ! -e /app/old && test ! -e /opq/hidden && test "$(cat /opq/new)" = new
RUN rm /app/high && chown 12:34 /app/one && echo more >> /app/owned && rm -r /opq && mkdir /opq && echo again > /opq/again
RUN mv /bin/ping /bin/pong && chmod u+s /bin/busybox && chmod 711 /app && ln -s nowhere /dangling
COPY --from=made /made /copied
WORKDIR /home/work
USER app
RUN echo "$(id -u):$(id -g)" > /tmp/who && su -c id > /tmp/su 2>&1 || true
USER 65000:65001
RUN touch /tmp/numeric
`;
