//! Writing launch programs, and naming their operations in errors.

#[allow(dead_code)]
#[path = "../shim/src/program.rs"]
mod layout;

use std::borrow::Cow;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::error::{LaunchError, Step};
#[cfg(feature = "oci")]
pub(super) use layout::SOCKET_FD;
pub(super) use layout::{HOLD_FD, OUTPUT_FD, TERMINAL_FD};
pub(super) use layout::{Op, READY_FD, SLOTS, code};
pub(super) use layout::{SAYS_FAILED, SAYS_PARKED, SAYS_RUNNING, SAYS_WAITING};

/// What a launch error says about each operation, by index.
#[derive(Debug, Default)]
pub(super) struct Steps(Vec<(Step, Cow<'static, str>)>);

impl Steps {
    /// The error for a failure report: index, code and errno.
    pub(super) fn error(&self, (index, code, errno): (u32, u32, i32)) -> LaunchError {
        let known = self.0.get(index as usize).filter(|_| code != code::LOAD);
        let (step, object) = match known {
            Some((step, object)) => (*step, object.to_string()),
            // A program of another agent: the code is all there is.
            None => (step_of(code), String::new()),
        };
        LaunchError::Step { step, object, source: io::Error::from_raw_os_error(errno) }
    }
}

fn step_of(code: u32) -> Step {
    match code {
        code::SUBREAPER => Step::Reaper,
        code::OPEN | code::TREE | code::PLACE | code::CLOSE => Step::Open,
        code::JOIN => Step::JoinNamespace,
        code::UNSHARE => Step::NewNamespace,
        code::HOSTNAME => Step::Hostname,
        code::MOUNT | code::INHERIT | code::ATTACH | code::RESTRICT => Step::Mount,
        code::MAP_IDS => Step::MapIds,
        code::MKDIR | code::SYMLINK | code::RENAME | code::MKNOD | code::CHOWN => Step::File,
        code::PIVOT | code::CHROOT => Step::Root,
        code::MASK | code::PROTECT => Step::Mask,
        code::TERMINAL | code::CONTROL => Step::Terminal,
        code::SPAWN => Step::Spawn,
        code::FOLLOW => Step::Runtime,
        code::WRITE => Step::Cgroup,
        code::WRITE_AT => Step::Setting,
        code::PUBLISH | code::WAIT => Step::Release,
        code::RLIMIT => Step::Rlimit,
        code::GROUPS | code::GID | code::UID => Step::User,
        code::BOUND | code::CAPABILITIES | code::AMBIENT | code::NO_NEW_PRIVILEGES => {
            Step::Privileges
        }
        code::SECCOMP => Step::Seccomp,
        code::CHDIR => Step::WorkingDirectory,
        code::EXEC => Step::Exec,
        code::IDENTIFY
        | code::FILES_AS
        | code::SESSION
        | code::SLICE
        | code::DIE_WITH_SHIM
        | code::UMASK
        | code::PARK => Step::Process,
        _ => Step::Load,
    }
}

/// A program under construction.
#[derive(Debug)]
pub(super) struct Builder {
    pool: Vec<u8>,
    ops: Vec<Op>,
    steps: Steps,
    slots: u32,
}

impl Builder {
    pub(super) fn new() -> Builder {
        Builder {
            pool: vec![0; layout::HEADER_SIZE],
            ops: Vec::with_capacity(48),
            steps: Steps(Vec::with_capacity(48)),
            slots: 0,
        }
    }

    /// Adds a string and returns its offset.
    pub(super) fn string(&mut self, bytes: &[u8]) -> Result<u32, LaunchError> {
        if bytes.contains(&0) {
            let text = String::from_utf8_lossy(bytes);
            return Err(LaunchError::Plan(format!("NUL in '{}'", text.escape_default())));
        }
        let offset = self.pool.len() as u32;
        self.pool.extend_from_slice(bytes);
        self.pool.push(0);
        Ok(offset)
    }

    /// Adds a path and returns its offset.
    pub(super) fn path(&mut self, path: &Path) -> Result<u32, LaunchError> {
        self.string(path.as_os_str().as_bytes())
    }

    /// Adds the offsets of `strings` as a table with a word of zero before and
    /// behind; returns the offset of the first entry.
    pub(super) fn table<S: AsRef<[u8]>>(&mut self, strings: &[S]) -> Result<u32, LaunchError> {
        let offsets =
            strings.iter().map(|s| self.string(s.as_ref())).collect::<Result<Vec<_>, _>>()?;
        self.words(&[0]);
        let table = self.words(&offsets.iter().map(|o| u64::from(*o)).collect::<Vec<_>>());
        self.words(&[0]);
        Ok(table)
    }

    /// Adds 64-bit words, aligned; returns their offset.
    pub(super) fn words(&mut self, words: &[u64]) -> u32 {
        self.pool.resize(self.pool.len().next_multiple_of(8), 0);
        let offset = self.pool.len() as u32;
        for word in words {
            self.pool.extend_from_slice(&word.to_le_bytes());
        }
        offset
    }

    /// Adds 32-bit words, aligned; returns their offset.
    pub(super) fn ids(&mut self, ids: &[u32]) -> u32 {
        self.pool.resize(self.pool.len().next_multiple_of(8), 0);
        let offset = self.pool.len() as u32;
        for id in ids {
            self.pool.extend_from_slice(&id.to_le_bytes());
        }
        offset
    }

    /// A free descriptor slot.
    pub(super) fn slot(&mut self) -> Result<u32, LaunchError> {
        if self.slots as usize >= SLOTS {
            return Err(LaunchError::Plan(format!("more than {SLOTS} mounts and cgroups")));
        }
        self.slots += 1;
        Ok(self.slots - 1)
    }

    /// Adds an operation; `step` and `object` name it in errors.
    pub(super) fn push(&mut self, step: Step, object: impl Into<Cow<'static, str>>, op: Op) {
        self.ops.push(op);
        self.steps.0.push((step, object.into()));
    }

    /// The finished program.
    pub(super) fn finish(mut self) -> (Vec<u8>, Steps) {
        self.pool.push(0);
        self.pool.resize(self.pool.len().next_multiple_of(8), 0);
        let ops = self.pool.len();
        let length = ops + self.ops.len() * layout::OP_SIZE;
        let header =
            [layout::MAGIC, layout::VERSION, length as u32, self.ops.len() as u32, ops as u32, 0];
        for (bytes, word) in self.pool.chunks_exact_mut(4).zip(header) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        for op in &self.ops {
            for word in [op.code, op.a, op.b, op.c] {
                self.pool.extend_from_slice(&word.to_le_bytes());
            }
            self.pool.extend_from_slice(&op.d.to_le_bytes());
            self.pool.extend_from_slice(&op.e.to_le_bytes());
        }
        (self.pool, self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::layout::Program;
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut builder = Builder::new();
        let a = builder.string(b"/bin/true").expect("string");
        let d = builder.table(&["true", "x"]).expect("table");
        builder.push(Step::Exec, "true", Op { code: code::EXEC, a, d: d.into(), ..Op::default() });
        builder.finish().0
    }

    #[test]
    fn the_reader_sees_what_the_builder_wrote() {
        let bytes = sample();
        let program = Program::parse(&bytes).expect("a program");
        assert_eq!(program.count(), 1);
        let op = program.op(0).expect("an operation");
        assert_eq!(op.code, code::EXEC);
        assert!(program.holds(op.a as usize, 1, 1));
        assert_eq!(&bytes[op.a as usize..][..10], b"/bin/true\0");
        let first = program.entry(op.d as usize).expect("an entry") as usize;
        assert_eq!(&bytes[first..][..5], b"true\0");
        assert_eq!(program.op(1), None);
        assert!(!program.holds(0, 1, 1), "the header is not a string");
    }

    #[test]
    fn nul_in_a_string_is_refused() {
        assert!(Builder::new().string(b"a\0b").is_err());
    }

    proptest! {
        #[test]
        fn damaged_programs_never_lead_outside(at in 0usize..200, value: u8, cut in 0usize..200) {
            let mut bytes = sample();
            let length = bytes.len();
            bytes[at % length] = value;
            bytes.truncate(length - cut % length);
            if let Some(program) = Program::parse(&bytes) {
                for index in 0..program.count() {
                    let op = program.op(index).expect("counted");
                    if program.holds(op.a as usize, 1, 1) {
                        let rest = &bytes[op.a as usize..];
                        prop_assert!(rest.contains(&0));
                    }
                }
            }
        }
    }
}
