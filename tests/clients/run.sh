#!/usr/bin/env bash
# Runs one scenario with unmodified Kafka clients of several languages against a fresh standalone server:
# idempotent produce and a consumer group, a restart of the server, then the rest, and nothing lost or doubled.
#
#   tests/clients/run.sh                 all clients
#   tests/clients/run.sh kcat python     some
#
# MAGNETAR names the binary (default: target directory of `make`). Client libraries come from the public registries of
# each language and are kept in the cache directory. A client whose runtime is missing is reported as SKIPPED, loudly,
# and never counts as passed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/magnetar
target=${CARGO_TARGET_DIR:-$cache/target}
magnetar=${MAGNETAR:-$target/release/magnetar}
[ -x "$magnetar" ] || { echo "no binary at $magnetar; build it with: make build"; exit 2; }
clients=("$@"); [ ${#clients[@]} -gt 0 ] || clients=(kcat kafka-cli java go python javascript)

scratch=$(mktemp -d)
server=
stop_server() { [ -n "$server" ] && kill "$1" "$server" 2>/dev/null && wait "$server" 2>/dev/null; server=; }
trap 'stop_server -KILL; rm -rf "$scratch"' EXIT

free_port() { # a port nobody listens on
  local port
  while :; do
    port=$((10000 + RANDOM % 20000)) # below the ports the system gives to clients
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
}
start_server() { # data directory, kafka port, admin port
  "$magnetar" standalone --data-dir "$1" --kafka-address "127.0.0.1:$2" --admin-address "127.0.0.1:$3" \
    --set group.initial.rebalance.delay.ms=0 --set num.partitions=3 >>"$scratch/server.log" 2>&1 &
  server=$!
  for _ in $(seq 1 200); do
    curl -fs "http://127.0.0.1:$3/ready" >/dev/null 2>&1 && return 0
    kill -0 "$server" 2>/dev/null || break
    sleep 0.05
  done
  echo "the server did not become ready:"; tail -20 "$scratch/server.log"; return 1
}

passed=0 failed=0 skipped=0
declare -A verdicts
for client in "${clients[@]}"; do
  dir=$here/$client
  [ -x "$dir/scenario.sh" ] || { echo "no such client: $client"; exit 2; }
  export CLIENT_CACHE=$cache/clients/$client TOPIC=scenario-$client GROUP=group-$client
  mkdir -p "$CLIENT_CACHE"
  log=$scratch/$client.log
  if ! why=$("$dir/scenario.sh" setup 2>"$log"); then
    echo "!!! SKIPPED $client: ${why:-$(tail -1 "$log")}"
    verdicts[$client]="SKIPPED (${why:-see log})"; skipped=$((skipped + 1)); continue
  fi
  kafka=$(free_port) admin=$(free_port) data=$scratch/data-$client
  export BOOTSTRAP=127.0.0.1:$kafka
  verdict=FAILED
  if start_server "$data" "$kafka" "$admin" && timeout 180 "$dir/scenario.sh" first >>"$log" 2>&1; then
    stop_server -TERM
    if start_server "$data" "$kafka" "$admin" && timeout 180 "$dir/scenario.sh" second >>"$log" 2>&1; then
      verdict=passed
    fi
  fi
  stop_server -KILL
  if [ $verdict = passed ]; then passed=$((passed + 1)); else
    failed=$((failed + 1)); echo "--- $client failed; the end of its log:"; tail -25 "$log"
  fi
  verdicts[$client]=$verdict
done
echo
for client in "${clients[@]}"; do printf '%-12s %s\n' "$client" "${verdicts[$client]}"; done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
