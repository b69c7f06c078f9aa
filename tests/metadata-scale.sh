#!/usr/bin/env bash
# How large a metadata state may get: a node is filled with many keys; its memory is read from /proc, then it is started
# again and must be ready, after a clean stop and after SIGKILL. Then many sessions and watches are held. With a build that
# has clusters, an empty node joins at the end and is timed until it has caught up.
#
#   tests/metadata-scale.sh               1,000,000 keys of 200 bytes, 100,000 sessions and watches: a few minutes
#   KEYS=100000 HELD=10000 tests/metadata-scale.sh
#
# MAGNETAR names the binary (default: target directory of `make`), VALUE the bytes of a value (200), DISK the directory whose
# disk is used (default: the cache directory).
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/magnetar
magnetar=${MAGNETAR:-${CARGO_TARGET_DIR:-$cache/target}/release/magnetar}
[ -x "$magnetar" ] || { echo "no binary at $magnetar; build it with: make build"; exit 2; }
case $("$magnetar" --version) in *invariants*) echo "$magnetar was built for tests; build it with: make build"; exit 2 ;; esac
keys=${KEYS:-1000000} held=${HELD:-100000} value=${VALUE:-200} disk=${DISK:-$cache/bench}
mkdir -p "$disk"
scratch=$(mktemp -d -p "$disk")
declare -A nodes=() # process of each node
base=$((10000 + RANDOM % 200 * 100)) # below the ports that the system gives to clients
export MAGNETAR_METADATA=127.0.0.1:$((base + 1))

stop_all() { # only what was started here
  local pid
  for pid in "${nodes[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$scratch"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

now() { date +%s%N; }
since() { awk -v ns="$(($(now) - $1))" 'BEGIN { printf "%.2f s", ns / 1e9 }'; }
has_flag() { "$magnetar" metadata start --help | grep -q -- "$1"; }

start() { # start NODE [FLAG..]: returns when it is ready
  local node=$1; shift
  local peer=()
  if has_flag --peer-address; then peer=(--peer-address "127.0.0.1:$((base + 10 + node))"); fi
  "$magnetar" metadata start --data-dir "$scratch/node-$node" --log warn --address "127.0.0.1:$((base + node))" \
    --admin-address "127.0.0.1:$((base + 20 + node))" "${peer[@]}" "$@" >>"$scratch/node-$node.log" 2>&1 &
  nodes[$node]=$!
  until curl -fs "http://127.0.0.1:$((base + 20 + node))/ready" >/dev/null 2>&1; do
    kill -0 "${nodes[$node]}" 2>/dev/null || { tail "$scratch/node-$node.log"; exit 2; }
    sleep 0.01
  done
}
stop() { # stop NODE SIGNAL
  kill "-$2" "${nodes[$1]}"
  wait "${nodes[$1]}" 2>/dev/null || true
  unset "nodes[$1]"
}
resident() { awk '/^Vm(RSS|HWM)/ { printf "%s%.1f MiB", s, $2 / 1024; s = $1 ~ /HWM/ ? " at most, now " : "" }' "/proc/${nodes[1]}/status"; }
space() { du -sm "$scratch/node-1" | awk '{ print $1 " MB on disk" }'; }
metric() { curl -fs "http://127.0.0.1:$((base + 20 + $1))/metrics" | awk -v m="$2" '$1 == m { printf "%.0f\n", $2 }'; }

echo "# $(date +%F), $(nproc) cores, $("$magnetar" --version), $keys keys of $value bytes"
start 1
echo "empty        $(resident)"
echo "filled       $("$magnetar" bench metadata fill --keys "$keys" --value-size "$value")"
echo "             $(resident), $(space)"
sleep 5 # what is still written or given back after a fill
echo "5 s later    $(resident), $(space)"

stop 1 TERM; begin=$(now); start 1
echo "restarted    ready after $(since "$begin"), $(resident)"
stop 1 KILL; begin=$(now); start 1
echo "after KILL   ready after $(since "$begin"), $(resident)"

: >"$scratch/hold"
"$magnetar" bench metadata hold --sessions "$held" --watches "$held" --duration 10s >"$scratch/hold" 2>&1 &
nodes[hold]=$!
until grep -q '^holding' "$scratch/hold"; do
  kill -0 "${nodes[hold]}" 2>/dev/null || { cat "$scratch/hold"; exit 1; }
  sleep 0.1
done
echo "held         $(grep '^holding' "$scratch/hold" | cut -d' ' -f2-), $(resident)"
verdict=0
wait "${nodes[hold]}" || verdict=$?
unset "nodes[hold]"
grep -v '^holding' "$scratch/hold"
[ "$verdict" -eq 0 ] || exit 1

if has_flag --join; then
  last=$(metric 1 magnetar_metadata_applied_index)
  begin=$(now)
  start 2 --id 2 --join "$MAGNETAR_METADATA"
  until [ "$(metric 2 magnetar_metadata_applied_index || echo 0)" -ge "$last" ]; do sleep 0.05; done
  echo "joined       an empty node has caught up after $(since "$begin")"
else
  echo "joined       SKIPPED: this build of Magnetar has single metadata nodes only"
fi
