#!/usr/bin/env bash
# `make vm SUITE=cgroup2|hybrid|v1`: boots Debian's kernel under qemu with the
# chosen cgroup layout and runs tests in it (docs/testing.md).
#
# The root is an initramfs: this machine's own small programs, the product and
# the test programs at the paths they were built at, and their libraries. An XFS
# and an ext4 disk with project quotas hang beside it. vm-init.sh runs inside;
# results come over the serial line.
#
#   VM_TESTS="kernel_disk e2e"   test targets; default: all in tests/kernel, the
#                                limits of e2e and ipvlan of network; "all:NAME"
#                                runs all of NAME
#   VM_FILTER="views:: --skip x" arguments for the test programs
#   VM_FEATURES=bulkhead/oci     cargo features of the programs and tests
#   VM_SECONDS=780               time limit
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=${1:-cgroup2}
case "$suite" in cgroup2 | hybrid | v1) ;; *) echo "vm: unknown suite '$suite' (cgroup2, hybrid, v1)" >&2; exit 2 ;; esac
PATH=$PATH:/usr/sbin:/sbin
CARGO=${CARGO:-cargo}
TARGET=${TARGET:-${CARGO_TARGET_DIR:-$PWD/target}}
VM_TESTS=${VM_TESTS:-}
VM_FILTER=${VM_FILTER:-}
limit=${VM_SECONDS:-780}
dir=$TARGET/vm
mkdir -p "$dir"
tests/scripts/deps.sh vm

# Kernel modules that the guest loads, in this order.
modules="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk
  libcrc32c xfs quota_tree quota_v2 overlay loop dummy veth cls_cgroup inet_diag tcp_diag udp_diag
  sch_ingress cls_bpf sch_htb fuse ipvlan"

# The kernel, downloaded once.
kernel() {
  [ "$(cat "$dir/modules" 2>/dev/null)" = "$modules" ] && return 0
  local package name wanted=()
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends/ { print $2; exit }')
  if [ -z "$package" ]; then
    apt-get update -qq >/dev/null
    package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends/ { print $2; exit }')
  fi
  rm -rf "$dir"/{boot,lib,*.deb}
  echo "downloading $package"
  (cd "$dir" && { apt-get download -qq "$package" || { apt-get update -qq && apt-get download -qq "$package"; }; }) >"$dir/apt.log" 2>&1 ||
    { cat "$dir/apt.log" >&2; return 1; }
  for name in $modules; do wanted+=("*/$name.ko"); done
  dpkg-deb --fsys-tarfile "$dir"/linux-image-*.deb | tar -x -C "$dir" --wildcards './boot/vmlinuz-*' "${wanted[@]}"
  rm -f "$dir"/linux-image-*.deb
  echo "$modules" >"$dir/modules"
}
kernel

# Which test programs: lines "NAME PROGRAM FILTER".
targets=(--tests)
[ -z "$VM_TESTS" ] || { targets=(); for name in $VM_TESTS; do targets+=(--test "${name#all:}"); done; }
"$CARGO" build -q --workspace ${VM_FEATURES:+--features "$VM_FEATURES"} --bins "${targets[@]}" --message-format=json >"$dir/build.json"
python3 - "$dir/build.json" "$VM_TESTS" "$VM_FILTER" >"$dir/tests" <<'PY'
import json, sys
wanted, given = sys.argv[2].split(), sys.argv[3]
found = set()
# Software emulation is slow: of the tests from outside only the limits, and what other
# kernels may lack.
quick = {"e2e": "limits::", "network": "ipvlan"}
for line in open(sys.argv[1]):
    message = json.loads(line)
    target = message.get("target", {})
    if message.get("reason") != "compiler-artifact" or not message.get("executable") or "test" not in target["kind"]:
        continue
    name, whole = target["name"], "all:" + target["name"]
    listed = "/tests/kernel/" in target["src_path"] or name in quick
    if name in wanted or whole in wanted or (not wanted and listed):
        found.add(name)
        few = quick.get(name, "-") if whole not in wanted else "-"
        print(name, message["executable"], given or few)
missing = [name for name in wanted if name.removeprefix("all:") not in found]
if missing or not found:
    sys.exit(f"vm: no such test target: {' '.join(missing) or 'any'}")
