//! Several containerizers behind one door, for `--containerizers=mesos,docker`.
//!
//! The rules are Mesos': each is asked in order to launch a container, one that does
//! not support it passes it on, the first other answer is final. A nested container
//! belongs to whoever has its root. Owns no state: who knows a container is asked of
//! those who do.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use isolators::gpu::Figure as Gpu;
use isolators::network::ports::listening::OpenPorts;
use isolators::traced::Calls;
use mesos::container_info::Type;
use mesos::{ContainerId, ContainerStatus, Resource};

use super::images::NamedStore;
use super::terminal::Terminal;
use super::{
    Containerizer, ContainerizerError, KnownContainer, LaunchRequest, Launched, Listening,
    Progress, Sample, Termination, Trouble,
};

/// A containerizer and its name in `--containerizers`.
pub type Named = (&'static str, Arc<dyn Containerizer>);

/// All of them, in the order they are asked.
pub struct Composing {
    all: Vec<Named>,
}

impl Composing {
    /// At least one, in the order of the flag.
    #[must_use]
    pub fn new(all: Vec<Named>) -> Composing {
        Composing { all }
    }

    /// Who has the container, or the root of it.
    fn of(&self, id: &ContainerId) -> Option<&Arc<dyn Containerizer>> {
        let root = id.root();
        let has = |one: &&Named| one.1.knows(id) || one.1.knows(root);
        self.all.iter().find(has).map(|(_, containerizer)| containerizer)
    }
}

/// Who is to look for a container after a restart: those of type DOCKER are docker's
/// wherever there is one, all others the first one's that is not.
fn owner<'a>(all: &'a [Named], known: &KnownContainer) -> Option<&'a Named> {
    let info = known.request.container.as_ref();
    let is_docker = info.is_some_and(|info| info.r#type == Type::Docker as i32);
    all.iter().find(|(name, _)| (*name == "docker") == is_docker).or(all.first())
}

#[async_trait]
impl Containerizer for Composing {
    async fn recover(
        &self,
        known: Vec<KnownContainer>,
    ) -> Result<Vec<ContainerId>, ContainerizerError> {
        let mut shares: BTreeMap<&str, Vec<KnownContainer>> = BTreeMap::new();
        for known in known {
            if let Some((name, _)) = owner(&self.all, &known) {
                shares.entry(name).or_default().push(known);
            }
        }
        let mut never_ran = Vec::new();
        for (name, containerizer) in &self.all {
            never_ran.extend(containerizer.recover(shares.remove(name).unwrap_or_default()).await?);
        }
        Ok(never_ran)
    }

    async fn launch(&self, request: LaunchRequest) -> Result<Launched, ContainerizerError> {
        if request.id.parent.is_some() {
            let owner = self.of(&request.id);
            let unknown = || ContainerizerError::Unknown(request.id.root().value.clone());
            return owner.ok_or_else(unknown)?.launch(request).await;
        }
        if self.of(&request.id).is_some() {
            return Err(ContainerizerError::AlreadyLaunched(request.id.value));
        }
        let mut reasons = Vec::new();
        for (name, containerizer) in &self.all {
            match containerizer.launch(request.clone()).await {
                Err(ContainerizerError::NotSupported(why)) => {
                    reasons.push(format!("{name}: {why}"));
                }
                answer => return answer,
            }
        }
        let reasons = reasons.join("; ");
        Err(ContainerizerError::NotSupported(format!("no containerizer takes it: {reasons}")))
    }

    async fn wait(&self, id: &ContainerId) -> Option<Termination> {
        self.of(id)?.wait(id).await
    }

    async fn forget(&self, id: &ContainerId) {
        if let Some(owner) = self.of(id) {
            owner.forget(id).await;
        }
    }

    async fn update(
        &self,
        id: &ContainerId,
        requests: Vec<Resource>,
        limits: BTreeMap<String, f64>,
    ) -> Result<(), ContainerizerError> {
        match self.of(id) {
            Some(owner) => owner.update(id, requests, limits).await,
            None => Err(ContainerizerError::Unknown(id.value.clone())),
        }
    }

