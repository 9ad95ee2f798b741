//! Generated launch plans: small, legal, and different in every field that both
//! engines have. One seed makes one plan, always the same.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isolators::plan::{
    FileOperation, LaunchPlan, LinuxNamespaceType as Kind, Overlay, SystemCallFilter,
};
use kernel::namespaces::Namespace;
use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType,
    LinuxTimeOffset, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, Root, User,
};

use crate::cgroups::Groups;
use crate::{Fixture, probe};

/// Numbers from a seed (xorshift).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| _ = dice.roll());
        dice
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.roll() >> 11) % n
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn some<T: Clone>(&mut self, all: &[T]) -> Vec<T> {
        all.iter().filter(|_| self.coin()).cloned().collect()
    }

    fn one<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

/// Paths that the probe looks at.
const LOOK: [&str; 12] = [
    "/proc/kcore",
    "/proc/keys",
    "/proc/sys/kernel/hostname",
    "/proc/sysrq-trigger",
    "/sys/firmware",
    "/place",
    "/place/bound",
    "/place/bound/file",
    "/place/file",
    "/place/tmp",
    "/made/here",
    "/dev/pts",
];

/// The number of uname(2).
const UNAME: u64 = libc::SYS_uname as u64;
/// Filter: uname(2) gives EPERM, all else is allowed. `ld nr; jeq; ret; ret`.
const NO_UNAME: [u64; 4] = [
    0x20,
    0x15 | 1 << 24 | UNAME << 32,
    0x06 | (0x0005_0000 | libc::EPERM as u64) << 32,
    0x06 | 0x7fff_0000 << 32,
];

/// The plan of `seed`, with fresh directories for it.
pub(crate) fn plan(fixture: &Fixture, groups: &Groups, seed: u64) -> LaunchPlan {
    let mut dice = Dice::new(seed);
    let image = dice.below(3) != 0;
    let mut kinds = vec![Kind::Mount];
    kinds.extend(dice.some(&[Kind::Pid, Kind::Ipc, Kind::Uts, Kind::Network, Kind::Cgroup]));
    if Namespace::Time.supported() && dice.coin() {
        kinds.push(Kind::Time);
    }
    if image && !kinds.contains(&Kind::Pid) {
        // A new procfs shows the namespace of its maker: both must have one.
        kinds.push(Kind::Pid);
    }
    let host = fixture.path("work");
    let program =
        if image { "/bin/probe".to_owned() } else { host.join("probe").display().to_string() };
    let mut args = vec![program.as_str(), "report"];
    args.extend(LOOK.iter().filter(|path| image || !path.starts_with("/dev")));
    let mut plan = fixture.plan(&kinds, &args);
    scene(fixture);
    if kinds.contains(&Kind::Uts) {
        plan.spec.set_hostname(Some(format!("host-{}", dice.below(1000))));
    }
    settings(plan.spec.linux_mut().as_mut().expect("set"), &mut dice, &kinds);
    if image {
        image_root(fixture, &mut plan, &mut dice);
    } else {
        host_root(fixture, &mut plan, &mut dice, kinds.contains(&Kind::Pid));
    }
    process(plan.spec.process_mut().as_mut().expect("set"), &mut dice, image, &host);
    if dice.coin() {
        plan.cgroups.clone_from(&groups.joins);
    }
    if dice.coin() {
        plan.oom_score_adj = Some(dice.below(900) as i32 + 50);
    }
    if dice.coin() {
        plan.wait_for = vec!["a test"];
    }
    let process = plan.spec.process().as_ref().expect("set");
    if process.no_new_privileges() == Some(true) && dice.coin() {
        plan.system_calls = Some(Arc::new(SystemCallFilter {
            profile: "a test's".to_owned(),
            source: String::new(),
            program: NO_UNAME.to_vec(),
            flags: 0,
        }));
    }
    if dice.below(4) == 0 {
        plan.executable = Some(program);
        let process = plan.spec.process_mut().as_mut().expect("set");
        let mut args = process.args().clone().expect("set");
        "another-name".clone_into(&mut args[0]);
        process.set_args(Some(args));
    }
    plan
}

