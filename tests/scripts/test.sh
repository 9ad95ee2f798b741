#!/usr/bin/env bash
# `make test` and `make quick`: runs every step, goes on after a failure, and
# closes with the sum. A test that lacks a prerequisite is SKIPPED and listed;
# with REQUIRE_ALL=1 (the default in CI) that is an error instead.
set -uo pipefail
cd "$(dirname "$0")/../.."
mode=${1:-full}
[ "${CI:-}" = true ] && export REQUIRE_ALL=${REQUIRE_ALL:-1}
CARGO=${CARGO:-cargo}
TARGET=${TARGET:-${CARGO_TARGET_DIR:-$PWD/target}}
export CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
# Where Debian has logrotate and dockerd.
export PATH=$PATH:/usr/sbin:/sbin
out=$TARGET/test-run
rm -rf "$out" && mkdir -p "$out"
export BULKHEAD_SKIPPED=$out/skipped
: >"$BULKHEAD_SKIPPED"
passed=0 failed=0 failures=()
began=$SECONDS

# step NAME SECONDS COMMAND...: one check that passes or fails as a whole.
step() {
  local name=$1 limit=$2 log=$out/$1.log start=$SECONDS
  shift 2
  printf '\n== %s\n' "$name"
  if timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1; then
    passed=$((passed + 1))
    echo "ok ($((SECONDS - start)) s)"
  else
    local rc=$?
    failed=$((failed + 1))
    failures+=("$name")
    [ $rc = 124 ] && echo "stopped after $limit s"
    tail -n 80 "$log"
    echo "FAILED: $name (rc $rc, whole log: $log)"
    return 1
  fi
}

