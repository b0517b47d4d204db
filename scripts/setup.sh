#!/bin/sh
# Makes sure that the npm packages, and the Debian packages named as arguments, are installed.
# As root it installs what is missing; otherwise it names the command to run.
set -eu
cd "$(dirname "$0")/.."

stamp=node_modules/.package-lock.json
if [ ! -e "$stamp" ] || [ package-lock.json -nt "$stamp" ]; then
  echo "setup: installing npm packages" >&2
  npm ci --no-audit --no-fund --loglevel=error >&2
  touch "$stamp"
fi

missing=
for package in "$@"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "setup: these Debian packages are missing; install them with:" >&2
  echo "  sudo apt-get install --no-install-recommends$missing" >&2
  exit 3
fi
echo "setup: installing Debian packages:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >&2
# shellcheck disable=SC2086 # a list of words
apt-get install -y -qq --no-install-recommends $missing >&2
