//! Role names: their syntax and their tree.
//!
//! Called by the resource checks, by both daemons' validation and by the
//! allocator. Owns no state.

use thiserror::Error;

/// Why a role name is not one, in Mesos' words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum InvalidRole {
    #[error("Role '{0}' cannot start with a slash")]
    LeadingSlash(String),
    #[error("Role '{0}' cannot end with a slash")]
    TrailingSlash(String),
    #[error("Role '{0}' cannot contain two adjacent slashes")]
    DoubleSlash(String),
    #[error("Role names cannot be the empty string")]
    Empty,
    #[error("Role '{role}' cannot include '{component}' as a component")]
    Reserved { role: String, component: &'static str },
    #[error("Role component '{0}' is invalid because it starts with a dash")]
    Dash(String),
    #[error("Role component '{0}' is invalid because it contains backspace or whitespace")]
    Whitespace(String),
}

/// Checks the syntax of a role: `*`, or components joined by `/`.
///
/// # Errors
/// [`InvalidRole`] with what is wrong.
pub fn validate(role: &str) -> Result<(), InvalidRole> {
    if role == "*" {
        return Ok(());
    }
    if role.is_empty() {
        return Err(InvalidRole::Empty);
    }
    if role.starts_with('/') {
        return Err(InvalidRole::LeadingSlash(role.into()));
    }
    if role.ends_with('/') {
        return Err(InvalidRole::TrailingSlash(role.into()));
    }
    if role.contains("//") {
        return Err(InvalidRole::DoubleSlash(role.into()));
    }
    for component in role.split('/') {
        if let Some(reserved) = [".", "..", "*"].into_iter().find(|r| *r == component) {
            return Err(InvalidRole::Reserved { role: role.into(), component: reserved });
        }
        if component.starts_with('-') {
            return Err(InvalidRole::Dash(component.into()));
        }
        if component.bytes().any(|b| matches!(b, 0x09..=0x0d | 0x20 | 0x7f)) {
            return Err(InvalidRole::Whitespace(component.into()));
        }
    }
    Ok(())
}

/// Whether `role` lies strictly below `ancestor` in the role tree.
///
/// ```
/// assert!(mesos::roles::is_strict_subrole("eng/web", "eng"));
/// assert!(!mesos::roles::is_strict_subrole("engine", "eng"));
/// ```
#[must_use]
pub fn is_strict_subrole(role: &str, ancestor: &str) -> bool {
    role.strip_prefix(ancestor).is_some_and(|rest| rest.starts_with('/'))
}

/// The strict ancestors of a role, nearest first: `a/b/c` gives `a/b`, `a`.
pub fn ancestors(role: &str) -> impl Iterator<Item = &str> {
    role.rmatch_indices('/').map(move |(at, _)| &role[..at])
}

/// The first component: quota is set on these only.
#[must_use]
pub fn top_level(role: &str) -> &str {
    role.split('/').next().unwrap_or(role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax() {
        for good in ["*", "a", "a/b", "a-b", "ä/ß", "a/.b"] {
            assert_eq!(validate(good), Ok(()), "{good}");
        }
        for bad in ["", "/a", "a/", "a//b", ".", "a/..", "a/*", "-a", "a/-b", "a b", "a\tb"] {
            assert!(validate(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            validate("a/*").unwrap_err().to_string(),
            "Role 'a/*' cannot include '*' as a component"
        );
    }

    #[test]
    fn tree() {
        assert_eq!(ancestors("a/b/c").collect::<Vec<_>>(), ["a/b", "a"]);
        assert_eq!(ancestors("a").count(), 0);
        assert_eq!(top_level("a/b"), "a");
        assert!(!is_strict_subrole("a", "a"));
    }
}
