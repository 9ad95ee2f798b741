//! What a container's processes may do: capabilities, no-new-privileges, system
//! call filters. Looked at in `/proc/PID/status`, and by trying.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bulkhead::containerizer::native::Native;
use bulkhead::containerizer::{Containerizer, LaunchRequest};
use isolators::capability::Set;
use mesos::capability_info::Capability;
use mesos::{CapabilityInfo, LinuxInfo, SeccompInfo};

use crate::{ALL, Place, end, mesos_container, require, run, top};

/// A place with these isolators more than [`ALL`].
pub(crate) fn with(name: &str, more: &str) -> Place {
    Place::new(name, &format!("{ALL},{more}"))
}

pub(crate) fn caps(names: &[&str]) -> Set {
    let one = |name: &&str| Set::of_name(name).expect("a capability");
    names.iter().map(one).fold(Set::default(), Set::or)
}

/// As user nobody, who may use the sandbox.
pub(crate) fn as_nobody(mut request: LaunchRequest) -> LaunchRequest {
    std::os::unix::fs::chown(&request.sandbox, Some(65534), None).expect("chown");
    request.user = Some("nobody".into());
    request
}

fn asking(mut request: LaunchRequest, linux: LinuxInfo) -> LaunchRequest {
    request.container = Some(mesos_container(Some(linux)));
    request
}

/// Lines of `/proc/PID/status` of a container that sleeps.
async fn status_of(native: &Native, request: LaunchRequest) -> String {
    let id = request.id.value.clone();
    let pid = native.launch(request).await.expect("launch").pid.expect("a pid");
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(path).expect("its status");
    native.destroy(&top(&id), None).await.expect("known");
    end(native, &id).await;
    status
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim()
}

fn mask(status: &str, name: &str) -> u64 {
    u64::from_str_radix(field(status, name), 16).expect("a mask")
}

#[tokio::test]
async fn capabilities_are_what_the_operator_and_the_task_say() {
    require!(root, cgroup);
    let mut place = with("caps", "linux/capabilities");
    let (raw, chown) = (caps(&["NET_RAW"]), caps(&["CHOWN"]));
    place.config.isolators.effective_capabilities = Some(raw);
    place.config.isolators.bounding_capabilities = Some(raw.or(chown));
    let native = place.start();
    // A user that is not root keeps what is ambient.
    let status = status_of(&native, as_nobody(place.shell("a", "sleep 1000"))).await;
    for (name, wanted) in [
        ("CapBnd", raw.or(chown)),
        ("CapEff", raw),
        ("CapPrm", raw),
        ("CapInh", raw),
        ("CapAmb", raw),
    ] {
        assert_eq!(mask(&status, name), wanted.bits(), "{name}");
    }
    // Root has what the bounding set leaves, as root does.
    let status = status_of(&native, place.shell("b", "sleep 1000")).await;
    assert_eq!(mask(&status, "CapBnd"), raw.or(chown).bits());
    assert_eq!(mask(&status, "CapEff"), raw.or(chown).bits());
    // A task asks for less.
    let info = |all: &[Capability]| {
        Some(CapabilityInfo { capabilities: all.iter().map(|c| *c as i32).collect() })
    };
    let only = LinuxInfo {
        effective_capabilities: info(&[Capability::Chown]),
        bounding_capabilities: info(&[Capability::Chown]),
        ..LinuxInfo::default()
    };
    let status = status_of(&native, asking(place.shell("c", "sleep 1000"), only)).await;
    assert_eq!((mask(&status, "CapBnd"), mask(&status, "CapEff")), (chown.bits(), chown.bits()));
    // And it works: root without the power to override permissions.
    let file = place.path("secret");
    std::fs::write(&file, "secret").expect("write");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).expect("chmod");
    let (status, _) =
        run(&place, &native, place.shell("d", &format!("cat {}", file.display()))).await;
    assert_eq!(status, Some(1 << 8));
    // More than the operator allows, and what nobody knows.
    for (capabilities, wanted) in
        [(vec![Capability::SysAdmin as i32], "but only"), (vec![1099], "unknown capability 1099")]
    {
        let linux = LinuxInfo {
            effective_capabilities: Some(CapabilityInfo { capabilities }),
            ..LinuxInfo::default()
        };
        let error = native.launch(asking(place.shell("e", "true"), linux)).await;
        let error = error.expect_err("must be refused").to_string();
        assert!(error.contains(wanted), "{error}");
        place.check_clean();
    }
}

#[tokio::test]
async fn no_new_privileges_stop_set_user_id_files() {
    require!(root, cgroup);
    let script = "./id -u";
    for (isolation, wanted) in [(ALL.to_owned(), "0\n"), (format!("{ALL},linux/nnp"), "65534\n")] {
        let place = Place::new("nnp", &isolation);
        let native = place.start();
        let request = as_nobody(place.shell("a", script));
        let copy = request.sandbox.join("id");
        std::fs::copy("/usr/bin/id", &copy).expect("copy");
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o4755)).expect("chmod");
        let (status, output) = run(&place, &native, request).await;
        assert_eq!((status, output.as_str()), (Some(0), wanted));
        let status = status_of(&native, place.shell("b", "sleep 1000")).await;
        let set = isolation.ends_with("nnp");
        assert_eq!(field(&status, "NoNewPrivs"), if set { "1" } else { "0" });
    }
}

