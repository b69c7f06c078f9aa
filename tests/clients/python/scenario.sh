#!/usr/bin/env bash
# The scenario with confluent-kafka (librdkafka) and again with kafka-python (pure Python).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
case $1 in
  setup)
    command -v python3 >/dev/null || { echo "python3 is not installed"; exit 1; }
    [ -x "$CLIENT_CACHE/bin/python" ] || python3 -m venv "$CLIENT_CACHE" >&2 || { echo "python3 cannot make a venv (Debian: apt-get install python3-venv)"; exit 1; }
    "$CLIENT_CACHE/bin/python" -c 'import confluent_kafka, kafka' 2>/dev/null ||
      "$CLIENT_CACHE/bin/pip" install -q 'confluent-kafka>=2.5' 'kafka-python>=2.1' >&2 || { echo "the libraries cannot be installed"; exit 1; } ;;
  *)
    "$CLIENT_CACHE/bin/python" "$here/scenario.py" confluent "$1"
    "$CLIENT_CACHE/bin/python" "$here/scenario.py" pure "$1" ;;
esac
