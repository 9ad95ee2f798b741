//! Registries that want to know who asks, and who are to prove who they are.

use std::os::unix::fs::PermissionsExt;

use bulkhead::provisioner::{Options, Reference};
use serde_json::json;

use super::{Place, read};
use crate::registry::{Answer, Guard, Parcel, Registry, Shelf, Tokens};
use crate::require;

#[tokio::test(flavor = "multi_thread")]
async fn passwords() {
    require!(root, docker_registry, curl, openssl);
    let registry = Registry::start(Guard::Basic);
    registry.push("private/x", "latest", &Parcel::small("private"));
    let name = format!("{}/private/x", registry.host);
    let place = Place::new("https://registry-1.docker.io");
    let error = place.refused(&name).await;
    let expected =
        format!("{} wants credentials, and none are known for it (--docker_config)", registry.host);
    assert!(error.contains(&expected), "{error}");

    let wrong = Place::with("https://registry-1.docker.io", |settings| {
        settings.credentials =
            Some(json!({ "auths": { &registry.host: { "auth": "bWU6d3Jvbmc=" } } }));
    });
    let error = wrong.refused(&name).await;
    assert!(
        error.contains("does not accept our credentials") && !error.contains("wrong"),
        "{error}"
    );
    // The image's own come first.
    let reference = Reference::parse(&name).expect("a name");
    let own = |text: String| Options { credentials: Some(text.into_bytes()), ..Options::default() };
    let lease = wrong.store.get(&reference, own(registry.credentials().to_string())).await;
    assert_eq!(read(&lease.expect("pulled"), "file"), "private");
    let error = place.store.get(&reference, own("no json".into())).await.expect_err("refused");
    assert!(error.to_string().contains("expected docker's config.json"), "{error}");

    let place = Place::with("https://registry-1.docker.io", |settings| {
        settings.credentials = Some(registry.credentials());
    });
    assert_eq!(read(&place.get(&name).await.expect("pulled"), "file"), "private");
}

/// The program is found as the agent's environment says; that is this process' here, so
/// the name is one that nobody else has.
#[tokio::test(flavor = "multi_thread")]
async fn programs_that_know_passwords() {
    require!(root, docker_registry, curl, openssl);
    let registry = Registry::start(Guard::Basic);
    registry.push("private/x", "latest", &Parcel::small("private"));
    let name = format!("bulkhead-test-{}", std::process::id());
    let program = std::path::Path::new("/usr/local/bin").join(format!("docker-credential-{name}"));
    struct Gone(std::path::PathBuf);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
    let _gone = Gone(program.clone());
    let script = "#!/bin/sh\nread host\necho '{\"Username\":\"me\",\"Secret\":\"secret\"}'\n";
    std::fs::write(&program, script).expect("write");
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("chmod");
    let place = Place::with("https://registry-1.docker.io", |settings| {
        settings.credentials = Some(json!({ "credHelpers": { &registry.host: name } }));
    });
    let pulled = place.get(&format!("{}/private/x", registry.host)).await;
    assert_eq!(read(&pulled.expect("pulled"), "file"), "private");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens() {
    require!(root, docker_registry, curl, openssl);
    let service = Tokens::start();
    let registry = Registry::start(Guard::Token(service.port));
    service.sign_for(&registry);
    registry.push("private/x", "latest", &Parcel::small("private"));
    registry.push("public/x", "latest", &Parcel::small("public"));
    let stranger = Place::new("https://registry-1.docker.io");
    let public = stranger.get(&format!("{}/public/x", registry.host)).await.expect("pulled");
    assert_eq!(read(&public, "file"), "public");
    let name = format!("{}/private/x", registry.host);
    let error = stranger.refused(&name).await;
    assert!(error.contains("wants credentials, and none are known"), "{error}");
    let known = Place::with("https://registry-1.docker.io", |settings| {
        settings.credentials = Some(registry.credentials());
    });
    assert_eq!(read(&known.get(&name).await.expect("pulled"), "file"), "private");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates() {
    require!(root, docker_registry, curl, openssl);
    for guard in [Guard::Tls, Guard::SelfSigned] {
        let registry = Registry::start(guard);
        registry.push("x", "latest", &Parcel::small("by TLS"));
        let name = format!("{}/x", registry.host);
        let place = Place::new("https://registry-1.docker.io");
        let error = place.refused(&name).await;
        assert!(error.contains("failed to set up TLS") && error.contains("certificate"), "{error}");
        // As dockerd has them, found without a restart.
        registry.trust(&place.dir.path().join("certs.d"));
        let pulled = place.get(&name).await.unwrap_or_else(|e| panic!("{guard:?}: {e}"));
        assert_eq!(read(&pulled, "file"), "by TLS");
        // Of another name it is nobody's.
        let other = format!("localhost:{}/x", name.split([':', '/']).nth(1).expect("a port"));
        registry.trust_as(&place.dir.path().join("certs.d"), other.trim_end_matches("/x"));
        let error = place.refused(&other).await;
        assert!(error.contains("failed to set up TLS"), "{guard:?}: {error}");
        let insecure = Place::with("https://registry-1.docker.io", |settings| {
            settings.insecure.push("127.0.0.1".into());
        });
        insecure.get(&name).await.expect("not checked");
    }
}

/// A server that is asked by TLS and answers in the clear gets nothing from us, unless it
/// is on this machine or called insecure.
#[tokio::test(flavor = "multi_thread")]
async fn only_insecure_registries_are_spoken_to_in_the_clear() {
    require!(root);
    let parcel = Parcel::small("clear");
    let shelf = Shelf::of(parcel.shelved("x", "latest"));
    // The same port under an address that is not loopback's by name.
    let name = format!("{}/x", shelf.host.replace("127.0.0.1", "0.0.0.0"));
    let place = Place::new("https://registry-1.docker.io");
    let error = place.refused(&name).await;
    assert!(error.contains("does not speak TLS"), "{error}");
    assert_eq!(shelf.asked("GET /"), 0);
    let insecure = Place::with("https://registry-1.docker.io", |settings| {
        settings.insecure.push("0.0.0.0".into());
    });
    insecure.get(&name).await.expect("pulled");
    place.get(&format!("{}/x", shelf.host)).await.expect("loopback");
}

/// What a registry redirects to does not learn who we are.
#[tokio::test(flavor = "multi_thread")]
async fn authorization_stays_with_the_registry() {
    require!(root);
    let parcel = Parcel::small("elsewhere");
    let blobs = Shelf::of(parcel.shelved("x", "latest"));
    let (files, target) = (parcel.shelved("x", "latest"), blobs.host.clone());
    let registry = Shelf::start(move |path, head| {
        if !head.contains("Authorization: Basic bWU6c2VjcmV0") {
            return Answer::status("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"");
        }
        if path.contains("/blobs/") {
            return Answer::status(&format!(
                "307 Temporary Redirect\r\nLocation: http://{target}{path}"
            ));
        }
        crate::registry::ranged(&files, path, head)
    });
    let place = Place::with(&format!("http://{}", registry.host), |settings| {
        settings.credentials =
            Some(json!({ "auths": { &registry.host: { "auth": "bWU6c2VjcmV0" } } }));
    });
    assert_eq!(read(&place.get("x").await.expect("pulled"), "file"), "elsewhere");
    assert!(blobs.asked("GET /v2/x/blobs/") >= 2 && blobs.asked("Authorization") == 0);
}
