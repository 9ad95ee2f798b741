#!/usr/bin/env bash
# A root file system of Debian with nginx, by debootstrap from the mirror that apt uses.
#   nginx.sh check       whether it can be made here
#   nginx.sh make FILE   makes it, a tar archive; FILE is there when it is whole
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(SITE)' 'Created-By: Packages' |
  awk -v suite="$suite" '$1 == suite && $2 == "main" && !found++ { print $3 }')
# What apt reaches by way of a proxy, others do not know of.
eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
export http_proxy=${http_proxy:-}

case "${1:-}" in
  check)
    command -v debootstrap >/dev/null && [ -n "$suite" ] && [ -n "$mirror" ] &&
      wget --quiet --tries=2 --timeout=20 -O /dev/null "$mirror/dists/$suite/InRelease"
    ;;
  make)
    file=$2
    mkdir -p "$(dirname "$file")"
    dir=$(mktemp -d "$file.XXXXXX")
    trap 'rm -rf --one-file-system "$dir"' EXIT
    # In a mount namespace that takes along whatever it mounts; nothing of it has to
    # survive a crash.
    DPKG_FORCE=unsafe-io unshare --mount debootstrap --variant=minbase --include=nginx-light \
      "$suite" "$dir/root" "$mirror" >"$dir/log" 2>&1 || { tail -n 30 "$dir/log" >&2; exit 1; }
    rm -rf "$dir"/root/var/{cache/apt,lib/apt/lists} "$dir"/root/usr/share/{doc,info,locale,man}
    tar -C "$dir/root" --numeric-owner -cf "$dir/tar" .
    mv "$dir/tar" "$file"
    ;;
  *) echo "nginx.sh: expected 'check' or 'make FILE'" >&2; exit 2 ;;
esac
