//! Offer constraints: which agents a framework wants offers from, by attribute.
//!
//! Called by the master's validation (is it well formed?) and by the allocator
//! (does this agent pass?). Regular expressions are bounded in size; a pattern
//! must match the whole text.

use std::collections::BTreeMap;

use mesos::SlaveInfo;
use mesos::scheduler::attribute_constraint::predicate::Predicate as Kind;
use mesos::scheduler::attribute_constraint::selector::{PseudoattributeType, Selector};
use mesos::scheduler::{AttributeConstraint, OfferConstraints};
use regex::{Regex, RegexBuilder};
use thiserror::Error;

/// Most memory, in bytes, that one compiled pattern may take. Mesos allows RE2
/// programs of 100 instructions; this admits about the same patterns.
const REGEX_BYTES: usize = 64 * 1024;

/// What is wrong with offer constraints, in Mesos' words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum ConstraintError {
    #[error(
        "'OfferConstraints::role_constraints' has an empty 'RoleConstraints::groups' for role {0}"
    )]
    NoGroups(String),
    #[error(
        "'OfferConstraints::RoleConstraints::groups' for role {0} contains an empty \
         RoleConstraints::Group"
    )]
    EmptyGroup(String),
    #[error("A role {role} has an invalid 'AttributeConstraint': {error}")]
    Constraint { role: String, error: InvalidConstraint },
}

/// What is wrong with one constraint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum InvalidConstraint {
    #[error(
        "Exactly one of 'AttributeConstraint::Selector::name' or \
         'AttributeConstraint::Selector::pseudoattribute_type' must be set"
    )]
    NoSelector,
    #[error("Unknown pseudoattribute type")]
    Pseudoattribute,
    #[error("Unknown predicate type")]
    Predicate,
    #[error("Failed to construct regex from pattern '{pattern}': {reason}")]
    Regex { pattern: String, reason: String },
    #[error("Regex '{0}' is too complex")]
    TooComplex(String),
}

#[derive(Debug)]
enum Source {
    Hostname,
    Region,
    Zone,
    Attribute(String),
}

#[derive(Debug)]
enum Test {
    Exists(bool),
    Equals(String, bool),
    Matches(Regex, bool),
}

/// What a selector finds on an agent.
enum Found<'a> {
    Nothing,
    Text(&'a str),
    /// An attribute that is no text: all text tests pass.
    Other,
}

/// Well-formed constraints, ready for use.
#[derive(Debug, Default)]
pub struct Constraints {
    /// Per role: any group, each group whole.
    roles: BTreeMap<String, Vec<Vec<(Source, Test)>>>,
}

impl Constraints {
    /// Checks and prepares `constraints`.
    ///
    /// # Errors
    /// [`ConstraintError`] naming the role.
    pub fn new(constraints: &OfferConstraints) -> Result<Self, ConstraintError> {
        let mut roles = BTreeMap::new();
        for (role, of_role) in &constraints.role_constraints {
            if of_role.groups.is_empty() {
                return Err(ConstraintError::NoGroups(role.clone()));
            }
            let mut groups = Vec::with_capacity(of_role.groups.len());
            for group in &of_role.groups {
                if group.attribute_constraints.is_empty() {
                    return Err(ConstraintError::EmptyGroup(role.clone()));
                }
                let all: Result<Vec<_>, InvalidConstraint> =
                    group.attribute_constraints.iter().map(compile).collect();
                groups.push(
                    all.map_err(|error| ConstraintError::Constraint { role: role.clone(), error })?,
                );
            }
            roles.insert(role.clone(), groups);
        }
        Ok(Constraints { roles })
    }

    /// Whether offers from this agent in this role are unwanted.
    #[must_use]
    pub fn exclude(&self, role: &str, agent: &SlaveInfo) -> bool {
        self.roles.get(role).is_some_and(|groups| {
            !groups
                .iter()
                .any(|group| group.iter().all(|(source, test)| passes(source, test, agent)))
        })
    }
}

fn compile(constraint: &AttributeConstraint) -> Result<(Source, Test), InvalidConstraint> {
    let source = match &constraint.selector.selector {
        None => return Err(InvalidConstraint::NoSelector),
        Some(Selector::AttributeName(name)) => Source::Attribute(name.clone()),
        Some(Selector::PseudoattributeType(kind)) => match PseudoattributeType::try_from(*kind) {
            Ok(PseudoattributeType::Hostname) => Source::Hostname,
            Ok(PseudoattributeType::Region) => Source::Region,
            Ok(PseudoattributeType::Zone) => Source::Zone,
            Ok(PseudoattributeType::Unknown) | Err(_) => {
                return Err(InvalidConstraint::Pseudoattribute);
            }
        },
    };
    let test = match &constraint.predicate.predicate {
        None => return Err(InvalidConstraint::Predicate),
        Some(Kind::Exists(_)) => Test::Exists(true),
        Some(Kind::NotExists(_)) => Test::Exists(false),
        Some(Kind::TextEquals(p)) => Test::Equals(p.value.clone(), true),
        Some(Kind::TextNotEquals(p)) => Test::Equals(p.value.clone(), false),
        Some(Kind::TextMatches(p)) => Test::Matches(pattern(&p.regex)?, true),
        Some(Kind::TextNotMatches(p)) => Test::Matches(pattern(&p.regex)?, false),
    };
    Ok((source, test))
}

