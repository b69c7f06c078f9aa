#!/usr/bin/env bash
# Puts through three-node metadata clusters on this machine, synced to disk before they are acknowledged: Magnetar,
# ZooKeeper 3.8 and etcd 3.4, with the same clients, one after the other, and the bare disk after each. Prints medians of
# the ratios within a round, how far they spread, and says so if the disk moved too much to judge.
#
#   tests/rivals.sh                            all of it, about 25 minutes
#   CLIENTS=64 ROUNDS=5 tests/rivals.sh        one number of clients
#   TARGETS="zookeeper etcd" tests/rivals.sh   without Magnetar
#
# MAGNETAR names the binary (default: target directory of `make`), DURATION how long a run lasts (10s), VALUE the bytes of
# a value (200), IN_FLIGHT the calls of a client under way (1), MIX the share of reads (read=0), DISK the directory
# whose disk is used (default: the cache directory), KEEP a file that keeps every single figure.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/magnetar
magnetar=${MAGNETAR:-${CARGO_TARGET_DIR:-$cache/target}/release/magnetar}
[ -x "$magnetar" ] || { echo "no binary at $magnetar; build it with: make build"; exit 2; }
case $("$magnetar" --version) in *invariants*) echo "$magnetar was built for tests; build it with: make build"; exit 2 ;; esac
rounds=${ROUNDS:-5} duration=${DURATION:-10s} value=${VALUE:-200} in_flight=${IN_FLIGHT:-1} mix=${MIX:-read=0}
read -ra counts <<<"${CLIENTS:-1 16 64 256}"
read -ra wanted <<<"${TARGETS:-magnetar zookeeper etcd}"
zookeeper_jar=/usr/share/java/zookeeper.jar
disk=${DISK:-$cache/bench}
mkdir -p "$disk"
scratch=$(mktemp -d -p "$disk")
pids=()
base=$((10000 + RANDOM % 200 * 100)) # below the ports that the system gives to clients

