//! `posix/cpu` and `posix/mem`: figures of the container's process tree. Nothing
//! is enforced. They work with every launcher, the linux one included.

use std::sync::Arc;

use async_trait::async_trait;
use kernel::proctree::{self, ProcessStat};
use mesos::ResourceStatistics;

use crate::api::{
    About, ContainerContext, Isolation, Isolator, IsolatorError, Known, Probe, Recovered,
};

/// Adds the figures of a process tree to statistics.
type Fill = fn(&[ProcessStat], &mut ResourceStatistics);

/// `posix/cpu`.
#[derive(Debug)]
pub struct PosixCpu;

/// `posix/mem`.
#[derive(Debug)]
pub struct PosixMem;

#[allow(clippy::cast_precision_loss)] // clock ticks stay far below 2^53
fn fill_cpu(tree: &[ProcessStat], statistics: &mut ResourceStatistics) {
    let ticks = proctree::ticks_per_second();
    let sum = |of: fn(&ProcessStat) -> u64| tree.iter().map(of).sum::<u64>() as f64 / ticks;
    statistics.cpus_user_time_secs = Some(sum(|p| p.user_ticks));
    statistics.cpus_system_time_secs = Some(sum(|p| p.system_ticks));
}

fn fill_mem(tree: &[ProcessStat], statistics: &mut ResourceStatistics) {
    let pages: u64 = tree.iter().map(|p| p.resident_pages).sum();
    statistics.mem_rss_bytes = Some(pages * proctree::page_size());
}

macro_rules! isolator {
    ($type:ident, $name:literal, $fill:ident) => {
        #[async_trait]
        impl Isolator for $type {
            fn about(&self) -> About {
                About::top_level($name)
            }

            fn attach(&self, _context: &Arc<ContainerContext>) -> Box<dyn Isolation> {
                Box::new(PosixUsage { name: $name, fill: $fill, pid: None })
            }

            async fn recover(&self, known: &[Known]) -> Result<Recovered, IsolatorError> {
                let handle = |known: &Known| -> Box<dyn Isolation> {
                    Box::new(PosixUsage { name: $name, fill: $fill, pid: known.pid })
                };
                let handles = known.iter().map(handle).collect();
                Ok(Recovered { handles, leftovers: Vec::new() })
            }
        }
    };
}

isolator!(PosixCpu, "posix/cpu", fill_cpu);
isolator!(PosixMem, "posix/mem", fill_mem);

#[derive(Debug)]
struct PosixUsage {
    name: &'static str,
    fill: Fill,
    pid: Option<u32>,
}

#[async_trait]
impl Isolation for PosixUsage {
    async fn isolate(&mut self, pid: u32) -> Result<(), IsolatorError> {
        self.pid = Some(pid);
        Ok(())
    }

    fn probes(&mut self) -> Vec<Box<dyn Probe>> {
        let probe = |pid| Box::new(TreeProbe { name: self.name, fill: self.fill, pid });
        self.pid.map(probe).map(|p| p as Box<dyn Probe>).into_iter().collect()
    }
}

#[derive(Debug)]
struct TreeProbe {
    name: &'static str,
    fill: Fill,
    pid: u32,
}

impl Probe for TreeProbe {
    fn source(&self) -> &'static str {
        self.name
    }

    fn sample(
        &mut self,
        _buffer: &mut Vec<u8>,
        statistics: &mut ResourceStatistics,
    ) -> Result<(), IsolatorError> {
        let tree = proctree::tree(self.pid);
        if tree.is_empty() {
            let object = format!("process {}: it is gone", self.pid);
            return Err(IsolatorError::plain(self.name, "sample", object));
        }
        (self.fill)(&tree, statistics);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_the_tree() {
        let process = |pid, user_ticks, resident_pages| ProcessStat {
            pid,
            name: "x".into(),
            state: 'S',
            parent: 1,
            session: 1,
            user_ticks,
            system_ticks: 1,
            threads: 1,
            start_ticks: 0,
            resident_pages,
        };
        let tree = [process(2, 50, 3), process(3, 150, 4)];
        let mut s = ResourceStatistics::default();
        fill_cpu(&tree, &mut s);
        fill_mem(&tree, &mut s);
        let ticks = proctree::ticks_per_second();
        assert_eq!(s.cpus_user_time_secs, Some(200.0 / ticks));
        assert_eq!(s.cpus_system_time_secs, Some(2.0 / ticks));
        assert_eq!(s.mem_rss_bytes, Some(7 * proctree::page_size()));
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let mut probe = TreeProbe { name: "posix/cpu", fill: fill_cpu, pid: u32::MAX };
        let mut s = ResourceStatistics::default();
        assert!(probe.sample(&mut Vec::new(), &mut s).is_err());
    }
}