    async fn statistics(&self) -> Sample {
        let mut all = Vec::new();
        for (_, containerizer) in &self.all {
            all.extend(containerizer.statistics().await.iter().cloned());
        }
        Arc::new(all)
    }

    async fn status(&self, id: &ContainerId) -> Option<ContainerStatus> {
        self.of(id)?.status(id).await
    }

    async fn kill(&self, id: &ContainerId, signal: i32) -> bool {
        match self.of(id) {
            Some(owner) => owner.kill(id, signal).await,
            None => false,
        }
    }

    async fn kill_all(&self, id: &ContainerId, signal: i32) -> bool {
        match self.of(id) {
            Some(owner) => owner.kill_all(id, signal).await,
            None => false,
        }
    }

    async fn listen(
        &self,
        id: &ContainerId,
        to: [OwnedFd; 2],
    ) -> Result<Listening, ContainerizerError> {
        let unknown = || ContainerizerError::Unknown(id.value.clone());
        self.of(id).ok_or_else(unknown)?.listen(id, to).await
    }

    async fn destroy(
        &self,
        id: &ContainerId,
        termination: Option<Termination>,
    ) -> Option<Termination> {
        self.of(id)?.destroy(id, termination).await
    }

    /// The lists of pending calls in one; other members side by side.
    fn debug(&self) -> serde_json::Value {
        let mut body = serde_json::json!({});
        let mut pending = Vec::new();
        for (_, containerizer) in &self.all {
            let serde_json::Value::Object(members) = containerizer.debug() else { continue };
            for (name, value) in members {
                match (name.as_str(), value) {
                    ("pending", serde_json::Value::Array(calls)) => pending.extend(calls),
                    (_, value) => body[name] = value,
                }
            }
        }
        body["pending"] = pending.into();
        body
    }

    fn isolator_calls(&self) -> BTreeMap<(&'static str, &'static str), Calls> {
        self.all.iter().flat_map(|(_, containerizer)| containerizer.isolator_calls()).collect()
    }

    fn gpus(&self) -> Vec<Gpu> {
        self.all.iter().flat_map(|(_, containerizer)| containerizer.gpus()).collect()
    }

    fn listening(&self) -> Vec<(String, OpenPorts)> {
        self.all.iter().flat_map(|(_, containerizer)| containerizer.listening()).collect()
    }

    fn images(&self) -> Vec<NamedStore> {
        self.all.iter().flat_map(|(_, containerizer)| containerizer.images()).collect()
    }

    fn progress(&self) -> Vec<(ContainerId, Progress)> {
        self.all.iter().flat_map(|(_, containerizer)| containerizer.progress()).collect()
    }

    fn troubles(&self) -> Vec<(ContainerId, Arc<Trouble>)> {
        self.all.iter().flat_map(|(_, containerizer)| containerizer.troubles()).collect()
    }

    fn containers(&self) -> Vec<(ContainerId, Option<u32>)> {
        self.all.iter().flat_map(|(_, containerizer)| containerizer.containers()).collect()
    }

    fn terminal(&self, id: &ContainerId) -> Option<Arc<Terminal>> {
        self.of(id)?.terminal(id)
    }

