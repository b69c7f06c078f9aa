#!/usr/bin/env bash
# The scenario with kafkajs.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
case $1 in
  setup)
    command -v node >/dev/null && command -v npm >/dev/null || { echo "node and npm are not installed"; exit 1; }
    cp "$here/scenario.mjs" "$CLIENT_CACHE/"
    cd "$CLIENT_CACHE"
    [ -d node_modules/kafkajs ] || npm install --no-fund --no-audit --silent kafkajs@2 >&2 || { echo "kafkajs cannot be installed"; exit 1; } ;;
  *) cd "$CLIENT_CACHE" && node scenario.mjs "$1" ;;
esac
