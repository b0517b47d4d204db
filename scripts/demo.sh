#!/bin/sh
# npm run demo: installs what is missing, compiles Kiln, and shows the main job on a real base image.
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh docker-registry skopeo debootstrap util-linux ca-certificates
if [ "$(id -u)" -ne 0 ]; then
  echo "demo: it makes a base image with debootstrap and builds on it, which takes root: sudo npm run demo" >&2
  exit 3
fi
PATH="$PWD/node_modules/.bin:$PATH"
npm run --silent build
exec node scripts/demo.ts