fn pattern(text: &str) -> Result<Regex, InvalidConstraint> {
    let whole = format!(r"\A(?:{text})\z");
    RegexBuilder::new(&whole).size_limit(REGEX_BYTES).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => InvalidConstraint::TooComplex(text.into()),
        // The engine shows the pattern over several lines: keep the reason.
        other => InvalidConstraint::Regex {
            pattern: text.into(),
            reason: other.to_string().lines().last().unwrap_or_default().trim().to_owned(),
        },
    })
}

fn find<'a>(source: &Source, agent: &'a SlaveInfo) -> Found<'a> {
    let fault = agent.domain.as_ref().and_then(|d| d.fault_domain.as_ref());
    match source {
        Source::Hostname => Found::Text(&agent.hostname),
        Source::Region => fault.map_or(Found::Nothing, |f| Found::Text(&f.region.name)),
        Source::Zone => fault.map_or(Found::Nothing, |f| Found::Text(&f.zone.name)),
        Source::Attribute(name) => match agent.attributes.iter().find(|a| a.name == *name) {
            None => Found::Nothing,
            Some(a) if a.r#type() != mesos::value::Type::Text => Found::Other,
            Some(a) => Found::Text(a.text.as_ref().map_or("", |t| &t.value)),
        },
    }
}

fn passes(source: &Source, test: &Test, agent: &SlaveInfo) -> bool {
    match (test, find(source, agent)) {
        (Test::Exists(wanted), found) => *wanted != matches!(found, Found::Nothing),
        (Test::Equals(_, wanted) | Test::Matches(_, wanted), Found::Nothing) => !wanted,
        (Test::Equals(..) | Test::Matches(..), Found::Other) => true,
        (Test::Equals(value, wanted), Found::Text(text)) => (text == value) == *wanted,
        (Test::Matches(regex, wanted), Found::Text(text)) => regex.is_match(text) == *wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> SlaveInfo {
        SlaveInfo {
            hostname: "h1".into(),
            attributes: mesos::attributes::parse("rack:r1;gen:3;rack:r2").unwrap(),
            ..SlaveInfo::default()
        }
    }

    fn constraints(json: &str) -> Result<Constraints, ConstraintError> {
        let text = format!(
            r#"{{"role_constraints":{{"web":{{"groups":[{{"attribute_constraints":[{json}]}}]}}}}}}"#
        );
        Constraints::new(&mesos::json::from_json(text.as_bytes()).unwrap())
    }

    #[test]
    fn predicates() {
        let rows = [
            (r#""attribute_name":"rack""#, r#""exists":{}"#, true),
            (r#""attribute_name":"rack""#, r#""not_exists":{}"#, false),
            (r#""attribute_name":"none""#, r#""exists":{}"#, false),
            (r#""attribute_name":"none""#, r#""not_exists":{}"#, true),
            // Only the first of equal names counts.
            (r#""attribute_name":"rack""#, r#""text_equals":{"value":"r1"}"#, true),
            (r#""attribute_name":"rack""#, r#""text_equals":{"value":"r2"}"#, false),
            (r#""attribute_name":"rack""#, r#""text_not_equals":{"value":"r2"}"#, true),
            (r#""attribute_name":"none""#, r#""text_equals":{"value":""}"#, false),
            (r#""attribute_name":"none""#, r#""text_not_matches":{"regex":"x"}"#, true),
            // What is no text passes all text tests.
            (r#""attribute_name":"gen""#, r#""text_equals":{"value":"x"}"#, true),
            (r#""attribute_name":"gen""#, r#""text_not_matches":{"regex":".*"}"#, true),
            (r#""attribute_name":"rack""#, r#""text_matches":{"regex":"r[12]"}"#, true),
            (r#""attribute_name":"rack""#, r#""text_matches":{"regex":"1"}"#, false),
            (r#""pseudoattribute_type":"HOSTNAME""#, r#""text_matches":{"regex":"h|x"}"#, false),
            (r#""pseudoattribute_type":"HOSTNAME""#, r#""text_equals":{"value":"h1"}"#, true),
            (r#""pseudoattribute_type":"REGION""#, r#""exists":{}"#, false),
        ];
        for (selector, predicate, pass) in rows {
            let c = constraints(&format!(
                r#"{{"selector":{{{selector}}},"predicate":{{{predicate}}}}}"#
            ))
            .unwrap();
            assert_eq!(c.exclude("web", &agent()), !pass, "{selector} {predicate}");
            assert!(!c.exclude("other", &agent()));
        }
    }

    #[test]
    fn refusals() {
        let of = |json: &str| constraints(json).unwrap_err().to_string();
        assert!(of(r#"{"selector":{},"predicate":{"exists":{}}}"#).contains("must be set"));
        assert!(
            of(r#"{"selector":{"attribute_name":"a"},"predicate":{}}"#)
                .ends_with("Unknown predicate type")
        );
        let bad = r#"{"selector":{"attribute_name":"a"},"predicate":{"text_matches":{"regex":"#;
        assert!(of(&format!(r#"{bad}"("}}}}}}"#)).contains("from pattern '('"));
        assert!(of(&format!(r#"{bad}"\\w{{1000}}"}}}}}}"#)).contains("too complex"));
        assert!(of("").contains("contains an empty RoleConstraints::Group"));
    }
}
