//! The text and JSON forms of `--resources`, and the values of attributes.

use thiserror::Error;

use super::{Invalid, Item, Resources, Scalar, Set, Value, format, validate};
use crate::resource::ReservationInfo;
use crate::resource::reservation_info::Type as ReservationType;
use crate::value as proto;
use crate::{Resource, json};

use super::value::Ranges;

/// Why a text is no value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum ValueError {
    #[error("Expecting non-empty string")]
    Empty,
    #[error("Mismatched brackets")]
    Brackets,
    #[error("Expecting one or more \"ranges\"")]
    Ranges,
    #[error("Expecting non-negative integers in '{0}'")]
    Integers(String),
    #[error("Unsupported floating point value '{0}'")]
    NotFinite(String),
    #[error("Negative values not supported: '{0}'")]
    Negative(String),
    #[error("Unexpected '{0}' found")]
    Unexpected(char),
}

/// Why a text describes no resources.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum ParseError {
    #[error("Bad value for resources, missing or extra ':' in '{0}'")]
    Colon(String),
    #[error("Bad value for resources, mismatched parentheses in '{0}'")]
    Parentheses(String),
    #[error("Failed to parse resource {name} value {value} error {error}")]
    Value { name: String, value: String, error: ValueError },
    #[error("Bad type for resource {name} value {value} type TEXT")]
    Text { name: String, value: String },
    #[error("Some JSON resources were not formatted properly: {0}")]
    Json(String),
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error("Persistent volumes cannot be specified at the command line")]
    PersistentVolume,
    #[error(
        "Revocable resources cannot be specified at the command line; do not include a \
         'revocable' key in the resources JSON"
    )]
    Revocable,
    #[error(
        "Dynamic reservations cannot be specified at the command line; do not include a \
         reservation with DYNAMIC type in the resources JSON"
    )]
    Dynamic,
    #[error("Resources with the same name ('{0}') but different types are not allowed")]
    Types(String),
}

/// A parsed value; text is what is none of the others.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Parsed {
    Scalar(f64),
    Ranges(Ranges),
    Set(Set),
    Text(String),
}

/// Reads `2.5`, `[1-10, 20-30]`, `{a, b}` or plain text; spaces do not count.
///
/// # Errors
/// [`ValueError`] with what is wrong.
pub fn parse_value(text: &str) -> Result<Parsed, ValueError> {
    let text = text.replace(' ', "");
    if text.is_empty() {
        return Err(ValueError::Empty);
    }
    for (open, close) in [('{', '}'), ('[', ']'), ('(', ')')] {
        if !balanced(&text, open, close) {
            return Err(ValueError::Brackets);
        }
    }
    match text.find(['[', '{']) {
        Some(0) if text.starts_with('[') => parse_ranges(&text),
        Some(0) => Ok(Parsed::Set(Set::new(tokens(&text, "{},\n").map(str::to_owned)))),
        Some(at) => {
            let found = text[at..].chars().next().expect("find points at a character");
            Err(ValueError::Unexpected(found))
        }
        None => match text.parse::<f64>() {
            Ok(number) if !number.is_finite() => Err(ValueError::NotFinite(text)),
            Ok(number) if number < 0.0 => Err(ValueError::Negative(text)),
            // `inf`, `nan` and the like parse above; no other word does.
            Ok(number) => Ok(Parsed::Scalar(number)),
            Err(_) => Ok(Parsed::Text(text)),
        },
    }
}

fn parse_ranges(text: &str) -> Result<Parsed, ValueError> {
    let tokens: Vec<&str> = tokens(text, "[]-,\n").collect();
    if !tokens.len().is_multiple_of(2) {
        return Err(ValueError::Ranges);
    }
    let mut pairs = Vec::with_capacity(tokens.len() / 2);
    for pair in tokens.chunks_exact(2) {
        let (Ok(begin), Ok(end)) = (pair[0].parse::<u64>(), pair[1].parse::<u64>()) else {
            return Err(ValueError::Integers(pair.join("-")));
        };
        if begin > end {
            return Err(ValueError::Integers(pair.join("-")));
        }
        pairs.push((begin, end));
    }
    Ok(Parsed::Ranges(Ranges::new(pairs)))
}

fn balanced(text: &str, open: char, close: char) -> bool {
    let mut depth = 0usize;
    for c in text.chars() {
        if c == open {
            depth += 1;
        } else if c == close {
            match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            }
        }
    }
    depth == 0
}

