#!/bin/sh
# npm test: installs what is missing, checks style and types, then runs the tests given (default: all).
set -eu
cd "$(dirname "$0")/.."
scripts/setup.sh docker-registry tinyproxy-bin openssl skopeo umoci runc buildah debootstrap \
  busybox-static util-linux uidmap keyutils patchelf attr libcap2-bin xz-utils bzip2 python3 ca-certificates git git-lfs openssh-server chromium
PATH="$PWD/node_modules/.bin:$PATH"
npm run --silent check
[ $# -gt 0 ] || set -- 'test/**/*.test.ts'
exec node --test --test-timeout=600000 --test-concurrency=2 "$@"