/// Clocks and kernel settings of the namespaces that there are.
fn settings(linux: &mut Linux, dice: &mut Dice, kinds: &[Kind]) {
    if kinds.contains(&Kind::Time) && dice.coin() {
        let mut offsets = HashMap::new();
        for clock in dice.some(&["boottime", "monotonic"]) {
            let mut offset = LinuxTimeOffset::default();
            offset.set_secs(Some(dice.below(10_000) as i64)).set_nanosecs(Some(5));
            offsets.insert(clock.to_owned(), offset);
        }
        linux.set_time_offsets(Some(offsets));
    }
    let all = [
        (Kind::Ipc, "kernel.msgmax", "4321"),
        (Kind::Uts, "kernel.domainname", "somewhere"),
        (Kind::Network, "net.core.somaxconn", "77"),
    ];
    let mut chosen = HashMap::new();
    for (_, name, value) in all.iter().filter(|(kind, ..)| kinds.contains(kind)) {
        if dice.coin() {
            chosen.insert((*name).to_owned(), (*value).to_owned());
        }
    }
    if !chosen.is_empty() {
        linux.set_sysctl(Some(chosen));
    }
}

/// Directories on the host: `shared` to be bound, `work` to bind to.
fn scene(fixture: &Fixture) {
    for name in ["shared", "work", "root", "upper", "ovlwork"] {
        let _ = std::fs::remove_dir_all(fixture.path(name));
        std::fs::create_dir_all(fixture.path(name)).expect("mkdir");
    }
    std::fs::create_dir(fixture.path("shared").join("inner")).expect("mkdir");
    std::fs::write(fixture.path("shared").join("file"), "shared").expect("write");
    for name in ["bound", "tmp"] {
        std::fs::create_dir(fixture.path("work").join(name)).expect("mkdir");
    }
    std::fs::write(fixture.path("work").join("file"), "").expect("write");
    link_or_copy(&probe(), &fixture.path("work").join("probe"));
}

fn link_or_copy(from: &Path, to: &Path) {
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to).expect("copy");
    }
}

/// Shared libraries of the probe: those of this program are more than enough.
fn libraries() -> BTreeSet<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let files = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    files.filter(|file| file.contains(".so")).map(PathBuf::from).collect()
}

fn file_system(kind: &str, target: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(kind)))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    mount
}

/// Binds of a directory and a file, a tmpfs, each with options or not there.
fn own_mounts(fixture: &Fixture, dice: &mut Dice, work: &str) -> Vec<Mount> {
    let mut mounts = Vec::new();
    let flags = ["ro", "nosuid", "nodev", "noexec"];
    for (source, target) in [("shared", "bound"), ("shared/file", "file")] {
        if dice.coin() {
            let mut options = vec![*dice.one(&["rbind", "bind"])];
            options.extend(dice.some(&flags));
            let propagation = *dice.one(&["rprivate", "rslave"]);
            options.extend(dice.some(&[propagation]));
            let mut mount = file_system("bind", &format!("{work}/{target}"), &options);
            mount.set_source(Some(fixture.path(source)));
            mounts.push(mount);
        }
    }
    if dice.coin() {
        let mut options = dice.some(&flags[1..]);
        options.extend(["size=64k", "mode=750"]);
        mounts.push(file_system("tmpfs", &format!("{work}/tmp"), &options));
    }
    mounts
}

fn host_root(fixture: &Fixture, plan: &mut LaunchPlan, dice: &mut Dice, own_pids: bool) {
    let work = fixture.path("work").display().to_string();
    let mut mounts = own_mounts(fixture, dice, &work);
    if own_pids {
        mounts.insert(0, file_system("proc", "/proc", &["nosuid", "noexec", "nodev"]));
    }
    plan.spec.set_mounts(Some(mounts));
}

