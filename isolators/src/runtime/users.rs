//! Users of an image, by the rules of the docker engine. Pure.
//!
//! `USER user[:group]`, each a name of the image's `/etc/passwd` and `/etc/group` or a
//! number. A user that is a number need not be known; a name must be. Without a group
//! it is the user's own, or 0 of one that is not known, and the user is in all groups
//! that name it.

/// Who runs in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory; `/` of users that are not known.
    pub home: String,
}

/// Largest id that an image may name.
const LARGEST: u32 = i32::MAX as u32;

/// Finds out who `spec` is. `passwd` and `group` are the contents of the image's files,
/// empty where there are none.
///
/// # Errors
/// A name is not known, or a number no id; for people.
pub fn resolve(spec: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = number(user)?;
    let known = entries(passwd, 7).find(|fields| fields[0] == user).or_else(|| {
        let number = number?;
        entries(passwd, 7).find(|fields| fields[2].parse() == Ok(number))
    });
    let uid = match (&known, number) {
        (Some(fields), _) => id(fields[2], "/etc/passwd")?,
        (None, Some(number)) => number,
        (None, None) => return Err(format!("user '{user}' is not in the image's /etc/passwd")),
    };
    let own_gid = match &known {
        Some(fields) => id(fields[3], "/etc/passwd")?,
        None => 0,
    };
    let home = known.as_ref().map(|fields| fields[5]).filter(|home| !home.is_empty());
    let home = home.unwrap_or("/").to_owned();
    let (gid, groups) = match (wanted_group, &known) {
        (Some(wanted), _) => (group_id(wanted, group)?, Vec::new()),
        (None, Some(fields)) => (own_gid, groups_of(fields[0], group)),
        (None, None) => (own_gid, Vec::new()),
    };
    Ok(Identity { uid, gid, groups, home })
}

/// Lines of fields that colons separate; those with fewer than `least` are none.
fn entries(file: &str, least: usize) -> impl Iterator<Item = Vec<&str>> {
    let lines = file.lines().map(|line| line.split(':').map(str::trim).collect::<Vec<_>>());
    lines.filter(move |fields| fields.len() >= least && !fields[0].is_empty())
}

fn number(text: &str) -> Result<Option<u32>, String> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    let parsed = text.parse::<u32>().ok().filter(|id| *id <= LARGEST);
    parsed.map(Some).ok_or_else(|| format!("'{text}' is no id: the largest is {LARGEST}"))
}

fn id(text: &str, file: &str) -> Result<u32, String> {
    let parsed = text.parse::<u32>().ok().filter(|id| *id <= LARGEST);
    parsed.ok_or_else(|| format!("'{text}' in the image's {file} is no id"))
}

fn group_id(wanted: &str, group: &str) -> Result<u32, String> {
    if let Some(fields) = entries(group, 3).find(|fields| fields[0] == wanted) {
        return id(fields[2], "/etc/group");
    }
    let missing = || format!("group '{wanted}' is not in the image's /etc/group");
    number(wanted)?.ok_or_else(missing)
}

fn groups_of(user: &str, group: &str) -> Vec<u32> {
    let has = |fields: &Vec<&str>| fields[3].split(',').any(|member| member.trim() == user);
    entries(group, 4).filter(has).filter_map(|fields| id(fields[2], "").ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        web:x:101:102::/var/www:/bin/false\n\
        1000:x:7:8::/odd:\n\
        nobody:x:65534:65534:nobody:/nonexistent:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:30:web,other\nadm:x:31:web\nbroken:x\n";

    #[test]
    fn the_engines_rules() {
        let identity = |uid, gid, groups: &[u32], home: &str| {
            Ok(Identity { uid, gid, groups: groups.to_vec(), home: home.into() })
        };
        let rows = [
            ("", identity(0, 0, &[], "/root")),
            ("root", identity(0, 0, &[], "/root")),
            ("web", identity(101, 102, &[30, 31], "/var/www")),
            ("101", identity(101, 102, &[30, 31], "/var/www")),
            ("web:logs", identity(101, 30, &[], "/var/www")),
            ("web:5", identity(101, 5, &[], "/var/www")),
            ("4242", identity(4242, 0, &[], "/")),
            ("4242:17", identity(4242, 17, &[], "/")),
            ("web:", identity(101, 102, &[30, 31], "/var/www")),
            // A name that looks like a number is a name first.
            ("1000", identity(7, 8, &[], "/odd")),
            (":logs", identity(0, 30, &[], "/root")),
        ];
        for (spec, wanted) in rows {
            assert_eq!(resolve(spec, PASSWD, GROUP), wanted, "{spec}");
        }
    }

    #[test]
    fn unknown_names_and_impossible_numbers() {
        for (spec, words) in [
            ("nginx", "user 'nginx' is not in the image's /etc/passwd"),
            ("web:nginx", "group 'nginx' is not in the image's /etc/group"),
            ("4294967295", "'4294967295' is no id"),
            ("0:99999999999", "'99999999999' is no id"),
        ] {
            let error = resolve(spec, PASSWD, GROUP).unwrap_err();
            assert!(error.contains(words), "{spec}: {error}");
        }
        assert_eq!(resolve("5", "", "").map(|who| (who.uid, who.gid)), Ok((5, 0)));
        assert!(resolve("web", "", "").is_err());
        assert!(resolve("a", "a:x:b:0::/:", "").unwrap_err().contains("'b'"));
    }
}
