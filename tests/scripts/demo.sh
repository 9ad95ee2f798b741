#!/usr/bin/env bash
# `make demo`: a master and an agent, a task in a container, its statistics, a
# task that is killed at its memory limit; then proof that nothing is left.
set -euo pipefail
cd "$(dirname "$0")/../.."
CARGO=${CARGO:-cargo}
TARGET=${TARGET:-${CARGO_TARGET_DIR:-$PWD/target}}
if [ "$(id -u)" -ne 0 ]; then
  echo "make demo needs root: containers with enforced limits are made of cgroups and namespaces" >&2
  exit 1
fi
title() { printf '\n\033[1m%s\033[0m\n' "$*"; }

title "Building"
"$CARGO" build --quiet --workspace --bins
bulkhead=$TARGET/debug/bulkhead
dir=$(mktemp -d)
cluster=
cleanup() {
  [ -n "$cluster" ] && kill -INT "$cluster" 2>/dev/null && wait "$cluster" 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT
title "A cluster: bulkhead local"
"$bulkhead" local --json --work-dir "$dir/cluster" >"$dir/cluster.json" 2>"$dir/cluster.err" &
cluster=$!
for _ in $(seq 300); do
  [ -s "$dir/cluster.json" ] && break
  kill -0 "$cluster" 2>/dev/null || { cat "$dir/cluster.err" "$dir"/cluster/*.log; exit 1; }
  sleep 0.1
done
field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' "$dir/cluster.json"; }
master=$(field master) agent=$(field agent) cgroups_root=$(field cgroups_root)
[ -n "$master" ] || { echo "the cluster did not start" >&2; cat "$dir"/cluster/*.log >&2; exit 1; }
echo "master http://$master   agent http://$agent"

title "A task inside a container: bulkhead run --cpu-limit=0.5 --mem=64"
"$bulkhead" run --master "$master" --name hello --cpus=0.1 --cpu-limit=0.5 --mem=64 --command '
  echo "hello from a container: pid $$ of $(ls -d /proc/[0-9]* | wc -l) processes, sandbox $MESOS_SANDBOX"
  echo "cgroup: $(grep -E "memory|^0:" /proc/self/cgroup | head -1)"'

title "Statistics of a running task: GET /monitor/statistics"
"$bulkhead" run --master "$master" --name busy --cpus=0.1 --cpu-limit=0.5 --mem=64 --no-follow \
  --command 'while :; do :; done' 2>"$dir/busy.err" &
busy=$!
sleep 6
python3 - "$agent" <<'PY'
import json, sys, urllib.request
entry = json.load(urllib.request.urlopen("http://%s/monitor/statistics" % sys.argv[1], timeout=10))[0]
print("executor_id", entry["executor_id"])
for name in sorted(entry["statistics"]):
    print("  %-32s %s" % (name, entry["statistics"][name]))
PY
"$bulkhead" top --master "$master" --once --interval 1
task=$("$bulkhead" ps --master "$master" --json | sed -n 's/.*"id":"\(busy[^"]*\)".*/\1/p' | head -1)
kill -INT "$busy" && wait "$busy" || true
tail -2 "$dir/busy.err"

title "A task that wants 200 MB of its 64 MB"
code=0
"$bulkhead" run --master "$master" --name greedy --mem=64 \
  --command 'head -c 200m /dev/zero | tail | wc -c' || code=$?
[ "$code" -ne 0 ] || { echo "the greedy task was not killed" >&2; exit 1; }
"$bulkhead" ps --master "$master" --all

title "Cleaning up"
kill -INT "$cluster"
wait "$cluster" || { echo "the cluster did not stop cleanly" >&2; cat "$dir/cluster.err" >&2; exit 1; }
cluster=
# Every process of the cluster has its directory in its command line, its
# environment or its maps (the shims map their exit record there).
processes() {
  local p
  for p in /proc/[0-9]*; do
    [ "${p#/proc/}" = $$ ] && continue
    if grep -qsaF "$dir/cluster" "$p/cmdline" "$p/environ" "$p/maps" 2>/dev/null; then
      printf '%s %s\n' "${p#/proc/}" "$(tr '\0' ' ' 2>/dev/null <"$p/cmdline")"
    fi
  done
}
left=0
check() { # check WHAT COMMAND...: nothing must be printed
  local found
  found=$("${@:2}" || true)
  if [ -z "$found" ]; then echo "no $1 left"; else printf 'left behind (%s):\n%s\n' "$1" "$found"; left=1; fi
}
check processes processes
check cgroups find /sys/fs/cgroup -type d -name "$cgroups_root"
check mounts grep -F "$dir" /proc/self/mounts
rm -rf "$dir/cluster"
check files find "$dir" -name cluster
exit $left
