//! `devices/cdi`: device nodes of specs, opened by real processes.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use bulkhead::containerizer::native::Native;
use bulkhead::containerizer::{Containerizer, LaunchRequest};
use isolators::cdi::Hooks;
use mesos::{ContainerId, Resource, value};

use crate::recovery::{in_a_life, known};
use crate::{ALL, Place, end, have_controller, mesos_container, require, resources, run, top};

const KIND: &str = "bulkhead.test/log";

const ISOLATORS: &str = "cgroups/devices,devices/cdi";

/// A place with a device that no container may open by itself: the kernel's log,
/// under a name of our own; and with specs that hand it out.
fn place(name: &str) -> Place {
    let mut place = Place::new(name, &format!("{ALL},{ISOLATORS}"));
    place.config.isolators.cdi.directories = vec![specs(&place)];
    place
}

/// The directory of the specs, made with what they speak of.
pub(crate) fn specs(place: &Place) -> PathBuf {
    let (node, data, specs) = (node(place), place.path("data"), place.path("cdi"));
    let made = Command::new("mknod").arg(&node).args(["c", "1", "11"]).status().expect("mknod");
    assert!(made.success());
    std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o666)).expect("chmod");
    std::fs::create_dir_all(&data).expect("mkdir");
    std::fs::create_dir_all(&specs).expect("mkdir");
    std::fs::write(data.join("file"), "from the spec\n").expect("write");
    let spec = format!(
        "cdiVersion: 0.7.0\nkind: {KIND}\ncontainerEdits:\n  env: [LOG_KIND=all]\n\
         devices:\n\
         - name: log0\n  containerEdits:\n    env: [LOG=0]\n    additionalGids: [4242]\n\
         \x20   deviceNodes: [{{path: {node}, permissions: r}}]\n\
         \x20   mounts: [{{hostPath: {data}, containerPath: /mnt, options: [ro]}}]\n\
         - name: log1\n  containerEdits:\n    env: [LOG=1]\n\
         \x20   deviceNodes: [{{path: {alias}, hostPath: {node}, permissions: rw}}]\n\
         - name: hooked\n  containerEdits:\n    env: [LOG=2]\n\
         \x20   hooks: [{{hookName: createContainer, path: /bin/false}}]\n",
        node = node.display(),
        data = data.display(),
        alias = place.path("alias").display(),
    );
    std::fs::write(specs.join("log.yaml"), spec).expect("write");
    std::fs::write(place.path("alias"), "").expect("write");
    specs
}

fn node(place: &Place) -> PathBuf {
    place.path("node")
}

fn with(mut request: LaunchRequest, devices: &[&str]) -> LaunchRequest {
    request.requests.extend(set(devices));
    request
}

/// These devices as a resource.
pub(crate) fn set(devices: &[&str]) -> Option<Resource> {
    let item = devices.iter().map(|name| (*name).to_owned()).collect();
    (!devices.is_empty()).then(|| Resource {
        name: KIND.into(),
        r#type: value::Type::Set as i32,
        set: Some(value::Set { item }),
        ..Resource::default()
    })
}

/// Says what can be done with a file: `r`, `w`; and that the usual devices work.
fn look(path: &std::path::Path) -> String {
    format!(
        "d={}; (exec 3<$d) 2>/dev/null && printf r; (exec 3>>$d) 2>/dev/null && printf w; \
         (exec 3>/dev/null) && echo .",
        path.display()
    )
}