fn profile(dir: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(dir).expect("mkdir");
    std::fs::write(dir.join(name), text).expect("write");
}

const NO_MKDIR: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"},
    {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
     "args": [{"index": 1, "value": 23, "op": "SCMP_CMP_EQ"}]}]}"#;

#[tokio::test]
async fn a_filter_kills_and_refuses() {
    require!(root, cgroup);
    for more in ["linux/seccomp", "linux/seccomp,linux/nnp"] {
        let mut place = with("seccomp", more);
        profile(&place.path("profiles"), "no-mkdir", NO_MKDIR);
        place.config.isolators.seccomp_config_dir = Some(place.path("profiles"));
        place.config.isolators.seccomp_profile_name = Some("no-mkdir".into());
        let native = place.start();
        let status = status_of(&native, place.shell("a", "sleep 1000")).await;
        assert_eq!((field(&status, "Seccomp"), field(&status, "Seccomp_filters")), ("2", "1"));
        // Root and others alike; also where nothing else is dropped.
        for (id, request) in [
            ("b", place.shell("b", "exec mkdir x")),
            ("c", as_nobody(place.shell("c", "exec mkdir x"))),
        ] {
            let (status, output) = run(&place, &native, request).await;
            assert_eq!(status.map(|s| s & 0x7f), Some(libc::SIGSYS), "{id}: {output}");
            assert!(!place.path(&format!("sandbox-{id}")).join("x").exists());
        }
        let script = "kill -URG $$ && echo sent; kill -18 $$ && echo sent";
        let (_, output) = run(&place, &native, place.shell("d", script)).await;
        assert_eq!(output, "sent\n", "only by its argument");
        let free = SeccompInfo { profile_name: None, unconfined: Some(true) };
        let linux = LinuxInfo { seccomp: Some(free), ..LinuxInfo::default() };
        let (status, _) = run(&place, &native, asking(place.shell("e", "mkdir x"), linux)).await;
        assert_eq!(status, Some(0), "unconfined");
    }
}

#[tokio::test]
async fn the_default_profile_stops_what_escapes_need() {
    require!(root, cgroup);
    let mut place = with("profile", "linux/seccomp,linux/capabilities");
    place.config.isolators.seccomp_profile_name = Some("default".into());
    let native = place.start();
    // Everything is held by capability here, so only the filter is in the way.
    place.config.isolators.bounding_capabilities = Some(caps(&["CHOWN", "SETUID", "SETGID"]));
    let bounded = place.start();
    let script =
        "unshare -m true && echo unshared; unshare -U true && echo user; ls / | sort | head -1";
    let (status, output) = run(&place, &bounded, place.shell("a", script)).await;
    assert_eq!(status, Some(0), "{output}");
    assert!(output.ends_with("bin\n"), "ordinary programs work: {output}");
    assert!(!output.contains("unshared") && !output.contains("user"), "{output}");
    // With CAP_SYS_ADMIN the profile lets it.
    let (_, output) = run(&place, &native, place.shell("b", script)).await;
    assert!(output.contains("unshared"), "{output}");
}

#[tokio::test]
async fn bad_profiles_are_refused_and_leave_nothing() {
    require!(root, cgroup);
    let mut place = with("badprofile", "linux/seccomp");
    profile(&place.path("profiles"), "broken", "{\"defaultAction\": \"SCMP_ACT_FLY\"}");
    place.config.isolators.seccomp_config_dir = Some(place.path("profiles"));
    let native = place.start();
    for (name, wanted) in [
        ("broken", "unknown variant `SCMP_ACT_FLY`"),
        ("missing", "No such file"),
        ("../broken", "must be the name of a file"),
    ] {
        let asked = SeccompInfo { profile_name: Some(name.into()), unconfined: None };
        let linux = LinuxInfo { seccomp: Some(asked), ..LinuxInfo::default() };
        let error = native.launch(asking(place.shell("a", "true"), linux)).await;
        let error = error.expect_err("must be refused").to_string();
        assert!(error.contains(wanted), "{error}");
        place.check_clean();
    }
    // The operator's own is refused at start.
    place.config.isolators.seccomp_profile_name = Some("broken".into());
    let error = Native::new(place.config.clone()).err().expect("must be refused").to_string();
    assert!(error.contains("SCMP_ACT_FLY"), "{error}");
    let (raw, chown) = (caps(&["NET_RAW"]), caps(&["CHOWN"]));
    let mut contradiction = with("badcaps", "linux/capabilities");
    contradiction.config.isolators.effective_capabilities = Some(raw);
    contradiction.config.isolators.bounding_capabilities = Some(chown);
    let error = Native::new(contradiction.config.clone()).err().expect("refused").to_string();
    assert!(error.contains("not a subset"), "{error}");
}
