//! Who leads. Standalone: we do. ZooKeeper comes behind the same trait.

use async_trait::async_trait;
use mesos::MasterInfo;

/// A way to find the leading master.
#[async_trait]
pub trait Election: Send + Sync {
    /// Contends as `us` and returns when a leader is known: the leader.
    /// A second call waits until the leader changes.
    async fn leader(&self, us: &MasterInfo) -> MasterInfo;
}

/// No other masters: always elected.
#[derive(Debug, Default)]
pub struct Standalone {
    asked: std::sync::atomic::AtomicBool,
}

#[async_trait]
impl Election for Standalone {
    async fn leader(&self, us: &MasterInfo) -> MasterInfo {
        if self.asked.swap(true, std::sync::atomic::Ordering::Relaxed) {
            std::future::pending::<()>().await; // It never changes.
        }
        us.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn standalone_leads_forever() {
        let us = MasterInfo { id: "m".into(), ..MasterInfo::default() };
        let election = Standalone::default();
        assert_eq!(election.leader(&us).await, us);
        let again = tokio::time::timeout(std::time::Duration::from_millis(5), election.leader(&us));
        assert!(again.await.is_err());
    }
}
