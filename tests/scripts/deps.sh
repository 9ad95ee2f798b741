#!/usr/bin/env bash
# Installs the Debian packages that are missing for the named purposes
# (build, test, bench, vm). Prints nothing when there is nothing to do.
set -euo pipefail

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }

for purpose in "$@"; do
  case "$purpose" in
    build)
      need cc gcc
      need ld.lld lld
      ;;
    test)
      need busybox busybox-static
      need ip iproute2
      need jq jq
      need python3 python3
      need curl curl
      need openssl openssl
      python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
      need runc runc
      need crun crun
      PATH=$PATH:/usr/sbin:/sbin need dockerd docker.io
      need docker-registry docker-registry
      PATH=$PATH:/usr/sbin:/sbin need debootstrap debootstrap
      need podman podman
      need nsenter util-linux
      PATH=$PATH:/usr/sbin:/sbin need fsfreeze util-linux
      PATH=$PATH:/usr/sbin:/sbin need mkfs.ext4 e2fsprogs
      PATH=$PATH:/usr/sbin:/sbin need logrotate logrotate
      need journalctl systemd
      PATH=$PATH:/usr/lib/cni need host-local containernetworking-plugins
      PATH=$PATH:/usr/sbin:/sbin need nft nftables
      PATH=$PATH:/usr/sbin:/sbin need iptables iptables
      ;;
    bench)
      need iperf3 iperf3
      ;;
    vm)
      need qemu-system-x86_64 qemu-system-x86
      need cpio cpio
      need strip binutils
      need dpkg-deb dpkg
      PATH=$PATH:/usr/sbin:/sbin need mkfs.xfs xfsprogs
      PATH=$PATH:/usr/sbin:/sbin need mkfs.ext4 e2fsprogs
      need busybox busybox-static
      ;;
    *) echo "deps: unknown purpose '$purpose' (build, test, bench, vm)" >&2; exit 2 ;;
  esac
done

command -v "${CARGO:-cargo}" >/dev/null 2>&1 || {
  echo "cargo is missing: install Rust (see rust-version in Cargo.toml) and try again" >&2
  exit 1
}
[ "${#missing[@]}" -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing packages: ${missing[*]}; install them (Debian: apt-get install ${missing[*]}) and try again" >&2
  exit 1
fi
echo "installing ${missing[*]}"
# Tests start engines of their own: the package's must not run beside them.
engine=()
if [ -d /run/systemd/system ]; then
  [[ " ${missing[*]} " != *" docker.io "* ]] || engine+=(docker.service docker.socket containerd.service)
  [[ " ${missing[*]} " != *" docker-registry "* ]] || engine+=(docker-registry.service)
  [[ " ${missing[*]} " != *" podman "* ]] || engine+=(podman.service podman.socket)
  [ "${#engine[@]}" -eq 0 ] || systemctl mask --quiet --runtime "${engine[@]}" || true
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -20 "$log" >&2
  exit 1
fi
[ "${#engine[@]}" -eq 0 ] || systemctl disable --quiet "${engine[@]}" || true
