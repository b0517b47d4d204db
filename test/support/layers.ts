import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/** One header of a layer's tar, as Python's tarfile reads it. Names that are no UTF-8 have `\udcXX` for their bytes. */
export interface LayerEntry {
  readonly name: string;
  readonly type:
    'file' | 'directory' | 'symlink' | 'hardlink' | 'fifo' | 'character device' | 'block device' | 'other';
  readonly mode: string;
  readonly owner: string;
  /** Names of user and group, which no layer should have. */
  readonly names: string;
  readonly size: number;
  readonly link: string;
  readonly pax: Readonly<Record<string, string>>;
}

/** A layer as a registry has it. */
export interface ListedLayer {
  readonly digest: string;
  readonly mediaType: string;
  /** Bytes, compressed. */
  readonly size: number;
  readonly entries: readonly LayerEntry[];
}

const listing = `
import json, sys, tarfile
kinds = {tarfile.REGTYPE: 'file', tarfile.DIRTYPE: 'directory', tarfile.SYMTYPE: 'symlink', tarfile.LNKTYPE: 'hardlink',
         tarfile.FIFOTYPE: 'fifo', tarfile.CHRTYPE: 'character device', tarfile.BLKTYPE: 'block device'}
with tarfile.open(sys.argv[1]) as layer:
    print(json.dumps([{'name': e.name + ('/' if e.isdir() else ''), 'type': kinds.get(e.type, 'other'), 'mode': '%o' % e.mode,
        'owner': '%d:%d' % (e.uid, e.gid), 'names': e.uname + e.gname, 'size': e.size, 'link': e.linkname,
        'pax': e.pax_headers} for e in layer]))
`;

/** The layers of an image in a registry, lowest first, read by skopeo and Python. */
export function listLayers(scratch: string, reference: string): ListedLayer[] {
  const layout = join(scratch, `layers-${randomBytes(6).toString('hex')}`);
  execFileSync(
    'skopeo',
    ['copy', '--quiet', '--src-tls-verify=false', `docker://${reference}`, `dir:${layout}`],
    { stdio: 'pipe' },
  );
  const manifest = JSON.parse(readFileSync(join(layout, 'manifest.json'), 'utf8')) as {
    layers: Omit<ListedLayer, 'entries'>[];
  };
  return manifest.layers.map(({ digest, mediaType, size }) => {
    const file = join(layout, digest.replace(/^sha256:/, ''));
    const output = execFileSync('python3', ['-c', listing, file], { encoding: 'utf8', maxBuffer: 1 << 28 });
    return { digest, mediaType, size, entries: JSON.parse(output) as LayerEntry[] };
  });
}
