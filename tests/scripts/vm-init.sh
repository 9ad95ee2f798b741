#!/bin/sh
# Process 1 of the test VM (vm.sh puts it there): mounts what a machine has,
# lays the cgroups out as the suite says, and runs the test programs of
# /etc/vm-tests. Prints VM-RESULT: 0 when all of them passed.
. /etc/vm
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TMPDIR=/tmp RUST_BACKTRACE=0
# Nothing may be skipped unseen: what lacks a program fails (tests/support).
export REQUIRE_ALL=1 BULKHEAD_VM=$suite BULKHEAD_SKIPPED=/tmp/skipped
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
for module in $modules; do
  [ ! -e /lib.modules/$module.ko ] || insmod /lib.modules/$module.ko || echo "vm: no module $module"
done
ip link set lo up
ln -s /proc/self/fd /dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${n%%:*}" "/dev/${n#*:}"; done
# What systemd gives a service with LimitNOFILE=infinity, more or less.
ulimit -n 65536
hostname vm

mount -t ext4 /dev/vdc /tmp && chmod 1777 /tmp || mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t xfs -o prjquota /dev/vda /mnt/xfs && export BULKHEAD_XFS=/mnt/xfs
mount -t ext4 -o prjquota /dev/vdb /mnt/ext4 && export BULKHEAD_EXT4=/mnt/ext4

one() { # one NAME CONTROLLERS: a v1 hierarchy
  mkdir "/sys/fs/cgroup/$1" && mount -t cgroup -o "$2" cgroup "/sys/fs/cgroup/$1"
}
case $suite in
  # As the kernel gives it: no controller is enabled anywhere.
  cgroup2) mount -t cgroup2 cgroup2 /sys/fs/cgroup ;;
  # Controllers one by one, and an empty unified hierarchy.
  hybrid)
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for c in cpu cpuacct cpuset memory devices freezer blkio pids net_cls net_prio perf_event hugetlb; do one $c $c; done
    mkdir /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    ;;
  # As an old systemd did it: controllers in pairs, one with a name, no unified
  # hierarchy. Nobody mounted pids: the agent does (--cgroups_hierarchy).
  v1)
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    one cpu,cpuacct cpu,cpuacct
    one net_cls,net_prio net_cls,net_prio
    for c in cpuset memory devices freezer blkio perf_event hugetlb; do one $c $c; done
    ln -s cpu,cpuacct /sys/fs/cgroup/cpu
    ln -s cpu,cpuacct /sys/fs/cgroup/cpuacct
    mkdir /sys/fs/cgroup/systemd && mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    ;;
esac

# The kernel's own messages would come in between the tests' lines.
dmesg -n 1
cd "$here" || poweroff -f
uname -sr
grep -E 'cgroup|/mnt/' /proc/mounts
rc=0
while read -r name program filter <&9; do
  [ "$filter" = - ] && filter=
  echo "== $name $filter"
  # shellcheck disable=SC2086 # the filter is words
  $program --test-threads=1 $filter >/tmp/log 2>&1 9<&- &
  test=$!
  tail -f --pid=$test -n +1 /tmp/log
  wait $test || rc=1
  # Said aloud: tests that were not asked for here.
  [ -z "$filter" ] || awk -v name="$name" -v filter="$filter" '/^test result:/ && $(NF - 5) > 0 {
    for (i = 1; i <= NF; i++) if ($i == "filtered") print "NOT-IN-VM: " name ": " $(i - 1) " tests besides " filter }' /tmp/log
done 9</etc/vm-tests
[ -s /tmp/skipped ] && sort -u /tmp/skipped | sed 's/^/SKIPPED-IN-VM: /'
[ $rc = 0 ] || { echo "last kernel messages:"; dmesg | tail -n 40; }
echo "VM-RESULT: $rc"
sync
poweroff -f