fn tokens<'a>(text: &'a str, separators: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(|c| separators.contains(c)).filter(|t| !t.is_empty())
}

/// Reads one named resource of the text form.
///
/// # Errors
/// [`ParseError`] naming the resource and its value.
pub fn parse_resource(name: &str, text: &str, role: &str) -> Result<Resource, ParseError> {
    let parsed = parse_value(text).map_err(|error| ParseError::Value {
        name: name.into(),
        value: text.into(),
        error,
    })?;
    let mut resource = Resource { name: name.into(), ..Resource::default() };
    let kind = match parsed {
        Parsed::Scalar(value) => {
            resource.scalar = Some(proto::Scalar { value });
            proto::Type::Scalar
        }
        Parsed::Ranges(ranges) => {
            resource.ranges = Some((&ranges).into());
            proto::Type::Ranges
        }
        Parsed::Set(set) => {
            resource.set = Some((&set).into());
            proto::Type::Set
        }
        Parsed::Text(_) => {
            return Err(ParseError::Text { name: name.into(), value: text.into() });
        }
    };
    resource.r#type = kind.into();
    if role != "*" {
        resource.reservations.push(ReservationInfo {
            r#type: Some(ReservationType::Static.into()),
            role: Some(role.into()),
            ..Default::default()
        });
    }
    Ok(resource)
}

/// Reads the text form (`cpus:24;mem:24576;bugs(debug_role):{a,b,c}`) or a JSON
/// array of resources, without the rules of the command line; zero values are
/// kept. Resources without a role get `default_role`.
///
/// # Errors
/// [`ParseError`] naming the input.
pub fn parse_list(text: &str, default_role: &str) -> Result<Vec<Resource>, ParseError> {
    if text.trim_start().starts_with(['[', '{']) {
        return parse_json(text, default_role);
    }
    let mut resources = Vec::new();
    for token in text.split([';', '\n']).filter(|t| !t.trim().is_empty()) {
        let pair: Vec<&str> = token.split(':').filter(|t| !t.is_empty()).collect();
        let [key, value] = pair.as_slice() else {
            return Err(ParseError::Colon(token.into()));
        };
        let (name, role) = match key.split_once('(') {
            None => (key.trim(), default_role),
            Some((name, rest)) => {
                let (role, _) = rest
                    .split_once(')')
                    .filter(|_| !name.contains(')'))
                    .ok_or_else(|| ParseError::Parentheses(token.into()))?;
                (name.trim(), role.trim())
            }
        };
        resources.push(parse_resource(name, value, role)?);
    }
    Ok(resources)
}

#[allow(deprecated)]
fn parse_json(text: &str, default_role: &str) -> Result<Vec<Resource>, ParseError> {
    let bad = |e: String| ParseError::Json(e);
    let array: Vec<serde_json::Value> =
        serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let mut resources = Vec::with_capacity(array.len());
    for element in array {
        let mut resource: Resource = json::from_json(element.to_string().as_bytes())
            .map_err(|e| bad(format!("{e} in {element}")))?;
        if resource.role.is_none() && resource.reservations.is_empty() {
            resource.role = Some(default_role.into());
        }
        validate::validate(&resource).map_err(|e| validate::one_of(&resource, e))?;
        format::upgrade(&mut resource);
        resources.push(resource);
    }
    Ok(resources)
}

/// Reads `--resources`: [`parse_list`] and the rules of the command line.
///
/// # Errors
/// [`ParseError`] naming the input.
pub fn parse(text: &str, default_role: &str) -> Result<Resources, ParseError> {
    let mut result = Resources::new();
    for resource in &parse_list(text, default_role)? {
        let item = Item::new(resource).map_err(|e| validate::one_of(resource, e))?;
        result.add_item(item);
    }
    let mut kinds: Vec<(&str, proto::Type)> = Vec::new();
    for item in &result {
        if item.is_persistent_volume() {
            return Err(ParseError::PersistentVolume);
        }
        if item.is_revocable() {
            return Err(ParseError::Revocable);
        }
        if item.is_dynamically_reserved() {
            return Err(ParseError::Dynamic);
        }
        let kind = item.value().kind();
        match kinds.iter().find(|(name, _)| *name == item.name()) {
            Some((_, other)) if *other != kind => {
                return Err(ParseError::Types(item.name().into()));
            }
            Some(_) => {}
            None => kinds.push((item.name(), kind)),
        }
    }
    Ok(result)
}

impl From<Scalar> for Value {
    fn from(s: Scalar) -> Self {
        Self::Scalar(s)
    }
}
