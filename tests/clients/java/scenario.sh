#!/usr/bin/env bash
# The scenario with Apache Kafka's own Java client, with its defaults (idempotent, acks=all, five in flight).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
case $1 in
  setup)
    command -v java >/dev/null && command -v mvn >/dev/null || { echo "a JDK (17 or newer) and Maven are not installed"; exit 1; }
    cp "$here/pom.xml" "$CLIENT_CACHE/"
    ls "$CLIENT_CACHE"/lib/kafka-tools-*.jar >/dev/null 2>&1 ||
      mvn -q -B -f "$CLIENT_CACHE/pom.xml" dependency:copy-dependencies -DoutputDirectory="$CLIENT_CACHE/lib" >&2 ||
      { echo "the Kafka jars cannot be fetched"; exit 1; } ;;
  *) java -cp "$CLIENT_CACHE/lib/*" "$here/Scenario.java" "$1" ;;
esac
