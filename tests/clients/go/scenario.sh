#!/usr/bin/env bash
# The scenario with franz-go.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
case $1 in
  setup)
    command -v go >/dev/null || { echo "go is not installed"; exit 1; }
    cp "$here/scenario.go" "$here/go.mod" "$CLIENT_CACHE/"
    cd "$CLIENT_CACHE" && go mod tidy >&2 && go build -o scenario . >&2 || { echo "franz-go cannot be fetched or built"; exit 1; } ;;
  *) "$CLIENT_CACHE/scenario" "$1" ;;
esac
