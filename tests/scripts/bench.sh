#!/usr/bin/env bash
# `make bench SCENARIO=...`: builds optimised programs and runs one scenario, or
# all. Prints a table and one JSON object per figure on a line of its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
CARGO=${CARGO:-cargo}
TARGET=${TARGET:-${CARGO_TARGET_DIR:-$PWD/target}}
all=(launch memory tasks statistics isolators images pull network gc updates recovery master docker)
wanted=${1:-all}
case "$wanted" in
  all) scenarios=("${all[@]}") ;;
  *)
    scenarios=("$wanted")
    [[ " ${all[*]} " == *" $wanted "* ]] || { echo "bench: unknown SCENARIO '$wanted' (${all[*]})" >&2; exit 2; }
    ;;
esac
tests/scripts/deps.sh build test bench
"$CARGO" build --quiet --release --workspace --bins
for scenario in "${scenarios[@]}"; do
  "$CARGO" bench --quiet -p bulkhead --bench "$scenario"
done
