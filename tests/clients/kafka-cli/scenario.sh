#!/usr/bin/env bash
# The scenario with Apache Kafka's own command-line tools, and the administration people do with them. The console
# consumer commits what it read when it ends, so the group half stops by --max-messages and commits exactly those.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tool() { local class=$1; shift; java -cp "$CLIENT_CACHE/lib/*" "org.apache.kafka.tools.$class" --bootstrap-server "$BOOTSTRAP" "$@"; }
topics() { tool TopicCommand "$@"; }
groups() { tool consumer.group.ConsumerGroupCommand "$@"; }
configs() { java -cp "$CLIENT_CACHE/lib/*" kafka.admin.ConfigCommand --bootstrap-server "$BOOTSTRAP" "$@"; }
consume() { tool consumer.ConsoleConsumer --topic "$TOPIC" --timeout-ms 20000 "$@" 2>"$CLIENT_CACHE/consumer.err"; }
produce() { seq "$1" "$2" | sed 's/.*/k&:v&/' | tool ConsoleProducer --topic "$TOPIC" --property parse.key=true --property key.separator=:; }
expect() { grep -qE -- "$1" <<<"$2" || { echo "expected /$1/ in:"; echo "$2"; exit 1; }; }
case $1 in
  setup)
    command -v java >/dev/null && command -v mvn >/dev/null || { echo "a JDK (17 or newer) and Maven are not installed"; exit 1; }
    cp "$here/../java/pom.xml" "$CLIENT_CACHE/"
    ls "$CLIENT_CACHE"/lib/kafka-tools-*.jar >/dev/null 2>&1 ||
      mvn -q -B -f "$CLIENT_CACHE/pom.xml" dependency:copy-dependencies -DoutputDirectory="$CLIENT_CACHE/lib" >&2 ||
      { echo "the Kafka jars cannot be fetched"; exit 1; } ;;
  first)
    topics --create --topic "$TOPIC" --partitions 3 --replication-factor 1 --config retention.ms=86400000
    expect "^$TOPIC\$" "$(topics --list)"
    produce 0 999
    [ "$(consume --group "$GROUP" --from-beginning --max-messages 500 | wc -l)" = 500 ]
    state=$(groups --describe --all-groups)
    # Committed 500 of 1000: the lags of the three partitions add up to the rest.
    awk -v t="$TOPIC" '$2 == t { ends += $5; lag += $6 } END { exit !(ends == 1000 && lag == 500) }' <<<"$state" || { echo "$state"; exit 1; }
    expect "$GROUP" "$(groups --list)" ;;
  second)
    expect "PartitionCount: 3.*ReplicationFactor: 1.*retention.ms=86400000" "$(topics --describe --topic "$TOPIC")"
    produce 1000 1199
    [ "$(consume --group "$GROUP" --max-messages 700 | wc -l)" = 700 ]
    [ "$(consume --from-beginning --max-messages 1200 | sort -u | wc -l)" = 1200 ]
    state=$(groups --describe --group "$GROUP")
    awk -v t="$TOPIC" '$2 == t { lag += $6; n++ } END { exit !(n == 3 && lag == 0) }' <<<"$state" || { echo "$state"; exit 1; }
    groups --group "$GROUP" --topic "$TOPIC" --reset-offsets --to-earliest --execute
    state=$(groups --describe --group "$GROUP")
    awk -v t="$TOPIC" '$2 == t { lag += $6 } END { exit !(lag == 1200) }' <<<"$state" || { echo "$state"; exit 1; }
    groups --delete --group "$GROUP"
    [ -z "$(groups --list | grep -x "$GROUP" || true)" ]
    topics --alter --topic "$TOPIC" --partitions 5
    expect "PartitionCount: 5" "$(topics --describe --topic "$TOPIC")"
    configs --alter --entity-type topics --entity-name "$TOPIC" --add-config max.message.bytes=2000000
    expect "max.message.bytes=2000000" "$(configs --describe --entity-type topics --entity-name "$TOPIC")"
    configs --alter --entity-type topics --entity-name "$TOPIC" --delete-config max.message.bytes
    expect "log.retention" "$(configs --describe --entity-type brokers --entity-default --all; configs --describe --entity-type brokers --entity-name 1 --all)"
    topics --delete --topic "$TOPIC"
    [ -z "$(topics --list | grep -x "$TOPIC" || true)" ] ;;
esac
