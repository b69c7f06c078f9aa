#!/usr/bin/env bash
# Runs librdkafka's own test suite (the one inside the rdkafka-sys crate) against a fresh standalone server: one
# process per test, never in quick mode, and prints a table. A test that ends in less than 5 ms has skipped itself and
# is counted as such, not as passed.
#
#   tests/librdkafka/run.sh                 the S0 to S4 gates and every other test that needs one plain broker
#   tests/librdkafka/run.sh 0001 0103       some
#   tests/librdkafka/run.sh --write ...     also writes the table to tests/librdkafka/results.md
#
# Needs a C and C++ compiler, make, python3 and the development files of OpenSSL and zlib (Debian: build-essential
# python3 libssl-dev zlib1g-dev). MAGNETAR names the binary (default: target directory of `make`).
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/magnetar
target=${CARGO_TARGET_DIR:-$cache/target}
magnetar=${MAGNETAR:-$target/release/magnetar}
[ -x "$magnetar" ] || { echo "no binary at $magnetar; build it with: make build"; exit 2; }
write=; [ "${1:-}" = --write ] && { write=1; shift; }
all="0001 0002 0003 0004 0005 0007 0008 0009 0011 0012 0013 0014 0015 0016 0017 0018 0019 0020 0021 0022 0026 0029 0030
 0031 0033 0034 0035 0036 0038 0039 0040 0041 0042 0044 0045 0048 0049 0050 0051 0054 0055 0056 0057 0059 0060 0061 0063
 0064 0065 0067 0068 0069 0070 0073 0075 0076 0081 0082 0083 0084 0085 0086 0088 0089 0090 0091 0093 0094 0099 0102 0103
 0112 0113 0114 0118 0121 0122 0123 0125 0127 0129 0130 0132 0137 0139 0140"
tests=("$@"); [ ${#tests[@]} -gt 0 ] || read -ra tests <<<"$(echo $all)"

# Build the runner once, outside of the clone.
build=$cache/librdkafka-suite
if [ ! -x "$build/tests/test-runner" ]; then
  manifest=$(cd "$root" && cargo metadata --format-version 1 | python3 -c '
import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "rdkafka-sys"))')
  rm -rf "$build"; mkdir -p "$cache"; cp -r "$(dirname "$manifest")/librdkafka" "$build" || exit 2
  (cd "$build" && ./configure --disable-curl --disable-gssapi && make -j2 libs && make -j2 -C tests build) >"$cache/librdkafka-suite.log" 2>&1 ||
    { echo "librdkafka's test runner does not build:"; tail -20 "$cache/librdkafka-suite.log"; exit 2; }
fi

scratch=$(mktemp -d)
server=
trap '[ -n "$server" ] && kill -KILL "$server" 2>/dev/null; rm -rf "$scratch"' EXIT
kafka=$((10000 + RANDOM % 10000)) admin=$((20000 + RANDOM % 10000)) # below the ports the system gives to clients
start_server() {
  # What the suite's default scenario expects of a broker. Without a rebalance delay the second consumer of 0113 comes too
  # late for the first rebalance, which the test does not allow for.
  "$magnetar" standalone --data-dir "$scratch/data" --kafka-address "127.0.0.1:$kafka" \
    --admin-address "127.0.0.1:$admin" --set num.partitions=4 --set auto.create.topics.enable=true \
    --set group.initial.rebalance.delay.ms=500 --set message.max.bytes=20000000 \
    --set group.min.session.timeout.ms=3000 >>"$scratch/server.log" 2>&1 &
  server=$!
  for _ in $(seq 1 200); do
    curl -fs "http://127.0.0.1:$admin/ready" >/dev/null 2>&1 && return 0
    kill -0 "$server" 2>/dev/null || break
    sleep 0.05
  done
  echo "the server did not become ready:"; tail -20 "$scratch/server.log"; exit 2
}
start_server
cd "$build/tests" || exit 2
printf 'bootstrap.servers=127.0.0.1:%s\ntest.timeout.multiplier=2\n' "$kafka" >test.conf
# Why a test is not expected to pass yet, for the table.
reason() {
  case $1 in
    0055 | 0061 | 0103 | 0129 | 0137) echo "needs transactions" ;;
    0081) echo "needs access control lists" ;;
    0049 | 0068 | 0075 | 0076 | 0086 | 0088 | 0094) echo "needs librdkafka's socket emulator, which is off (-E)" ;;
  esac
}
passed=0 failed=0 skipped=0
table=$scratch/table
for id in "${tests[@]}"; do
  kill -0 "$server" 2>/dev/null || { echo "!!! the server died before $id:"; tail -20 "$scratch/server.log"; start_server; }
  begin=$(date +%s)
  TEST_KAFKA_VERSION=4.1.0 TEST_REPORT=$scratch/$id.json TESTS=$id LD_LIBRARY_PATH=../src:../src-cpp \
    timeout 1500 ./test-runner -p1 -E >"$scratch/$id.log" 2>&1
  code=$?
  took=$(($(date +%s) - begin))
  read -r name verdict <<<"$(python3 - "$scratch/$id.json" "$code" "$id" <<'PY'
import json, sys
try:
    tests = json.load(open(sys.argv[1]))["tests"]
except Exception:
    tests = {}
tests = {n: t for n, t in tests.items() if n.startswith(sys.argv[3])}
for name, t in tests.items():
    state = t.get("state", "?")
    if sys.argv[2] not in ("0", "124") and state == "PASSED":
        state = "FAILED"
    if state == "SKIPPED" or (state == "PASSED" and float(t.get("duration", 0)) < 0.005):
        print(name, "skipped"); break
    if state == "PASSED":
        print(name, "passed"); break
    print(name, "FAILED"); break
else:
    print("?", {"124": "TIMEOUT", "0": "skipped"}.get(sys.argv[2], "FAILED"))
PY
)"
  case $verdict in passed) passed=$((passed + 1));; skipped) skipped=$((skipped + 1));; *) failed=$((failed + 1))
    cp "$scratch/$id.log" "$cache/librdkafka-$id.log" ;; esac
  printf '%s %-40s %-8s %4ss\n' "$id" "$name" "$verdict" "$took"
  why=; [ "$verdict" = passed ] || why=$(reason "$id")
  echo "| $id | $name | $verdict | $why |" >>"$table"
done
echo "$passed passed, $failed failed, $skipped skipped"
if [ -n "$write" ]; then
  { echo "# librdkafka's own suite against Magnetar"; echo
    echo "\`tests/librdkafka/run.sh --write\`, $(date +%F), librdkafka $(cat "$build/.version" 2>/dev/null || grep -m1 -oE 'v[0-9.]+' "$build/CHANGELOG.md")."
    echo "$passed passed, $failed failed, $skipped skipped themselves."; echo
    echo "| id | test | result | why |"; echo "|---|---|---|---|"; cat "$table"; } >"$here/results.md"
fi
[ $failed -eq 0 ]
