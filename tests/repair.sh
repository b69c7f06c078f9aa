#!/usr/bin/env bash
# The figures of repair in BENCHMARKS.md: a cluster of four bookies on this disk, filled, then one bookie is killed for good.
# Prints how fast the others copy what it held, against repair.bandwidth and the bare disk, and what producers feel of it.
#
#   tests/repair.sh             about three minutes
#
# MAGNETAR names the binary (default: target directory of `make`), FILL the seconds of filling (20), RATE the records per
# second of the producers that are watched (1000), BANDWIDTH what each bookie may copy per second (32MiB).
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/magnetar
magnetar=${MAGNETAR:-${CARGO_TARGET_DIR:-$cache/target}/release/magnetar}
[ -x "$magnetar" ] || { echo "no binary at $magnetar; build it with: make build"; exit 2; }
fill=${FILL:-20} rate=${RATE:-1000} bandwidth=${BANDWIDTH:-32MiB}
mkdir -p "$cache/bench"
scratch=$(mktemp -d -p "$cache/bench")
launcher=
: >"$scratch/out"
trap '[ -n "$launcher" ] && kill -INT "$launcher" 2>/dev/null && wait "$launcher" 2>/dev/null; rm -rf "$scratch"' EXIT

"$magnetar" cluster --dir "$scratch/cluster" --bookies 4 --any-port --set repair.bandwidth="$bandwidth" \
  --set repair.grace=2s >"$scratch/out" 2>&1 &
launcher=$!
until grep -q '^Kafka clients connect' "$scratch/out"; do
  kill -0 "$launcher" 2>/dev/null || { cat "$scratch/out"; exit 2; }
  sleep 0.1
done
address() { awk -v p="$1" '$1 == p { print $3 }' "$scratch/out"; }
metrics() { awk '$1 ~ /^bookie-/ { print $4 }' "$scratch/out"; }
export MAGNETAR_BOOTSTRAP MAGNETAR_METADATA
MAGNETAR_BOOTSTRAP=$(address broker) MAGNETAR_METADATA=$(address metadata)

copied() { # bytes that repair has copied, on all bookies
  for url in $(metrics); do curl -fs "$url/metrics" 2>/dev/null || true; done |
    awk '/^magnetar_bookie_repair_copied_bytes_total/ { sum += $2 } END { printf "%.0f\n", sum }'
}
left() { curl -fs "$(awk '$1 == "metadata" { print $4 }' "$scratch/out")/metrics" |
  awk '/^magnetar_controller_repair_left_bytes/ { printf "%.0f\n", $2 }'; }

echo "filling for $fill s"
"$magnetar" bench produce --topic fill --duration "${fill}s" --partitions 12 | grep -E 'produced|disk' | sed 's/^/  /'
echo "healthy, $rate records/s of 1 KiB"
"$magnetar" bench produce --topic watched --rate "$rate" --duration 20s --partitions 4 | grep -E 'latency|disk' | sed 's/^/  /'
before=$(copied)
kill -KILL "$(awk '$1 == "bookie-4" { print $2 }' "$scratch/out")"
echo "bookie 4 killed for good, the same load meanwhile"
"$magnetar" bench produce --topic watched --rate "$rate" --duration 40s --partitions 4 >"$scratch/during" 2>/dev/null &
load=$!
until [ "$(copied)" -gt "$before" ]; do sleep 0.1; done
begin=$(date +%s%N) quiet=0
while [ "$quiet" -lt 10 ]; do
  sleep 0.2
  if [ "$(left)" -eq 0 ]; then quiet=$((quiet + 1)); else quiet=0 end=$(date +%s%N); fi
done
bytes=$(($(copied) - before))
awk -v b="$bytes" -v ns="$((${end:-$(date +%s%N)} - begin))" -v w="$bandwidth" 'BEGIN {
  printf "  repair    %.1f MB copied in %.1f s: %.1f MB/s on three bookies, %.1f MB/s each of %s allowed\n",
    b / 1e6, ns / 1e9, b * 1e3 / ns, b * 1e3 / ns / 3, w }'
wait "$load"
grep -E 'latency' "$scratch/during" | sed 's/^/  /'
"$magnetar" verify fill | tail -1
