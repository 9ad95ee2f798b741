//! logrotate's options, as they stand in Mesos' parameters: which we carry out, which
//! need the program, and which a task may not give. Pure.

/// How a stream's files are rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// By us: this many old files are kept.
    Own(u32),
    /// By logrotate, with these options; they keep this many old files.
    Program(String, u32),
}

/// Who wrote the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// The operator may use all of logrotate.
    Operator,
    /// A task's options are carried out outside of its container: no commands.
    Task,
}

/// What needs no program: it has no say when size decides, or is what we do anyway.
const OURS: [&str; 26] = [
    "copytruncate",
    "create",
    "daily",
    "hourly",
    "ifempty",
    "maxsize",
    "minsize",
    "missingok",
    "monthly",
    "nocompress",
    "nocopy",
    "nocopytruncate",
    "nocreate",
    "nodateext",
    "nodelaycompress",
    "nomail",
    "nomissingok",
    "noolddir",
    "nosharedscripts",
    "noshred",
    "notifempty",
    "rotate",
    "sharedscripts",
    "size",
    "weekly",
    "yearly",
];

/// What only the program does, and a task may ask for.
const HARMLESS: [&str; 13] = [
    "addextension",
    "compress",
    "compressext",
    "dateext",
    "dateformat",
    "dateyesterday",
    "delaycompress",
    "extension",
    "maxage",
    "minage",
    "renamecopy",
    "shred",
    "start",
];

/// The longest chain of old files that we keep ourselves.
const MOST: u32 = 1000;

/// Reads options as they stand in a logrotate configuration, one a line.
///
/// # Errors
/// What is wrong with which one, for people.
pub fn parse(text: &str, author: Author) -> Result<Rotation, String> {
    // logrotate's own default: old files are not kept.
    let mut keep = 0;
    let mut own = true;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.contains(['{', '}']) {
            return Err(format!("'{line}': options stand inside one block, without braces"));
        }
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        let name = words.next().unwrap_or_default();
        let value = words.next();
        match name {
            "rotate" => {
                let count = value.and_then(|value| value.parse::<i32>().ok());
                let count = count.filter(|count| *count >= -1 && words.next().is_none());
                let count = count.ok_or_else(|| {
                    format!("'{line}': expected 'rotate COUNT', a whole number from -1")
                })?;
                // -1 keeps all.
                keep = u32::try_from(count).unwrap_or(u32::MAX);
            }
            // With a mode or an owner.
            "create" if value.is_some() => own = false,
            name if OURS.contains(&name) => {}
            name if HARMLESS.contains(&name) || author == Author::Operator => own = false,
            name => {
                return Err(format!(
                    "'{name}' is not an option that a task may give: logrotate would carry it \
                     out outside of the container"
                ));
            }
        }
    }
    match own && keep <= MOST {
        true => Ok(Rotation::Own(keep)),
        false => Ok(Rotation::Program(text.to_owned(), keep)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_do_what_the_program_does_and_what_a_task_may_not() {
        let both = |text: &str| (parse(text, Author::Operator), parse(text, Author::Task));
        let own = |keep| (Ok(Rotation::Own(keep)), Ok(Rotation::Own(keep)));
        assert_eq!(both(""), own(0));
        assert_eq!(both("rotate 9"), own(9));
        assert_eq!(both("  rotate\t3\n# rotate 5\nsize 5M\nmissingok\n\nnocompress"), own(3));
        assert_eq!(both("rotate=4\nrotate 2"), own(2));
        for program in ["rotate 9\ncompress", "dateext", "create 0600", "rotate -1"] {
            let (operator, task) = both(program);
            assert_eq!(operator, task);
            assert!(matches!(operator, Ok(Rotation::Program(text, _)) if text == program));
        }
        let (operator, task) = both("rotate 1\npostrotate\n/bin/evil\nendscript");
        assert!(matches!(operator, Ok(Rotation::Program(_, 1))));
        assert!(task.unwrap_err().contains("'postrotate'"));
        for bad in ["rotate", "rotate x", "rotate -2", "rotate 1 2", "}\n/etc/passwd {"] {
            let (operator, task) = both(bad);
            assert!(operator.is_err() && task.is_err(), "{bad}");
        }
    }
}