PY
echo "suite $suite: $(awk '{ printf "%s ", $1 }' "$dir/tests")"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{proc,sys,dev,tmp,etc,run,var/lib,root,home,opt,srv,mnt/xfs,mnt/ext4,lib.modules}
for name in bin sbin lib lib64; do ln -s "usr/$name" "$root/$name"; done
ln -s /run "$root/var/run"
ln -s /tmp "$root/var/tmp"
copy() { # copy FILE: to the same path inside, stripped, with its libraries
  local file=$1 lib
  [ -e "$root$file" ] && [ ! -L "$root$file" ] && return 0
  mkdir -p "$root$(dirname "$file")"
  rm -f "$root$file"
  strip -o "$root$file" "$file" 2>/dev/null || cp -L "$file" "$root$file"
  chmod 755 "$root$file"
  for lib in $(ldd "$file" 2>/dev/null | grep -o '/[^ ]*'); do
    [ -e "$root$lib" ] || { mkdir -p "$root$(dirname "$lib")" && cp -L "$lib" "$root$lib"; }
  done
}
# busybox fills the gaps; what a Debian machine has, the guest has too.
cp -L "$(command -v busybox)" "$root/usr/bin/busybox"
for name in $("$root/usr/bin/busybox" --list); do
  [ "$name" = busybox ] || ln -sf busybox "$root/usr/bin/$name"
done
for program in sh bash cat chmod chown cp cut dd df du echo env expr fallocate false findmnt grep head id kill ln ls mkdir mkfifo \
  losetup mknod mktemp mount mv nproc nsenter prlimit ps readlink rm rmdir sed seq setpriv setsid sleep sort stat stty sync \
  tail taskset tee test logrotate gzip zcat timeout touch tr true truncate umount uname unshare wc whoami yes ip perl; do
  path=$(command -v "$program" 2>/dev/null) || path=$(type -P "$program") || continue
  case "$path" in /*) ;; *) path=$(type -P "$program") ;; esac
  real=$(readlink -f "$path")
  copy "$real"
  case "$(basename "$real")" in "$program") ;; *) ln -sf "$real" "$root/usr/bin/$program" ;; esac
done
for program in /usr/lib/cni/{bridge,host-local,ipvlan}; do
  [ ! -f "$program" ] || copy "$program"
done
for program in "$TARGET"/debug/*; do
  case "$program" in *.d | *.rlib | *.dwp | *.so) continue ;; esac
  [ -f "$program" ] && [ -x "$program" ] && copy "$program"
done
while read -r _ program _; do copy "$program"; done <"$dir/tests"
for name in $modules; do find "$dir/lib" -name "$name.ko" -exec cp {} "$root/lib.modules/" \;; done
mkdir -p "$root$PWD/tests"
cp -r tests/kernel "$root$PWD/tests/"
printf '%s\n' root:x:0:0:root:/root:/bin/sh daemon:x:1:1::/usr/sbin:/usr/sbin/nologin \
  nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin >"$root/etc/passwd"
printf '%s\n' root:x:0: daemon:x:1: users:x:100: nogroup:x:65534: >"$root/etc/group"
echo '127.0.0.1 localhost vm' >"$root/etc/hosts"
cp tests/scripts/vm-init.sh "$root/init"
chmod 755 "$root/init"
printf 'suite=%s\nmodules="%s"\nhere=%s\n' "$suite" "$(echo $modules)" "$PWD" >"$root/etc/vm"
cp "$dir/tests" "$root/etc/vm-tests"
# Not compressed: unpacking it in the emulator would take longer.
(cd "$root" && find . | cpio -o -H newc --quiet) >"$dir/initramfs-$suite"
rm -rf "$root"

# Two disks with project quotas, and one for /tmp: file cache can be reclaimed
# there, a tmpfs cannot. The guest's writes are thrown away (snapshot=on).
disk() { # disk NAME SIZE MKFS...
  local image=$dir/$1.img size=$2
  shift 2
  [ -s "$image" ] && return 0
  truncate -s "$size" "$image.new"
  "$@" "$image.new" >"$dir/mkfs.log" 2>&1 || { cat "$dir/mkfs.log" >&2; return 1; }
  mv "$image.new" "$image"
}
disk xfs 512M mkfs.xfs -q -f
disk ext4 512M mkfs.ext4 -q -F -O quota,project -E quotatype=prjquota
disk tmp 4G mkfs.ext4 -q -F -O ^has_journal

# Always emulated: a /dev/kvm inside a virtual machine may exist and not work.
log=$dir/serial-$suite.log
began=$SECONDS
timeout --kill-after=10 "$limit" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4G \
  -nodefaults -no-user-config -display none -serial stdio -no-reboot \
  -drive file="$dir/xfs.img",format=raw,if=virtio,snapshot=on -drive file="$dir/ext4.img",format=raw,if=virtio,snapshot=on \
  -drive file="$dir/tmp.img",format=raw,if=virtio,snapshot=on \
  -kernel "$(ls "$dir"/boot/vmlinuz-* | tail -1)" -initrd "$dir/initramfs-$suite" \
  -append "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on" </dev/null 2>&1 | sed -u 's|\r||g' | tee "$log" || true
rm -f "$dir/initramfs-$suite"
echo "suite $suite took $((SECONDS - began)) s"
grep -q '^VM-RESULT: 0$' "$log" || { echo "suite $suite failed or ran out of time ($limit s); log: $log" >&2; exit 1; }
