//! `docker/runtime`: command, environment and working directory of an image.
//!
//! The table of Mesos, `sh` being `CommandInfo.shell`, `argv` its `arguments`:
//!
//! | sh | value | argv | neither | Cmd only | Entrypoint only | both |
//! |---|---|---|---|---|---|---|
//! | yes | yes | any | `/bin/sh -c value` | the same | the same | the same |
//! | no | yes | no | `value` | the same | the same | the same |
//! | no | yes | yes | `value argv` | the same | the same | the same |
//! | no | no | no | error | `Cmd` | `Entrypoint` | `Entrypoint Cmd` |
//! | no | no | yes | error | `Cmd[0] argv` | `Entrypoint argv` | `Entrypoint argv` |
//!
//! Where there is a value, `argv` has the program's own name first. The image's user and
//! its stop signal are for the containerizer to respect: no isolator sets users. Volumes of
//! the image are in its writable layer (docs/decisions/0059).

use std::sync::Arc;

use mesos::CommandInfo;

use crate::api::{Command, ContainerContext, Contribution, Isolator, IsolatorError};
use crate::config::{Config, Launcher};
use crate::image::Runtime;
use crate::plan::FileOperation;
use crate::simple::Preparing;

const NAME: &str = "docker/runtime";

/// The isolator. Does nothing for containers without an image, and nothing at all with
/// `--docker_ignore_runtime`.
///
/// # Errors
/// The combination of flags cannot work.
pub fn docker(config: &Arc<Config>) -> Result<Arc<dyn Isolator>, IsolatorError> {
    if config.launcher != Launcher::Linux {
        let object = "with --launcher=posix: images need --launcher=linux";
        return Err(IsolatorError::plain(NAME, "start", object));
    }
    Ok(Preparing::everywhere(NAME, config.docker_ignore_runtime, prepare))
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as every isolator's
fn prepare(ignored: &bool, context: &ContainerContext) -> Result<Contribution, IsolatorError> {
    let Some(image) = context.image.as_ref().filter(|_| !ignored) else {
        return Ok(Contribution::default());
    };
    let command = merge(&context.command, image)
        .map_err(|text| IsolatorError::plain(NAME, "find out", format!("the command: {text}")))?;
    // As docker does: an image may name what it has not. A root that nobody writes to has
    // no writable volumes either.
    let writable = !context.ephemeral_volumes.is_empty();
    let volumes = image.volumes.iter().filter(|_| writable);
    let made = volumes.chain(&image.working_directory).map(|path| FileOperation::Mkdir {
        path: path.clone(),
        mode: 0o755,
        recursive: true,
    });
    Ok(Contribution {
        command: Some(command),
        environment: image.environment.clone(),
        working_directory: image.working_directory.clone(),
        file_operations: made.collect(),
        ..Contribution::default()
    })
}

/// What is executed. Pure.
///
/// # Errors
/// Neither the task nor the image says what; for people.
pub fn merge(command: &CommandInfo, image: &Runtime) -> Result<Command, String> {
    if command.shell.unwrap_or(true) {
        let value = command.value.as_ref().ok_or("a shell command needs a 'value'")?;
        let arguments = vec!["sh".into(), "-c".into(), value.clone()];
        return Ok(Command { executable: Some("/bin/sh".into()), arguments });
    }
    let given = &command.arguments;
    if let Some(value) = &command.value {
        let arguments = if given.is_empty() { vec![value.clone()] } else { given.clone() };
        return Ok(Command { executable: Some(value.clone()), arguments });
    }
    let (first, rest) = match (&image.entrypoint[..], &image.cmd[..]) {
        ([], []) => {
            return Err("the task has no 'value' and the image neither Entrypoint nor Cmd".into());
        }
        ([], [program, rest @ ..]) => (std::slice::from_ref(program), rest),
        (entrypoint, cmd) => (entrypoint, cmd),
    };
    let rest = if given.is_empty() { rest } else { given };
    Ok(Command { executable: None, arguments: [first, rest].concat() })
}

#[cfg(test)]
mod tests {
    use kernel::cgroup::Hierarchies;

    use super::*;
    use crate::suite::context;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// `shell`, `value`, `argv`, Entrypoint, Cmd; what is executed, its arguments.
    type Row = (bool, &'static str, &'static str, &'static str, &'static str, Expected);
    type Expected = Option<(&'static str, &'static str)>;

    #[test]
    fn mesos_table() {
        let rows: [Row; 17] = [
            (true, "echo hi", "", "", "", Some(("/bin/sh", "sh|-c|echo hi"))),
            (true, "echo hi", "x", "/e", "c", Some(("/bin/sh", "sh|-c|echo hi"))),
            (true, "", "", "/e", "c", None),
            (false, "/v", "", "", "", Some(("/v", "/v"))),
            (false, "/v", "", "/e a", "c", Some(("/v", "/v"))),
            (false, "/v", "v x", "", "", Some(("/v", "v|x"))),
            (false, "/v", "v x", "/e a", "c", Some(("/v", "v|x"))),
            (false, "", "", "", "", None),
            (false, "", "x", "", "", None),
            (false, "", "", "", "/c d", Some(("", "/c|d"))),
            (false, "", "x y", "", "/c d", Some(("", "/c|x|y"))),
            (false, "", "", "/e a", "", Some(("", "/e|a"))),
            (false, "", "x y", "/e a", "", Some(("", "/e|a|x|y"))),
            (false, "", "", "/e a", "c d", Some(("", "/e|a|c|d"))),
            (false, "", "x y", "/e a", "c d", Some(("", "/e|a|x|y"))),
            (false, "", "x", "/e", "", Some(("", "/e|x"))),
            (false, "", "", "/e", "c", Some(("", "/e|c"))),
        ];
        for row in rows {
            let (shell, value, argv, entrypoint, cmd, wanted) = row;
            let command = CommandInfo {
                shell: Some(shell),
                value: Some(value.to_owned()).filter(|value| !value.is_empty()),
                arguments: words(argv),
                ..CommandInfo::default()
            };
            let image =
                Runtime { entrypoint: words(entrypoint), cmd: words(cmd), ..Runtime::default() };
            let merged = merge(&command, &image).ok();
            let merged = merged.map(|c| (c.executable.unwrap_or_default(), c.arguments.join("|")));
            let wanted = wanted.map(|(program, all)| (program.to_owned(), all.to_owned()));
            assert_eq!(merged, wanted, "{row:?}");
        }
    }

    #[test]
    fn environment_and_working_directory_are_the_images() {
        let image = Runtime {
            environment: [("A".to_owned(), "image".to_owned())].into(),
            cmd: words("/c"),
            working_directory: Some("/srv".into()),
            volumes: vec!["/data".into()],
            ..Runtime::default()
        };
        let mut asked = context("a");
        asked.command.shell = Some(false);
        assert_eq!(prepare(&false, &asked).unwrap(), Contribution::default());
        asked.image = Some(Arc::new(image));
        let part = prepare(&false, &asked).unwrap();
        assert_eq!(part.environment["A"], "image");
        assert_eq!(part.working_directory.as_deref(), Some("/srv".as_ref()));
        assert_eq!(part.command.as_ref().map(|c| &c.arguments), Some(&words("/c")));
        let made = |part: &Contribution| -> Vec<String> {
            let path = |operation: &FileOperation| match operation {
                FileOperation::Mkdir { path, .. } => path.display().to_string(),
                other => panic!("{other:?}"),
            };
            part.file_operations.iter().map(path).collect()
        };
        assert_eq!(made(&part), ["/srv"]);
        asked.ephemeral_volumes = vec!["/upper".into()];
        assert_eq!(made(&prepare(&false, &asked).unwrap()), ["/data", "/srv"]);
        assert_eq!(prepare(&true, &asked).unwrap(), Contribution::default());
        asked.image = Some(Arc::new(Runtime::default()));
        let error = prepare(&false, &asked).unwrap_err().to_string();
        assert!(error.ends_with("neither Entrypoint nor Cmd"), "{error}");
    }

    #[test]
    fn without_the_linux_launcher_it_does_not_start() {
        let config = Arc::new(Config::new(Launcher::Posix, Hierarchies::default()));
        assert!(docker(&config).err().unwrap().to_string().contains("--launcher=linux"));
    }
}
