#!/usr/bin/env bash
# The figures of BENCHMARKS.md: a fresh standalone server on the disk of the cache directory, the bench of the same
# binary as its client, and beside each figure the bare disk or network of the same run. Prints; judges nothing.
#
#   tests/bench.sh              everything, a few minutes
#   tests/bench.sh produce      one of: produce latency consume start idle
#
# MAGNETAR names the binary (default: target directory of `make`), DURATION how long a run lasts (default 20s).
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/magnetar
target=${CARGO_TARGET_DIR:-$cache/target}
magnetar=${MAGNETAR:-$target/release/magnetar}
[ -x "$magnetar" ] || { echo "no binary at $magnetar; build it with: make build"; exit 2; }
case $("$magnetar" --version) in *invariants*) echo "$magnetar was built for tests; build it with: make build"; exit 2 ;; esac
runs=("$@"); [ ${#runs[@]} -gt 0 ] || runs=(start idle latency produce consume)
duration=${DURATION:-20s}
mkdir -p "$cache/bench"
scratch=$(mktemp -d -p "$cache/bench")
server=
trap '[ -n "$server" ] && kill -KILL "$server" 2>/dev/null; rm -rf "$scratch"' EXIT
kafka=$((10000 + RANDOM % 10000)) admin=$((20000 + RANDOM % 10000)) # below the ports the system gives to clients
export MAGNETAR_BOOTSTRAP=127.0.0.1:$kafka

start_server() { # sets `ready`, the milliseconds until the server was
  local begin; begin=$(date +%s%N)
  "$magnetar" standalone --data-dir "$scratch/data" --kafka-address "127.0.0.1:$kafka" \
    --admin-address "127.0.0.1:$admin" --set max.connections=20000 >>"$scratch/server.log" 2>&1 &
  server=$!
  until curl -fs "http://127.0.0.1:$admin/ready" >/dev/null 2>&1; do
    kill -0 "$server" 2>/dev/null || { cat "$scratch/server.log"; exit 2; }
    sleep 0.01
  done
  ready=$((($(date +%s%N) - begin) / 1000000))
}
stop_server() { kill -TERM "$server"; wait "$server" || true; server=; }
resident() { awk '/^VmRSS/ { printf "%.1f", $2 / 1024 }' "/proc/$server/status"; }
cpu() { awk -v hz="$(getconf CLK_TCK)" '{ printf "%.2f", ($14 + $15) / hz }' "/proc/$server/stat"; }

echo "# $(date +%F), $(nproc) cores, $("$magnetar" --version)"
for run in "${runs[@]}"; do
  echo; echo "## $run"
  rm -rf "$scratch/data"
  case $run in
    start)
      start_server; echo "ready with an empty data directory after $ready ms"; stop_server
      start_server; echo "ready again after $ready ms"; stop_server ;;
    idle)
      start_server; sleep 2
      echo "resident while idle: $(resident) MiB"
      ulimit -n "$(ulimit -Hn)"
      before=$(resident)
      python3 - "$kafka" "$server" <<'PY'
import socket, sys, time
held = []
try:
    for _ in range(10_000):
        held.append(socket.create_connection(("127.0.0.1", int(sys.argv[1]))))
except OSError as problem:
    print("the limit on open files stops us:", problem)
time.sleep(2)
resident = next(line for line in open(f"/proc/{sys.argv[2]}/status") if line.startswith("VmRSS"))
print(f"resident with {len(held)} idle connections: {int(resident.split()[1]) / 1024:.1f} MiB")
PY
      echo "(before them: $before MiB)"; stop_server ;;
    latency)
      start_server
      "$magnetar" bench produce --producers 1 --in-flight 1 --partitions 1 --topic latency --duration "$duration" --probe-dir "$scratch"
      stop_server ;;
    produce)
      start_server
      "$magnetar" bench produce --duration "$duration" --probe-dir "$scratch"
      echo "server: $(cpu) CPU seconds, $(resident) MiB resident"; stop_server ;;
    consume)
      start_server
      "$magnetar" bench produce --topic tail --producers 2 --records 120000 --duration 60s --no-probe
      "$magnetar" bench consume --topic tail --passes 8
      "$magnetar" bench consume --topic tail --passes 40 --bare
      echo "server: $(cpu) CPU seconds, $(resident) MiB resident"; stop_server ;;
    *) echo "no such run: $run"; exit 2 ;;
  esac
done