fn image_root(fixture: &Fixture, plan: &mut LaunchPlan, dice: &mut Dice) {
    let root = fixture.path("root");
    for name in ["bin", "place/bound", "place/tmp", "proc", "sys", "dev", "made"] {
        std::fs::create_dir_all(root.join(name)).expect("mkdir");
    }
    std::fs::write(root.join("place/file"), "").expect("write");
    link_or_copy(&probe(), &root.join("bin/probe"));
    for directory in ["lib", "lib64"] {
        std::fs::create_dir(root.join(directory)).expect("mkdir");
        for library in libraries() {
            let name = library.file_name().expect("a file");
            link_or_copy(&library, &root.join(directory).join(name));
        }
    }
    if dice.coin() {
        plan.overlay = Some(Overlay {
            lower: vec![root],
            upper: fixture.path("upper"),
            work: fixture.path("ovlwork"),
        });
    } else {
        let mut spec = Root::default();
        spec.set_path(root).set_readonly(Some(dice.coin()));
        plan.spec.set_root(Some(spec));
    }
    let safe = ["nosuid", "noexec", "nodev"];
    let mut mounts = vec![
        file_system("proc", "/proc", &safe),
        file_system("sysfs", "/sys", &["ro", "nosuid", "noexec", "nodev"]),
        file_system("tmpfs", "/dev", &["nosuid", "noexec", "strictatime", "mode=755"]),
        file_system(
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
    ];
    if dice.coin() {
        let options = ["nosuid", "nodev", "strictatime", "mode=1777"];
        mounts.push(file_system("tmpfs", "/dev/shm", &options));
    }
    mounts.extend(own_mounts(fixture, dice, "/place"));
    plan.spec.set_mounts(Some(mounts));
    // As filesystem/linux has them, which are also those of every OCI runtime.
    let rows = [("full", 7), ("null", 3), ("random", 8), ("urandom", 9), ("zero", 5)];
    let mut devices: Vec<_> = rows.iter().map(|(name, minor)| device(name, 1, *minor)).collect();
    devices.push(device("tty", 5, 0));
    if dice.coin() {
        devices.push(device("kmsg-like", 1, 11));
    }
    let links = [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ];
    plan.file_operations = links
        .iter()
        .map(|(link, to)| FileOperation::Symlink { target: to.into(), link: link.into() })
        .collect();
    if dice.coin() {
        let path = PathBuf::from("/made/here/below");
        plan.file_operations.push(FileOperation::Mkdir { path, mode: 0o700, recursive: true });
    }
    let linux = plan.spec.linux_mut().as_mut().expect("set");
    linux.set_devices(Some(devices));
    let list = |all: Vec<&str>| Some(all.into_iter().map(str::to_owned).collect());
    let masked = ["/proc/kcore", "/proc/keys", "/sys/firmware", "/no/such/path"];
    linux.set_masked_paths(list(dice.some(&masked)));
    let protected = ["/proc/sys", "/proc/sysrq-trigger", "/proc/bus", "/no/such/path"];
    linux.set_readonly_paths(list(dice.some(&protected)));
}

fn device(name: &str, major: i64, minor: i64) -> LinuxDevice {
    LinuxDeviceBuilder::default()
        .path(Path::new("/dev").join(name))
        .typ(LinuxDeviceType::C)
        .major(major)
        .minor(minor)
        .file_mode(0o666_u32)
        .uid(0_u32)
        .gid(0_u32)
        .build()
        .expect("complete")
}

fn process(process: &mut Process, dice: &mut Dice, image: bool, host: &Path) {
    let mut env = vec!["PATH=/bin:/usr/bin".to_owned()];
    for (n, value) in dice.some(&["plain", "with space", "a=b", ""]).iter().enumerate() {
        env.push(format!("V{n}={value}"));
    }
    let work = if image { PathBuf::from("/place") } else { host.to_path_buf() };
    process.set_env(Some(env)).set_cwd(if dice.coin() { work } else { "/".into() });
    let mut user = User::default();
    if dice.coin() {
        user.set_uid(1000 + dice.below(100) as u32).set_gid(2000 + dice.below(100) as u32);
    }
    user.set_additional_gids(dice.coin().then(|| dice.some(&[7, 8, 3000])));
    user.set_umask(dice.coin().then(|| *dice.one(&[0o22, 0o77, 0o27])));
    process.set_user(user);
    process.set_no_new_privileges(Some(dice.coin()));
    if dice.coin() {
        process.set_capabilities(Some(capabilities(dice)));
    }
    if dice.coin() {
        let kinds = [
            (PosixRlimitType::RlimitNofile, 256),
            (PosixRlimitType::RlimitCore, 0),
            (PosixRlimitType::RlimitStack, 8 << 20),
            (PosixRlimitType::RlimitNproc, 4000),
        ];
        let limits = dice.some(&kinds).into_iter().map(|(kind, soft)| limit(kind, soft));
        process.set_rlimits(Some(limits.collect()));
    }
}

fn limit(kind: PosixRlimitType, soft: u64) -> PosixRlimit {
    let limit = PosixRlimitBuilder::default().typ(kind).soft(soft).hard(soft * 2);
    limit.build().expect("complete")
}

/// Legal sets: permitted within bounding, the others within permitted, ambient
/// within inheritable.
fn capabilities(dice: &mut Dice) -> LinuxCapabilities {
    const ALL: [Capability; 7] = [
        Capability::Chown,
        Capability::Kill,
        Capability::NetRaw,
        Capability::NetBindService,
        Capability::Setuid,
        Capability::SysChroot,
        Capability::AuditWrite,
    ];
    let set = |list: &[Capability]| Some(list.iter().copied().collect::<HashSet<_>>());
    let bounding = dice.some(&ALL);
    let permitted = dice.some(&bounding);
    let (effective, inheritable) = (dice.some(&permitted), dice.some(&permitted));
    let ambient = dice.some(&inheritable);
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(set(&bounding))
        .set_permitted(set(&permitted))
        .set_effective(set(&effective))
        .set_inheritable(set(&inheritable))
        .set_ambient(set(&ambient));
    sets
}
