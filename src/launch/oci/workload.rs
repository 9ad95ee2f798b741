//! The last step of a container: executing the command, as the `linux` engine's
//! shim does it, so that search path, scripts, environment and signals are alike.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use oci_spec::runtime::{Process, Spec};

use super::message::Filter;
use crate::launch::compile;

/// Executes the plan's command.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    /// What to execute when it is not the first of the arguments.
    pub executable: Option<String>,
    /// Installed last: libcontainer without libseccomp ignores what OCI says.
    pub system_calls: Option<Filter>,
    /// Be killed when the shim dies: nobody else would do it.
    pub die_with_shim: bool,
}

impl Workload {
    fn candidates(&self, process: &Process) -> Option<Vec<String>> {
        let args = process.args().as_deref().unwrap_or_default();
        let name = self.executable.as_deref().or(args.first().map(String::as_str))?;
        let environment = process.env().as_deref().unwrap_or_default();
        (!name.is_empty()).then(|| compile::candidates(name, environment))
    }
}

fn install(filter: &Filter) -> std::io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.program.len()).map_err(std::io::Error::other)?,
        filter: filter.program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: instructions of 8 bytes that outlive the call; the kernel only reads.
    match unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            filter.flags,
            &raw const program,
        )
    } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn strings(list: &[String]) -> Result<Vec<CString>, ExecutorError> {
    let text = |s: &String| CString::new(s.as_bytes()).map_err(|_| ExecutorError::InvalidArg);
    list.iter().map(text).collect()
}

/// Pointers to `list`, with a null behind; valid as long as the list.
fn pointers(list: &[CString]) -> Vec<*const libc::c_char> {
    list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

impl Executor for Workload {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let failed = |text: String| Err(ExecutorValidationError::ArgValidationError(text));
        let Some(candidates) = spec.process().as_ref().and_then(|p| self.candidates(p)) else {
            return failed("no command".to_owned());
        };
        let executable = |path: &String| {
            let Ok(text) = CString::new(Path::new(path).as_os_str().as_bytes()) else {
                return false;
            };
            // SAFETY: a C string that outlives the call.
            let may = unsafe { libc::access(text.as_ptr(), libc::X_OK) } == 0;
            may && Path::new(path).is_file()
        };
        match candidates.iter().any(executable) {
            true => Ok(()),
            false => failed(format!("no executable file: {}", candidates.join(", "))),
        }
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The environment is given to execve; the helper's own is empty.
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let candidates = self.candidates(process).ok_or(ExecutorError::InvalidArg)?;
        let mut args = process.args().clone().unwrap_or_default();
        if args.is_empty() {
            args.extend(self.executable.clone());
        }
        let (paths, args) = (strings(&candidates)?, strings(&args)?);
        let environment = strings(process.env().as_deref().unwrap_or_default())?;
        let (argv, envp) = (pointers(&args), pointers(&environment));
        // SAFETY: integers and dispositions only; this process has one thread.
        unsafe {
            // The Rust runtime ignores it; the command must not inherit that.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            if self.die_with_shim {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            }
        }
        if let Some(filter) = &self.system_calls {
            install(filter).map_err(|error| {
                ExecutorError::Other(format!("install the system call filter: {error}"))
            })?;
        }
        let mut worst = libc::ENOENT;
        for path in &paths {
            // SAFETY: C strings and null-terminated lists that outlive the call.
            unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
            match std::io::Error::last_os_error().raw_os_error().unwrap_or(0) {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => worst = libc::EACCES,
                libc::ENOEXEC => {
                    // As execvp: a file that the kernel does not know is a script.
                    let shell = c"/bin/sh";
                    let mut script = vec![shell.as_ptr(), path.as_ptr()];
                    script.extend(argv.iter().skip(1));
                    // SAFETY: as above.
                    unsafe { libc::execve(shell.as_ptr(), script.as_ptr(), envp.as_ptr()) };
                    worst = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
                    break;
                }
                other => {
                    worst = other;
                    break;
                }
            }
        }
        let error = std::io::Error::from_raw_os_error(worst);
        Err(ExecutorError::Other(format!("execute '{}': {error}", candidates.join(", "))))
    }
}