    fn knows(&self, id: &ContainerId) -> bool {
        self.all.iter().any(|(_, containerizer)| containerizer.knows(id))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use mesos::ContainerInfo;

    use super::*;

    /// Takes containers of one type; a container called `bad` fails.
    struct Picky {
        takes: Option<Type>,
        known: Mutex<Vec<ContainerId>>,
    }

    fn kind(info: Option<&ContainerInfo>) -> Option<Type> {
        info.and_then(|info| Type::try_from(info.r#type).ok())
    }

    #[async_trait]
    impl Containerizer for Picky {
        async fn recover(
            &self,
            known: Vec<KnownContainer>,
        ) -> Result<Vec<ContainerId>, ContainerizerError> {
            self.known.lock().unwrap().extend(known.into_iter().map(|known| known.request.id));
            Ok(Vec::new())
        }

        async fn launch(&self, request: LaunchRequest) -> Result<Launched, ContainerizerError> {
            if request.id.parent.is_none() && kind(request.container.as_ref()) != self.takes {
                return Err(ContainerizerError::NotSupported("another type".into()));
            }
            if request.id.value == "bad" {
                let (id, message) = ("bad".into(), "it is bad".into());
                return Err(ContainerizerError::Launch { id, step: "start", message });
            }
            self.known.lock().unwrap().push(request.id);
            Ok(Launched::default())
        }

        async fn wait(&self, _: &ContainerId) -> Option<Termination> {
            Some(Termination::default())
        }

        async fn forget(&self, id: &ContainerId) {
            self.known.lock().unwrap().retain(|known| known != id);
        }

        async fn update(
            &self,
            _: &ContainerId,
            _: Vec<Resource>,
            _: BTreeMap<String, f64>,
        ) -> Result<(), ContainerizerError> {
            Ok(())
        }

        async fn statistics(&self) -> Sample {
            Sample::default()
        }

        async fn status(&self, _: &ContainerId) -> Option<ContainerStatus> {
            None
        }

        async fn kill(&self, _: &ContainerId, _: i32) -> bool {
            true
        }

        async fn kill_all(&self, _: &ContainerId, _: i32) -> bool {
            true
        }

        async fn destroy(&self, _: &ContainerId, _: Option<Termination>) -> Option<Termination> {
            Some(Termination::default())
        }

        fn containers(&self) -> Vec<(ContainerId, Option<u32>)> {
            self.known.lock().unwrap().iter().map(|id| (id.clone(), None)).collect()
        }
    }

    fn picky(takes: Option<Type>) -> Arc<Picky> {
        Arc::new(Picky { takes, known: Mutex::default() })
    }

    fn request(id: &str, kind: Option<Type>) -> LaunchRequest {
        let container =
            kind.map(|kind| ContainerInfo { r#type: kind as i32, ..ContainerInfo::default() });
        let id = ContainerId { value: id.into(), parent: None };
        LaunchRequest { id, container, ..LaunchRequest::default() }
    }

    #[tokio::test]
    async fn the_first_that_supports_a_container_decides() {
        let (mesos, docker) = (picky(None), picky(Some(Type::Docker)));
        let both = Composing::new(vec![("mesos", mesos.clone()), ("docker", docker.clone())]);
        both.launch(request("a", None)).await.expect("mesos takes it");
        both.launch(request("b", Some(Type::Docker))).await.expect("docker takes it");
        assert!(mesos.knows(&request("a", None).id) && docker.knows(&request("b", None).id));

        let again = both.launch(request("b", None)).await.expect_err("it is there");
        assert!(matches!(again, ContainerizerError::AlreadyLaunched(_)));
        let failed = both.launch(request("bad", None)).await.expect_err("it is bad");
        assert!(matches!(failed, ContainerizerError::Launch { .. }), "no second try");
        let nobody = both.launch(request("c", Some(Type::Mesos))).await.expect_err("nobody");
        let text = nobody.to_string();
        assert!(text.contains("mesos: another type; docker: another type"), "{text}");

        // Nested ones go where their root is.
        let parent = Some(Box::new(request("b", None).id));
        let id = ContainerId { value: "n".into(), parent };
        both.launch(LaunchRequest { id: id.clone(), ..request("n", None) }).await.expect("fine");
        assert!(docker.knows(&id) && !mesos.knows(&id));
        let nowhere = request("nowhere", None).id;
        assert_eq!(both.wait(&nowhere).await, None);
        assert!(!both.kill(&nowhere, 9).await);
        both.forget(&id).await;
        assert!(!docker.knows(&id));
    }

    #[tokio::test]
    async fn after_a_restart_each_gets_its_own() {
        let (mesos, docker) = (picky(None), picky(Some(Type::Docker)));
        let both = Composing::new(vec![("docker", docker.clone()), ("mesos", mesos.clone())]);
        let known = |id: &str, kind| KnownContainer { request: request(id, kind), pid: None };
        let all = vec![known("a", None), known("b", Some(Type::Docker))];
        both.recover(all).await.expect("fine");
        assert_eq!(mesos.containers().len(), 1);
        assert!(mesos.knows(&request("a", None).id) && docker.knows(&request("b", None).id));
    }
}
