#!/usr/bin/env bash
# What the machine can do: the first thing to look at when a test fails.
set -u
echo "kernel   $(uname -sr) $(uname -m), $(nproc) cpus, $(awk '/MemTotal/ {printf "%d MB", $2/1024}' /proc/meminfo), uid $(id -u)"
awk '$3 ~ /^cgroup/ { print "cgroup   " $3 " " $2 " " $4 }' /proc/mounts
[ -r /proc/cgroups ] && echo "v1       $(awk '!/^#/ && $4 == 1 && $2 != 0 {printf "%s ", $1}' /proc/cgroups)"
for root in /sys/fs/cgroup /sys/fs/cgroup/unified; do
  [ -r $root/cgroup.controllers ] && echo "v2       $root: $(cat $root/cgroup.controllers)"
done
echo "fs       $(awk '!/nodev/ {printf "%s ", $1}' /proc/filesystems)$(grep -qw overlay /proc/filesystems && echo overlay)"
echo "pidmax   $(cat /proc/sys/kernel/pid_max), nofile $(ulimit -n)"
for tool in cargo rustc python3 qemu-system-x86_64 runc crun busybox; do
  printf '%-8s ' "$tool"
  if command -v "$tool" >/dev/null; then
    case $tool in busybox) busybox 2>&1 | head -1 ;; *) "$tool" --version 2>&1 | head -1 ;; esac
  else
    echo missing
  fi
done | sed 's/qemu-system-x86_64/qemu    /'
