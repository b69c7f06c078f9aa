#!/usr/bin/env bash
# The scenario with kcat. kcat's group mode cannot stop after a number of records and commit exactly those, so the
# group half commits whatever it read at its end: all 1000, then the 200 that follow.
set -euo pipefail
numbers() { seq "$1" "$2" | sed 's/.*/k&:v&/'; }
produce() { numbers "$1" "$2" | kcat -q -P -b "$BOOTSTRAP" -t "$TOPIC" -K: -X enable.idempotence=true -X acks=all; }
group() { timeout 60 kcat -q -b "$BOOTSTRAP" -G "$GROUP" -X auto.offset.reset=earliest -c "$1" -f '%k:%s\n' "$TOPIC" | sort -V; }
case $1 in
  setup) command -v kcat >/dev/null || { echo "kcat is not installed (Debian: apt-get install kcat)"; exit 1; } ;;
  first)
    produce 0 999
    diff <(group 1000) <(numbers 0 999)
    for codec in gzip snappy lz4 zstd; do seq 1 50 | kcat -q -P -b "$BOOTSTRAP" -t "$TOPIC-codecs" -z $codec; done ;;
  second)
    produce 1000 1199
    diff <(group 200) <(numbers 1000 1199)
    diff <(kcat -q -C -b "$BOOTSTRAP" -t "$TOPIC" -o beginning -e -f '%k:%s\n' | sort -V) <(numbers 0 1199)
    # Within a partition the numbers ascend.
    kcat -q -C -b "$BOOTSTRAP" -t "$TOPIC" -o beginning -e -f '%p %k\n' | tr -d k | sort -s -n -k1,1 |
      awk 'BEGIN { p = -1 } $1 == p && $2 <= last { print "out of order: " $0; exit 1 } { p = $1; last = $2 }'
    [ "$(kcat -q -C -b "$BOOTSTRAP" -t "$TOPIC-codecs" -o beginning -e | wc -l)" = 200 ]
    kcat -L -b "$BOOTSTRAP" | grep -q "topic \"$TOPIC\"" ;;
esac
