//! `volume/secret`: seen inside, on no disk, gone with the container.

use std::path::Path;
use std::sync::Arc;

use bulkhead::containerizer::{Containerizer, LaunchRequest};
use isolators::secret::{Directory, Secrets};
use mesos::secret::{Reference, Type, Value};
use mesos::volume::{Mode, Source, source};
use mesos::{ContainerId, Secret, Volume};

use crate::recovery::{in_a_life, known};
use crate::{ALL, PATIENCE, Place, end, mesos_container, require, run, top};

const HUSH: &str = "hush-5f0c1a";

fn value(data: &str) -> Secret {
    Secret {
        r#type: Some(Type::Value as i32),
        value: Some(Value { data: data.as_bytes().to_vec() }),
        ..Secret::default()
    }
}

fn named(name: &str) -> Secret {
    Secret {
        r#type: Some(Type::Reference as i32),
        reference: Some(Reference { name: name.into(), key: None }),
        ..Secret::default()
    }
}

fn volume(path: &str, secret: Secret, mode: Mode) -> Volume {
    let source = Source {
        r#type: Some(source::Type::Secret as i32),
        secret: Some(secret),
        ..Source::default()
    };
    Volume {
        container_path: path.into(),
        mode: mode as i32,
        source: Some(source),
        ..Volume::default()
    }
}

/// A secret at `path` in the sandbox.
pub(crate) fn value_at(path: &str) -> Volume {
    volume(path, value(HUSH), Mode::Ro)
}

fn with(mut request: LaunchRequest, volumes: Vec<Volume>) -> LaunchRequest {
    let mut container = mesos_container(None);
    container.volumes = volumes;
    request.container = Some(container);
    request
}

fn place(name: &str) -> Place {
    Place::new(name, &format!("{ALL},volume/secret"))
}

/// Files below `dir` that hold `text`, those in memory excepted.
fn on_disk(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(data) = entry.metadata() else { continue };
        if data.is_dir() && path.file_name().is_some_and(|name| name != "secrets") {
            found.extend(on_disk(&path, text));
        } else if data.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

fn mounted(place: &Place) -> bool {
    let mark = place.path("runtime").display().to_string();
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    table.lines().any(|line| line.contains(&mark))
}

#[tokio::test]
async fn secrets_are_files_that_only_their_container_sees() {
    require!(root, cgroup);
    let mut place = place("secret");
    std::fs::create_dir(place.path("vault")).expect("mkdir");
    std::fs::write(place.path("vault/db"), "password\n").expect("write");
    place.config.isolators.secrets = Secrets::with(Arc::new(Directory::new(place.path("vault"))));
    let native = place.start();
    let script = "cat token; echo; stat -f -c %T token; stat -c '%U %a' token sub/rw; cat sub/db; \
                  echo more >> sub/rw && cat sub/rw; echo no 2>/dev/null > token || echo refused; \
                  echo ready; while [ ! -e go ]; do sleep 0.02; done; cat token > copy";
    let mut request = with(
        place.shell("a", script),
        vec![
            volume("token", value(HUSH), Mode::Ro),
            volume("sub/rw", value("some "), Mode::Rw),
            volume("sub/db", named("db"), Mode::Ro),
        ],
    );
    request.user = Some("nobody".into());
    std::os::unix::fs::chown(&request.sandbox, Some(65534), None).expect("chown");
    native.launch(request).await.expect("launch");
    let output = place.wait_output("a", "ready").await;
    let wanted =
        format!("{HUSH}\ntmpfs\nnobody 400\nnobody 600\npassword\nsome more\nrefused\nready\n");
    assert_eq!(output.replace("ramfs", "tmpfs"), wanted);
    assert!(mounted(&place));
    let mut hits = on_disk(&place.path(""), HUSH);
    hits.retain(|path| !path.ends_with("/stdout"));
    assert!(hits.is_empty(), "the secret is in {hits:?}");

    // Root in another container looks for it.
    let runtime = place.path("runtime");
    let look = format!("find {} | grep -c secrets; grep -r hush- {0}", runtime.display());
    let (_, output) = run(&place, &native, place.shell("b", &look)).await;
    assert_eq!(output, "0\n", "another container sees it");

    std::fs::write(place.path("sandbox-a").join("go"), "").expect("go");
    assert_eq!(end(&native, "a").await.status, Some(0));
    assert!(!mounted(&place));
    // What the mount leaves is an empty file.
    let token = std::fs::read(place.path("sandbox-a").join("token")).expect("the mount point");
    assert!(token.is_empty());
}

#[test]
fn secrets_outlive_the_agent_and_go_with_their_container() {
    require!(root, cgroup);
    let place = place("secretlife");
    let wait = "echo ready; while [ ! -e go ]; do sleep 0.02; done; cat token";
    let secret = || vec![volume("token", value(HUSH), Mode::Ro)];
    let kept = with(place.shell("kept", wait), secret());
    let orphan = with(place.shell("orphan", wait), secret());
    let mut nested = with(place.shell("nested", "cat token; sleep 1000"), secret());
    nested.id = ContainerId { value: "nested".into(), parent: Some(Box::new(top("kept"))) };
    in_a_life(async {
        let native = place.start();
        for request in [&kept, &orphan, &nested] {
            native.launch(request.clone()).await.expect("launch");
            place
                .wait_output(
                    &request.id.value,
                    if request.id.parent.is_some() { HUSH } else { "ready" },
                )
                .await;
        }
    });
    in_a_life(async {
        let native = place.start();
        native.recover(vec![known(&kept, None)]).await.expect("recover");
        std::fs::write(place.path("sandbox-kept").join("go"), "").expect("go");
        assert_eq!(end(&native, "kept").await.status, Some(0));
        assert_eq!(place.output("kept"), format!("ready\n{HUSH}"));
        let start = std::time::Instant::now();
        while mounted(&place) || !place.cgroups("orphan").is_empty() {
            assert!(start.elapsed() < PATIENCE, "the orphan's secrets stay");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
}

#[tokio::test]
async fn what_cannot_be_resolved_fails_the_launch_and_leaves_nothing() {
    require!(root, cgroup);
    let place = place("secretbad");
    let native = place.start();
    for (volumes, words) in [
        (vec![volume("t", named("db"), Mode::Ro)], "'db': there is no secret resolver"),
        (
            vec![volume("a", value(HUSH), Mode::Ro), volume("t", named("db"), Mode::Ro)],
            "the secret of volume 't'",
        ),
        (vec![volume("t", Secret::default(), Mode::Ro)], "a secret of unknown type"),
        (vec![volume("../t", value(HUSH), Mode::Ro)], "'..' is not allowed"),
        (vec![volume("/no/such/file", value(HUSH), Mode::Ro)], "'/no/such/file'"),
    ] {
        let request = with(place.shell("a", "true"), volumes);
        let error = native.launch(request).await.expect_err("must fail").to_string();
        assert!(error.contains(words) && !error.contains(HUSH), "{error}");
        place.check_clean();
    }
    // Without the isolator the volume is refused, not left out.
    let plain = Place::new("secretnone", ALL);
    let native = plain.start();
    let request = with(plain.shell("a", "true"), vec![volume("t", value(HUSH), Mode::Ro)]);
    let error = native.launch(request).await.expect_err("must fail").to_string();
    assert!(error.contains("it needs 'volume/secret' in --isolation"), "{error}");
}
