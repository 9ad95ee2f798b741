//! Versions of the CNI specification: which there are, and which one is spoken. Pure.

use std::fmt;
use std::str::FromStr;

/// A version, such as 1.0.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u16, u16, u16);

/// Those that we speak, the oldest first.
pub const SPOKEN: [Version; 7] = [
    Version(0, 1, 0),
    Version(0, 2, 0),
    Version(0, 3, 0),
    Version(0, 3, 1),
    Version(0, 4, 0),
    Version(1, 0, 0),
    Version(1, 1, 0),
];

/// What a configuration without a version is in; Mesos' own.
pub const UNSAID: Version = Version(0, 2, 0);

impl Version {
    /// Whether a plugin is told what it said before when it is to check or undo.
    #[must_use]
    pub fn remembers(self) -> bool {
        self >= Version(0, 4, 0)
    }

    /// Whether there is the command GC, and STATUS.
    #[must_use]
    pub fn collects(self) -> bool {
        self >= Version(1, 1, 0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        let numbers: Result<Vec<u16>, _> = text.split('.').map(str::parse).collect();
        match numbers.as_deref() {
            Ok([major, minor, patch]) => Ok(Version(*major, *minor, *patch)),
            _ => Err(format!("'{text}' is not a version such as 1.0.0")),
        }
    }
}

/// The newest version that the configuration, every plugin and we speak.
///
/// # Errors
/// There is none; says who speaks what.
pub fn choose(said: &[Version], plugins: &[(&str, Vec<Version>)]) -> Result<Version, String> {
    let spoken = |version: &&Version| {
        SPOKEN.contains(version) && plugins.iter().all(|(_, all)| all.contains(version))
    };
    if let Some(version) = said.iter().filter(spoken).max() {
        return Ok(*version);
    }
    let mut text = format!("the configuration is in cniVersion {}", list(said));
    for (kind, all) in plugins {
        text.push_str(&format!(", the plugin '{kind}' speaks {}", list(all)));
    }
    Err(format!("{text}, this agent {}", list(&SPOKEN)))
}

fn list(all: &[Version]) -> String {
    match all {
        [] => "none".into(),
        all => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The versions that we speak, as texts.
#[must_use]
pub fn versions() -> Vec<String> {
    SPOKEN.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(texts: &[&str]) -> Vec<Version> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn versions_are_read_and_ordered() {
        assert_eq!("0.3.1".parse(), Ok(SPOKEN[3]));
        for bad in ["", "1", "1.0", "v1.0.0", "1.0.0.0", "1.0.x", "1.0.-1"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
        assert!(SPOKEN.is_sorted());
        assert_eq!(SPOKEN.map(|version| version.remembers()).iter().filter(|is| **is).count(), 3);
        assert!(SPOKEN[6].collects() && !SPOKEN[5].collects());
    }

    #[test]
    fn the_newest_that_all_speak() {
        let old = ("old", all(&["0.2.0", "0.3.1", "0.4.0"]));
        let new = ("new", all(&["0.4.0", "1.0.0", "1.1.0", "9.0.0"]));
        let rows = [
            (all(&["0.3.1", "1.0.0", "0.4.0"]), vec![old.clone(), new.clone()], "0.4.0"),
            (all(&["0.3.1", "1.1.0"]), vec![new.clone()], "1.1.0"),
            (all(&["0.2.0"]), vec![old.clone()], "0.2.0"),
            // Not ours, though theirs.
            (all(&["0.4.0", "9.0.0"]), vec![new.clone()], "0.4.0"),
        ];
        for (said, plugins, wanted) in rows {
            assert_eq!(choose(&said, &plugins).unwrap().to_string(), wanted);
        }
        let error = choose(&all(&["1.1.0"]), &[old]).unwrap_err();
        let wanted = "the configuration is in cniVersion 1.1.0, the plugin 'old' speaks 0.2.0, \
                      0.3.1, 0.4.0, this agent 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0";
        assert_eq!(error, wanted);
    }
}
