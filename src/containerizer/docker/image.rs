//! Names of images and the credentials for their registries. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

/// The registry of images that name none.
const HUB: &str = "docker.io";

/// Splits an image's name into what is pulled and its tag or digest; `latest` if
/// there is neither.
pub(super) fn split(image: &str) -> (&str, &str) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, digest);
    }
    // A colon before the last slash is a port.
    let start = image.rfind('/').map_or(0, |slash| slash + 1);
    match image[start..].find(':') {
        Some(colon) => (&image[..start + colon], &image[start + colon + 1..]),
        None => (image, "latest"),
    }
}

/// The registry that an image comes from: the first part of its name, if that
/// looks like a host.
pub(super) fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => HUB,
    }
}

/// The engine's `X-Registry-Auth` for an image, if `--docker_config` (the content
/// of a `config.json` or of a `.dockercfg`) has credentials for its registry.
pub(super) fn credentials(config: &Value, image: &str) -> Option<String> {
    let host = registry(image);
    let entries = config.get("auths").unwrap_or(config).as_object()?;
    let (server, entry) = entries.iter().find(|(server, _)| is_of(server, host))?;
    let text = |name: &str| entry[name].as_str().filter(|text| !text.is_empty());
    let mut header = json!({ "serveraddress": server });
    if let Some(token) = text("identitytoken") {
        header["identitytoken"] = token.into();
    } else if let Some(auth) = text("auth") {
        let decoded = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        header["username"] = user.into();
        header["password"] = password.trim_end_matches('\0').into();
    } else {
        header["username"] = text("username")?.into();
        header["password"] = text("password")?.into();
    }
    Some(URL_SAFE.encode(header.to_string()))
}

/// Whether an entry like `https://index.docker.io/v1/` is for the registry.
fn is_of(server: &str, host: &str) -> bool {
    let bare = server.split_once("://").map_or(server, |(_, rest)| rest);
    let named = bare.split('/').next().unwrap_or(bare);
    named == host || (host == HUB && ["index.docker.io", "registry-1.docker.io"].contains(&named))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (image, name, tag, host) in [
            ("nginx", "nginx", "latest", "docker.io"),
            ("nginx:1.2", "nginx", "1.2", "docker.io"),
            ("team/nginx:1.2", "team/nginx", "1.2", "docker.io"),
            ("host:5000/a/b", "host:5000/a/b", "latest", "host:5000"),
            ("host:5000/a:x", "host:5000/a", "x", "host:5000"),
            ("localhost/a", "localhost/a", "latest", "localhost"),
            ("a.b/c@sha256:12", "a.b/c", "sha256:12", "a.b"),
        ] {
            assert_eq!((split(image), registry(image)), ((name, tag), host), "{image}");
        }
    }

    #[test]
    fn credentials_go_to_their_registry_only() {
        let auth = STANDARD.encode("me:a:b");
        let config = json!({ "auths": {
            "https://index.docker.io/v1/": { "auth": auth },
            "host:5000": { "username": "you", "password": "x" },
            "token.example": { "identitytoken": "t" },
        } });
        let read = |image: &str| -> Option<Value> {
            let bytes = URL_SAFE.decode(credentials(&config, image)?).unwrap();
            serde_json::from_slice(&bytes).ok()
        };
        let hub = read("nginx").unwrap();
        assert_eq!((&hub["username"], &hub["password"]), (&json!("me"), &json!("a:b")));
        assert_eq!(read("host:5000/a").unwrap()["username"], "you");
        assert_eq!(read("token.example/a").unwrap()["identitytoken"], "t");
        assert_eq!(read("other.example/a"), None);
        let old = json!({ "host": { "auth": STANDARD.encode("nobody") } });
        assert_eq!(credentials(&old, "host/a"), None);
    }
}
