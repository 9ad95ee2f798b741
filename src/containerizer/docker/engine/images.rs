//! Questions about images.

use serde_json::Value;

use super::{Engine, EngineError, SLOW, STALL, escaped, escaped_path, refused_with, silent};
use crate::containerizer::docker::frames;
use crate::wire::client::Call;

/// An image of the engine.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::containerizer::docker) struct Image {
    /// `sha256:...` of its configuration.
    pub(in crate::containerizer::docker) id: String,
    /// `name:tag`.
    pub(in crate::containerizer::docker) tags: Vec<String>,
    /// `name@sha256:...`
    pub(in crate::containerizer::docker) digests: Vec<String>,
    /// With the layers that it shares with others.
    pub(in crate::containerizer::docker) bytes: u64,
    /// When it was given a name last, in nanoseconds since 1970; only if inspected.
    pub(in crate::containerizer::docker) tagged: Option<u64>,
}

impl Image {
    fn of(raw: &Value) -> Image {
        let names = |member: &str| {
            let list = raw[member].as_array().into_iter().flatten().filter_map(Value::as_str);
            // What has no name is called `<none>:<none>`.
            list.filter(|name| !name.starts_with("<none>")).map(str::to_owned).collect()
        };
        Image {
            id: raw["Id"].as_str().unwrap_or_default().to_owned(),
            tags: names("RepoTags"),
            digests: names("RepoDigests"),
            bytes: raw["Size"].as_u64().unwrap_or_default(),
            tagged: raw["Metadata"]["LastTagTime"].as_str().and_then(frames::nanoseconds),
        }
    }
}

impl Engine {
    /// The image of a name, a digest or an id; `None` if it is not there.
    pub(in crate::containerizer::docker) async fn image(
        &self,
        name: &str,
    ) -> Result<Option<Image>, EngineError> {
        let path = format!("/images/{}/json", escaped_path(name));
        match self.json("inspect image", name, Call::get(&path)).await {
            Ok(answer) => Ok(Some(Image::of(&answer))),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every image that has a name or is nobody's layer.
    pub(in crate::containerizer::docker) async fn images(&self) -> Result<Vec<Image>, EngineError> {
        let list = self.json("list", "images", Call::get("/images/json")).await?;
        Ok(list.as_array().into_iter().flatten().map(Image::of).collect())
    }

    /// Takes the name from an image, and removes the image if it was the last one. Is
    /// refused as a conflict while a container uses it. Gone already is fine.
    pub(in crate::containerizer::docker) async fn remove_image(
        &self,
        name: &str,
    ) -> Result<(), EngineError> {
        let path = format!("/images/{}", escaped_path(name));
        let call = Call::get(&path).method(http::Method::DELETE);
        match self.call("remove image", name, SLOW, call).await {
            Err(error) if !error.is_missing() => Err(error),
            _ => Ok(()),
        }
    }

    /// Gives it the images of an archive; `object` for people.
    pub(in crate::containerizer::docker) async fn load(
        &self,
        object: &str,
        archive: Vec<u8>,
    ) -> Result<(), EngineError> {
        const OPERATION: &str = "load image";
        let call = Call::post("/images/load?quiet=1", "application/x-tar", archive);
        let reply = self.call(OPERATION, object, SLOW, call).await?;
        let said = |line: &[u8]| -> Option<String> {
            let said: Value = serde_json::from_slice(line).ok()?;
            said["error"].as_str().map(str::to_owned)
        };
        match reply.body.split(|byte| *byte == b'\n').find_map(said) {
            Some(message) => Err(refused_with(OPERATION, object, 0, message)),
            None => Ok(()),
        }
    }

    /// Pulls `image:tag` (or `image@digest`); `auth` is the registry's header.
    /// Fails when nothing is heard for a while, however long the whole takes. `hear` is
    /// told what the engine reports meanwhile.
    pub(in crate::containerizer::docker) async fn pull(
        &self,
        image: &str,
        tag: &str,
        auth: Option<&str>,
        mut hear: impl FnMut(&Value) + Send,
    ) -> Result<(), EngineError> {
        const OPERATION: &str = "pull image";
        let object = image_name(image, tag);
        let path = format!("/images/create?fromImage={}&tag={}", escaped(image), escaped(tag));
        let mut call = Call::post(&path, "application/json", "");
        if let Some(auth) = auth {
            call = call.header("x-registry-auth", auth);
        }
        let mut body = self.stream(OPERATION, &object, STALL, call).await?;
        let _asked = self.ask(OPERATION, &object);
        let mut line = Vec::new();
        loop {
            let next = tokio::time::timeout(STALL, body.next()).await;
            let next = next.map_err(|_| {
                let message = format!("no progress for {} s", STALL.as_secs());
                refused_with(OPERATION, &object, 0, message)
            })?;
            match next.map_err(|source| silent(OPERATION, &object, source))? {
                Some(bytes) => line.extend_from_slice(&bytes),
                None => return Ok(()),
            }
            while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let report: Vec<u8> = line.drain(..=end).collect();
                let report: Value = serde_json::from_slice(&report).unwrap_or_default();
                if let Some(message) = report["error"].as_str() {
                    return Err(refused_with(OPERATION, &object, 0, message.to_owned()));
                }
                hear(&report);
            }
        }
    }
}

/// `image:tag`, or `image@digest`.
pub(in crate::containerizer::docker) fn image_name(image: &str, tag: &str) -> String {
    let separator = if tag.contains(':') { '@' } else { ':' };
    format!("{image}{separator}{tag}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read() {
        let image = Image::of(&serde_json::json!({
            "Id": "sha256:12", "RepoTags": ["a:1", "<none>:<none>"], "RepoDigests": null,
            "Size": 7, "Metadata": { "LastTagTime": "1970-01-01T00:00:02Z" },
        }));
        assert_eq!((image.id.as_str(), image.tags.join(" ")), ("sha256:12", "a:1".to_owned()));
        assert_eq!((image.digests.len(), image.bytes), (0, 7));
        assert_eq!(image.tagged, Some(2_000_000_000));
        let never = serde_json::json!({ "Metadata": { "LastTagTime": "0001-01-01T00:00:00Z" } });
        assert_eq!(Image::of(&never).tagged, None);
    }
}