stop_all() { # only what was started here
  [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null || true
  for _ in $(seq 50); do
    kill -0 "${pids[@]}" 2>/dev/null || break
    sleep 0.1
  done
  [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$scratch"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

launch() { # launch TARGET NODE COMMAND..: in the background, its words in TARGET-NODE.log
  local target=$1 node=$2; shift 2
  "$@" >"$scratch/$target-$node.log" 2>&1 &
  pids+=($!)
  processes[$target]+=" /proc/$!/stat"
}

cpu() { # CPU seconds of a target's servers so far; the name of a program may hold blanks, so it is cut off
  # shellcheck disable=SC2086
  cat ${processes[$1]} | sed 's/.*) //' | awk -v hz="$(getconf CLK_TCK)" '{ t += $12 + $13 } END { printf "%.2f", t / hz }'
}

start_magnetar() {
  local join=()
  for n in 1 2 3; do
    if [ "$n" -gt 1 ]; then
      "$magnetar" metadata start --help | grep -q -- '--join' || {
        echo "NOT A CLUSTER: this build of Magnetar has single metadata nodes only, so one node is measured"
        break
      }
      join=(--id "$n" --join "127.0.0.1:$((base + 1))" --peer-address "127.0.0.1:$((base + 10 + n))")
    elif "$magnetar" metadata start --help | grep -q -- '--peer-address'; then
      join=(--peer-address "127.0.0.1:$((base + 10 + n))")
    fi
    launch magnetar "$n" "$magnetar" metadata start --data-dir "$scratch/magnetar-$n" --log warn \
      --address "127.0.0.1:$((base + n))" --admin-address "127.0.0.1:$((base + 20 + n))" "${join[@]}"
    servers[magnetar]+=${servers[magnetar]:+,}127.0.0.1:$((base + n))
    await_serving magnetar "${servers[magnetar]}"
  done
}

start_zookeeper() {
  [ -e "$zookeeper_jar" ] && command -v java >/dev/null || {
    echo "SKIPPED: ZooKeeper is not installed; apt-get install zookeeper"
    return 1
  }
  local quorum n
  for n in 1 2 3; do quorum+="server.$n=127.0.0.1:$((base + 40 + n)):$((base + 50 + n))"$'\n'; done
  for n in 1 2 3; do
    mkdir -p "$scratch/zookeeper-$n"
    echo "$n" >"$scratch/zookeeper-$n/myid"
    # As the administrator's guide has it. forceSync is the default and named only to be seen; snapshots are as by
    # default (every 100,000 transactions). More than 60 clients come from one address here, which is the usual limit.
    cat >"$scratch/zookeeper-$n.cfg" <<CFG
tickTime=2000
initLimit=10
syncLimit=5
dataDir=$scratch/zookeeper-$n
clientPortAddress=127.0.0.1
clientPort=$((base + 30 + n))
maxClientCnxns=0
forceSync=yes
admin.enableServer=false
$quorum
CFG
    # A heap that the data never fills, allocated at once; everything else is the JVM's own choice. Without a binding of
    # slf4j on the class path it does not log, which costs nothing.
    launch zookeeper "$n" java -Xms1g -Xmx1g -cp "$zookeeper_jar" \
      org.apache.zookeeper.server.quorum.QuorumPeerMain "$scratch/zookeeper-$n.cfg"
    servers[zookeeper]+=${servers[zookeeper]:+,}127.0.0.1:$((base + 30 + n))
  done
  await_serving zookeeper "${servers[zookeeper]}"
}

start_etcd() {
  command -v etcd >/dev/null || {
    echo "SKIPPED: etcd is not installed; apt-get install etcd-server"
    return 1
  }
  local cluster n
  for n in 1 2 3; do cluster+=${cluster:+,}n$n=http://127.0.0.1:$((base + 70 + n)); done
  for n in 1 2 3; do
    # Everything as by default: synced log, a snapshot every 100,000 entries, 100 ms heartbeats, 2 GiB of data at most.
    launch etcd "$n" etcd --name "n$n" --data-dir "$scratch/etcd-$n" --logger zap --log-level warn \
      --listen-client-urls "http://127.0.0.1:$((base + 60 + n))" \
      --advertise-client-urls "http://127.0.0.1:$((base + 60 + n))" \
      --listen-peer-urls "http://127.0.0.1:$((base + 70 + n))" \
      --initial-advertise-peer-urls "http://127.0.0.1:$((base + 70 + n))" --initial-cluster "$cluster"
    servers[etcd]+=${servers[etcd]:+,}127.0.0.1:$((base + 60 + n))
  done
  await_serving etcd "${servers[etcd]}"
}

await_serving() { # await_serving TARGET SERVERS
  local deadline=$((SECONDS + 60))
  until "$magnetar" bench metadata --target "$1" --servers "$2" --clients 3 --keys 3 --warm-up 0s --duration 50ms \
    >"$scratch/serving" 2>&1; do
    [ $SECONDS -lt $deadline ] || {
      echo "$1 does not serve:"
      tail -n 5 "$scratch/serving" "$scratch/$1"-*.log
      exit 2
    }
    sleep 0.3
  done
}

measure() { # measure TARGET CLIENTS [DURATION]: one line of JSON; an error of a call is in it and does not end the run
  local before; before=$(cpu "$1")
  "$magnetar" bench metadata --target "$1" --servers "${servers[$1]}" --clients "$2" --in-flight "$in_flight" \
    --value-size "$value" --mix "$mix" --duration "${3:-$duration}" --json >"$scratch/measured" \
    2>"$scratch/problem" || echo "  $1 with $2 clients: $(cat "$scratch/problem")" >&2
  sed "s/^{/{\"server_cpu_seconds\":$(awk -v a="$before" -v b="$(cpu "$1")" 'BEGIN { print b - a }'),/" "$scratch/measured"
}

echo "# $(date +%F), $(nproc) cores, $("$magnetar" --version), values of $value bytes, $in_flight in flight, $mix"
declare -A servers=() processes=()
targets=()
for target in "${wanted[@]}"; do
  case $target in magnetar | zookeeper | etcd) ;; *) echo "no such target: $target"; exit 2 ;; esac
  # Whoever is not measured stands idle, which costs a heartbeat now and then; a new start would cost the JVM its warmth.
  if "start_$target"; then targets+=("$target"); fi
done
[ ${#targets[@]} -gt 0 ] || exit 2
for target in "${targets[@]}"; do measure "$target" 64 5s >/dev/null; done

for round in $(seq "$rounds"); do
  for count in "${counts[@]}"; do
    for target in "${targets[@]}"; do
      measure "$target" "$count" | sed "s/^{/{\"round\":$round,\"load\":$count,/" >>"$scratch/figures"
      "$magnetar" bench metadata probe --data-dir "$scratch" --value-size "$value" |
        sed "s/^{/{\"round\":$round,\"load\":$count,/" >>"$scratch/figures"
    done
  done
  echo "round $round of $rounds is over"
done
[ -z "${KEEP:-}" ] || cp "$scratch/figures" "$KEEP"

python3 - "$scratch/figures" <<'PY'
import collections, json, statistics, sys

AIMS = {"zookeeper": 2.0, "etcd": 3.0}
MOVED = 1.25  # a disk that changes by more than this within a round says nothing about that round
runs = collections.defaultdict(dict)  # (load, round) -> target -> figures
disk = collections.defaultdict(list)  # (load, round) -> appends per second
for line in open(sys.argv[1]):
    figure = json.loads(line)
    at = (figure["load"], figure["round"])
    if figure["target"] == "disk":
        disk[at].append(figure["appends_per_second"])
    else:
        runs[at][figure["target"]] = figure

def rate(figure):
    return figure["puts"]["per_second"] + figure["reads"]["per_second"]

for load in sorted({load for load, _ in runs}):
    rounds = [at for at in runs if at[0] == load]
    print(f"\n{load} clients, rounds: {len(rounds)}")
    for target in ("magnetar", "zookeeper", "etcd"):
        found = [runs[at][target] for at in rounds if target in runs[at]]
        if not found:
            continue
        rates = [rate(f) for f in found]
        kind = "puts" if any(f["puts"]["per_second"] for f in found) else "reads"
        p50, p99, p999 = (statistics.median(f[kind][q] for f in found) / 1000 for q in ("p50_us", "p99_us", "p999_us"))
        print(f"  {target:10} {statistics.median(rates):8.0f}/s ({min(rates):.0f} to {max(rates):.0f})   {kind} p50 {p50:.2f} ms  "
              f"p99 {p99:.2f} ms  p99.9 {p999:.2f} ms   {sum(f['errors'] for f in found)} errors, {found[0]['servers']} servers")
        servers, clients = (statistics.median(1e6 * f[name] / f["calls"] for f in found)
                            for name in ("server_cpu_seconds", "client_cpu_seconds"))
        print(f"  {'':10} CPU of one call: {servers:.0f} us in the servers, {clients:.0f} us in its client")
    probes = [p for at in rounds for p in disk[at]]
    moved = sum(max(disk[at]) > MOVED * min(disk[at]) for at in rounds if disk[at])
    print(f"  {'disk':10} {statistics.median(probes):8.0f}/s ({min(probes):.0f} to {max(probes):.0f})   one append and fdatasync after the other; "
          f"moved by more than 25 % within {moved} of {len(rounds)} rounds")
    for rival, aim in AIMS.items():
        pairs = [(runs[at]["magnetar"], runs[at][rival]) for at in rounds if {"magnetar", rival} <= runs[at].keys()]
        ratios = [rate(ours) / rate(theirs) for ours, theirs in pairs if rate(theirs) > 0]
        if not ratios:
            continue
        median = statistics.median(ratios)
        verdict = "reached" if median >= aim else "NOT reached"
        if any(ours["servers"] != theirs["servers"] for ours, theirs in pairs):
            verdict = "not comparable, the clusters have different sizes"
        elif moved * 2 > len(rounds):
            verdict += ", but the disk moved too much to judge"
        print(f"  magnetar / {rival}: {median:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), aim {aim}: {verdict}")
PY
