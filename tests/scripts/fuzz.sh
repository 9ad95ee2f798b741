#!/usr/bin/env bash
# `make fuzz`: every fuzz target for SECONDS_EACH seconds (default 30).
set -euo pipefail
cd "$(dirname "$0")/../../tests/fuzz"
exec "${CARGO:-cargo}" run --quiet --release -- --seconds "${1:-30}"