/// Whoever looks again and again prints one line each time.
async fn sees(place: &Place, id: &str, wanted: &str) {
    // The last line may not be finished.
    let whole =
        |text: String| text.rsplit_once('\n').map_or(String::new(), |(all, _)| all.to_owned());
    let lines = || whole(place.output(id)).lines().map(str::to_owned).collect::<Vec<_>>();
    let before = lines().len();
    let start = std::time::Instant::now();
    loop {
        let all = lines();
        // The first line may be from before the change.
        if let Some(last) = all.iter().skip(before + 1).next_back() {
            assert!(all.iter().all(|line| line.ends_with('.')), "/dev/null failed once: {all:?}");
            if last == wanted {
                return;
            }
        }
        assert!(start.elapsed() < crate::PATIENCE, "{id}: no {wanted:?} in {all:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn refused(native: &Native, request: LaunchRequest, words: &str) {
    let error = native.launch(request).await.expect_err("must fail").to_string();
    assert!(error.contains(words), "{error}");
}

#[tokio::test]
async fn a_device_of_a_spec_comes_with_all_its_edits_and_only_by_name() {
    require!(root, cgroup);
    if !have_controller("cdi::a_device_of_a_spec_comes_with_all_its_edits", "devices") {
        return;
    }
    let mut place = place("cdi");
    let native = place.start();
    let script = format!("{}; echo $LOG $LOG_KIND; cat /mnt/file; id -G", look(&node(&place)));
    let (_, output) = run(&place, &native, place.shell("none", &script)).await;
    assert!(output.starts_with(".\n\n") && !output.contains("4242"), "{output}");
    let (_, output) = run(&place, &native, with(place.shell("one", &script), &["log0"])).await;
    assert!(output.starts_with("r.\n0 all\nfrom the spec\n"), "{output}");
    assert!(output.trim_end().ends_with("4242"), "{output}");
    // Under another path, bound over a file that is there.
    let alias = look(&place.path("alias"));
    let (_, output) = run(&place, &native, with(place.shell("two", &alias), &["log1"])).await;
    assert_eq!(output, "rw.\n");
    assert_eq!(std::fs::read(place.path("alias")).expect("the file"), b"");

    let asking = |devices: &[&str]| with(place.shell("x", "true"), devices);
    refused(&native, asking(&["log7"]), "bulkhead.test/log=log7: no such device").await;
    refused(&native, asking(&["hooked"]), "its createContainer hook '/bin/false'").await;
    place.check_clean();
    place.config.isolators.cdi.hooks = Hooks::Ignore;
    let native = place.start();
    let request = with(place.shell("four", "echo $LOG"), &["hooked"]);
    assert_eq!(run(&place, &native, request).await.1, "2\n");
}

#[tokio::test]
async fn devices_come_and_go_with_the_resources_of_a_running_container() {
    require!(root, cgroup);
    if !have_controller("cdi::devices_come_and_go_with_the_resources", "devices") {
        return;
    }
    let place = place("cdiupdate");
    let native = place.start();
    let script = format!("while :; do {}; sleep 0.02; done", look(&node(&place)));
    native.launch(place.shell("a", &script)).await.expect("launch");
    sees(&place, "a", ".").await;
    let with =
        |devices: &[&str]| resources(0.1, 64.0).into_iter().chain(set(devices)).collect::<Vec<_>>();
    for (devices, wanted) in
        [(&["log0"][..], "r."), (&["log0", "log1"], "rw."), (&["log0"], "r."), (&[], ".")]
    {
        native.update(&top("a"), with(devices), Default::default()).await.expect("update");
        sees(&place, "a", wanted).await;
    }
    let unknown = native.update(&top("a"), with(&["log7"]), Default::default()).await;
    assert!(unknown.expect_err("no such device").to_string().contains("log7"));

    // The task of a group: its executor's container has its resources too.
    native.update(&top("a"), with(&["log0"]), Default::default()).await.expect("update");
    let script = format!("{}; echo $LOG; cat /mnt/file", look(&node(&place)));
    let mut nested = self::with(place.shell("n", &script), &["log0"]);
    nested.id = ContainerId { value: "n".into(), parent: Some(Box::new(top("a"))) };
    nested.container = Some(mesos_container(None));
    let id = nested.id.clone();
    native.launch(nested).await.expect("launch");
    assert_eq!(native.wait(&id).await.expect("known").status, Some(0));
    assert_eq!(place.output("n"), "r.\n0\nfrom the spec\n");
    native.destroy(&top("a"), None).await.expect("known");
    native.forget(&top("a")).await;
}

#[test]
fn devices_are_kept_over_a_restart_of_the_agent() {
    require!(root, cgroup);
    if !have_controller("cdi::devices_are_kept_over_a_restart", "devices") {
        return;
    }
    let place = place("cdirestart");
    let script = format!("while :; do {}; sleep 0.02; done", look(&node(&place)));
    let request = with(place.shell("a", &script), &["log0"]);
    in_a_life(async {
        let native = place.start();
        native.launch(request.clone()).await.expect("launch");
        sees(&place, "a", "r.").await;
    });
    in_a_life(async {
        let native = place.start();
        native.recover(vec![known(&request, None)]).await.expect("recover");
        sees(&place, "a", "r.").await;
        // What it has, the agent knows: less of something else changes nothing.
        let fewer = resources(0.1, 48.0).into_iter().chain(set(&["log0"])).collect();
        native.update(&top("a"), fewer, Default::default()).await.expect("update");
        sees(&place, "a", "r.").await;
        native.update(&top("a"), resources(0.1, 64.0), Default::default()).await.expect("update");
        sees(&place, "a", ".").await;
        native.destroy(&top("a"), None).await.expect("known");
        end(&native, "a").await;
    });
}