# suite NAME SECONDS CARGO-TEST-ARGS...: a cargo test run; its tests are counted.
suite() {
  local name=$1 limit=$2 log=$out/$1.log start=$SECONDS rc
  shift 2
  printf '\n== %s\n' "$name"
  timeout --kill-after=10 "$limit" "$CARGO" test --no-fail-fast "$@" >"$log" 2>&1
  rc=$?
  local sums p f
  sums=$(awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' "$log")
  p=${sums% *} f=${sums#* }
  # A suite that died without a result line (a crash, the time limit) fails too.
  [ $rc -ne 0 ] && [ "$f" -eq 0 ] && f=1
  passed=$((passed + p)) failed=$((failed + f))
  if [ $rc -ne 0 ]; then
    failures+=("$name: $(awk '/^test .* FAILED$/ { printf "%s ", $2 }' "$log")")
    [ $rc = 124 ] && echo "stopped after $limit s"
    awk '/^failures:$/ { on = 1 } on' "$log" | head -n 400
    grep -n '^error' "$log" | head -20
    [ "$p" -eq 0 ] && tail -n 60 "$log"
    echo "FAILED: $name (whole log: $log)"
  fi
  echo "$p passed, $f failed in $name ($((SECONDS - start)) s)"
}

# vm SUITE SECONDS: kernel tests in a virtual machine; its tests are counted.
# Two minutes of the time are for building and packing.
vm() {
  local name=vm-$1${VM_FEATURES:+-$VM_TESTS} start=$SECONDS rc sums p f
  local log=$out/$name.log
  printf '\n== %s\n' "$name"
  VM_SECONDS=$(($2 - 120)) timeout --kill-after=10 "$2" tests/scripts/vm.sh "$1" >"$log" 2>&1
  rc=$?
  sums=$(awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' "$log")
  p=${sums% *} f=${sums#* }
  [ $rc -ne 0 ] && [ "$f" -eq 0 ] && f=1
  passed=$((passed + p)) failed=$((failed + f))
  sed -n 's/^SKIPPED-IN-VM: /'"$name"': /p' "$log" >>"$BULKHEAD_SKIPPED"
  sed -n 's/^NOT-IN-VM: /'"$name"': /p' "$log" >>"$out/elsewhere"
  if [ $rc -ne 0 ]; then
    failures+=("$name: $(awk '/^test .* FAILED$/ { printf "%s ", $2 }' "$log")")
    tail -n 150 "$log"
    echo "FAILED: $name (whole log: $log)"
  fi
  echo "$p passed, $f failed in $name ($((SECONDS - start)) s)"
}

# test targets of the root package: those under tests/kernel and tests/compat
# measure time or touch the whole machine, so they run alone and one by one.
targets() {
  "$CARGO" metadata --no-deps --format-version 1 | python3 -c '
import json, sys
for package in json.load(sys.stdin)["packages"]:
    for target in package["targets"]:
        # What needs a feature of its own has its own line below.
        if "test" in target["kind"] and not target.get("required-features"):
            alone = any(part in target["src_path"] for part in ("/tests/kernel/", "/tests/compat/"))
            if alone == (sys.argv[1] == "alone"):
                print(target["name"])
' "$1"
}

echo "== facts"
tests/scripts/facts.sh
if [ "$mode" = full ]; then
  step deps 600 tests/scripts/deps.sh build test || exit 1
else
  step deps 600 tests/scripts/deps.sh build || exit 1
fi
step fmt 120 "$CARGO" fmt --all --check
# The probe and the other programs are no test targets: tests run them as they are.
step programs 2400 "$CARGO" build --workspace --bins || { echo "0 passed, 1 failed"; exit 1; }
step build 2400 "$CARGO" test --workspace --no-run || { echo "0 passed, 1 failed"; exit 1; }

together=()
for t in $(targets together); do together+=(--test "$t"); done
suite unit 900 --workspace --lib --bins
[ ${#together[@]} -gt 0 ] && suite together 900 --workspace "${together[@]}"

if [ "$mode" = full ]; then
  step deny 1200 make --no-print-directory deny
  step clippy 1200 "$CARGO" clippy --workspace --all-targets -- -D warnings
  for t in $(targets alone); do
    suite "$t" 900 --workspace --test "$t" -- --test-threads=1
  done
  if tests/scripts/deps.sh vm >"$out/vm-deps.log" 2>&1; then
    # Everything on pure v2; on v1 what depends on the cgroup layout.
    vm cgroup2 1000
    VM_TESTS="kernel_hierarchy kernel_isolation e2e" vm v1 800
    VM_TESTS="kernel_isolation e2e" vm hybrid 800
  elif [ "${REQUIRE_ALL:-0}" = 1 ]; then
    failed=$((failed + 1)) failures+=("vm: qemu is missing")
  else
    for s in cgroup2 v1 hybrid; do echo "vm-$s: qemu is missing" >>"$BULKHEAD_SKIPPED"; done
    passed=$((passed + 3))
  fi
fi

# Last, because the feature `oci` builds the programs anew.
if [ "$mode" = full ]; then
  step oci-clippy 900 "$CARGO" clippy -p bulkhead --features oci \
    --lib --bin bulkhead-helper --test kernel_engines -- -D warnings
  # As the VM builds it, so that it is built once.
  suite kernel_engines 1200 --workspace --features bulkhead/oci --test kernel_engines \
    -- --test-threads=1
  if tests/scripts/deps.sh vm >"$out/vm-deps.log" 2>&1; then
    VM_FEATURES=bulkhead/oci VM_TESTS=kernel_engines vm cgroup2 600
  elif [ "${REQUIRE_ALL:-0}" = 1 ]; then
    failed=$((failed + 1)) failures+=("vm-cgroup2-kernel_engines: qemu is missing")
  else
    echo "vm-cgroup2-kernel_engines: qemu is missing" >>"$BULKHEAD_SKIPPED"
    passed=$((passed + 1))
  fi
fi

sort -u -o "$BULKHEAD_SKIPPED" "$BULKHEAD_SKIPPED"
skipped=$(wc -l <"$BULKHEAD_SKIPPED")
passed=$((passed - skipped))
printf '\n== summary (%d s; logs in %s)\n' $((SECONDS - began)) "$out"
[ "$skipped" -gt 0 ] && sed 's/^/SKIPPED: /' "$BULKHEAD_SKIPPED"
# Tests that ran above on this machine and were not asked for in a VM.
[ -s "$out/elsewhere" ] && sort -u "$out/elsewhere" | sed 's/^/NOT REPEATED: /'
for f in "${failures[@]:-}"; do [ -n "$f" ] && echo "FAILED: $f"; done
if [ "$failed" -gt 0 ] && [ "$mode" = full ]; then
  echo "last kernel messages:"
  dmesg 2>/dev/null | tail -15
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
