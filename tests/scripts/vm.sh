#!/usr/bin/env bash
# `make vm SUITE=cgroup2|hybrid|v1`: boots Debian's kernel under qemu (software
# emulation) with the chosen cgroup layout and runs the kernel tests in it.
# The disk is an initramfs: busybox, the test binaries at the paths they were
# built at, and their shared libraries. Results come over the serial line.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=${1:-cgroup2}
case "$suite" in cgroup2 | hybrid | v1) ;; *) echo "vm: unknown suite '$suite' (cgroup2, hybrid, v1)" >&2; exit 2 ;; esac
CARGO=${CARGO:-cargo}
TARGET=${TARGET:-${CARGO_TARGET_DIR:-$PWD/target}}
VM_TESTS=${VM_TESTS:-}       # test targets, space separated; empty: the list below
VM_FILTER=${VM_FILTER:-}     # arguments for the test programs
limit=${VM_SECONDS:-780}
dir=$TARGET/vm
mkdir -p "$dir"
tests/scripts/deps.sh vm

# The kernel, downloaded once.
if ! ls "$dir"/boot/vmlinuz-* >/dev/null 2>&1; then
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends/ { print $2; exit }')
  if [ -z "$package" ]; then
    apt-get update -qq >/dev/null
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends/ { print $2; exit }')
  fi
  echo "downloading $package"
  (cd "$dir" && { apt-get download -qq "$package" || { apt-get update -qq && apt-get download -qq "$package"; }; } 2>"$dir/apt.log") ||
    { cat "$dir/apt.log" >&2; exit 1; }
  dpkg-deb --fsys-tarfile "$dir"/linux-image-*.deb |
    tar -x -C "$dir" --wildcards './boot/vmlinuz-*' '*/overlay.ko' '*/loop.ko'
  rm -f "$dir"/linux-image-*.deb
fi

# What runs inside: test programs and every program of the product.
"$CARGO" build -q --workspace --bins
"$CARGO" test -q --workspace --no-run --message-format=json >"$dir/build.json"
list=$(python3 - "$dir/build.json" "$VM_TESTS" <<'PY'
import json, sys
wanted = sys.argv[2].split()
for line in open(sys.argv[1]):
    message = json.loads(line)
    if message.get("reason") != "compiler-artifact" or not message.get("executable"):
        continue
    target = message["target"]
    if "test" in target["kind"]:
        name = target["name"]
        if name in wanted or (not wanted and "/tests/kernel/" in target["src_path"]) or (not wanted and name == "e2e"):
            print(name, message["executable"])
PY
)
echo "suite $suite: ${list:-no test programs}" | awk '{ print $1, $2, $3 }'

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,sbin,usr/bin,proc,sys,dev,tmp,etc,run,var/lib,root,lib/modules}
copy() { # copy FILE: to the same path inside, stripped, with its libraries
  local file=$1 lib
  [ -e "$root$file" ] && return 0
  mkdir -p "$root$(dirname "$file")"
  strip -g -o "$root$file" "$file" 2>/dev/null || cp -L "$file" "$root$file"
  chmod 755 "$root$file"
  for lib in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do
    [ -e "$root$lib" ] || { mkdir -p "$root$(dirname "$lib")" && cp -L "$lib" "$root$lib"; }
  done
}
cp -L "$(command -v busybox)" "$root/bin/busybox"
for name in $("$root/bin/busybox" --list); do
  [ "$name" = busybox ] || ln -sf /bin/busybox "$root/bin/$name"
done
for program in bash ip; do copy "$(readlink -f "$(command -v $program)")"; done
ln -sf "$(readlink -f "$(command -v bash)")" "$root/bin/bash"
for program in "$TARGET"/debug/bulkhead* "$TARGET"/debug/probe "$TARGET"/debug/shim*; do
  case "$program" in *.d | *.rlib | *.dwp) continue ;; esac
  [ -f "$program" ] && [ -x "$program" ] && copy "$program"
done
find "$TARGET/debug/build" -path '*bulkhead*/out/*' -type f -perm -100 2>/dev/null | while read -r file; do copy "$file"; done
find "$dir/lib" -name '*.ko' -exec cp {} "$root/lib/modules/" \;
mkdir -p "$root$PWD/tests"
cp -r tests/kernel tests/testdata "$root$PWD/tests/" 2>/dev/null || true
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
printf '127.0.0.1 localhost\n' >"$root/etc/hosts"

{
  cat <<'INIT'
#!/bin/sh
export PATH=/bin:/sbin:/usr/bin HOME=/root BULKHEAD_VM=1 BULKHEAD_SKIPPED=/tmp/skipped RUST_BACKTRACE=0 TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
for module in /lib/modules/*.ko; do insmod $module; done
ip link set lo up
ln -s /proc/self/fd /dev/fd
INIT
  case "$suite" in
    cgroup2)
      echo 'mount -t cgroup2 cgroup2 /sys/fs/cgroup'
      echo 'for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$c > /sys/fs/cgroup/cgroup.subtree_control; done'
      ;;
    v1 | hybrid)
      cat <<'INIT'
mount -t tmpfs tmpfs /sys/fs/cgroup
for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
  mkdir /sys/fs/cgroup/$c && mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c
done
INIT
      [ "$suite" = hybrid ] && echo 'mkdir /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified'
      ;;
  esac
  echo "cd $PWD; rc=0"
  echo 'uname -sr; grep cgroup /proc/mounts'
  while read -r name program; do
    [ -n "${program:-}" ] || continue
    copy "$program" >&2
    # Software emulation is slow: of the tests from outside only the limits.
    filter=$VM_FILTER
    [ -z "$filter" ] && [ "$name" = e2e ] && filter=limits::
    echo "echo '== $name'; $program --test-threads=1 $filter || rc=1"
  done <<<"$list"
  echo '[ -s /tmp/skipped ] && sort -u /tmp/skipped | sed "s/^/SKIPPED-IN-VM: /"'
  echo 'echo "VM-RESULT: $rc"; sync; poweroff -f'
} >"$root/init"
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$dir/initramfs-$suite.gz"

log=$dir/serial-$suite.log
timeout --kill-after=10 "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4G \
  -nodefaults -no-user-config -display none -serial stdio -no-reboot \
  -kernel "$(ls "$dir"/boot/vmlinuz-* | tail -1)" -initrd "$dir/initramfs-$suite.gz" \
  -append "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on" </dev/null 2>&1 | tr -d '\r' | tee "$log" || true
grep -q '^VM-RESULT: 0$' "$log" || { echo "suite $suite failed or ran out of time ($limit s); log: $log" >&2; exit 1; }
