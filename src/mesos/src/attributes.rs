//! The text form of agent attributes: `rack:abc;zone:west;level:10;keys:[1000-1500]`.
//!
//! Called by the agent for `--attributes`. Sets, on which the C++ agent aborts,
//! are read like the other types.

use thiserror::Error;

use crate::Attribute;
use crate::resources::{Parsed, ValueError, parse_value};
use crate::value as proto;

/// Why a text describes no attributes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum AttributeError {
    #[error("Invalid attribute key:value pair '{0}'")]
    Pair(String),
    #[error("Failed to parse attribute {name} text {text} error {error}")]
    Value { name: String, text: String, error: ValueError },
}

/// Reads `key:value` pairs separated by `;` or line ends. Names may repeat.
///
/// # Errors
/// [`AttributeError`] naming the pair.
pub fn parse(text: &str) -> Result<Vec<Attribute>, AttributeError> {
    text.split([';', '\n']).filter(|pair| !pair.is_empty()).map(parse_pair).collect()
}

fn parse_pair(pair: &str) -> Result<Attribute, AttributeError> {
    let (name, text) = pair
        .split_once(':')
        .filter(|(name, text)| !name.is_empty() && !text.is_empty())
        .ok_or_else(|| AttributeError::Pair(pair.into()))?;
    let parsed = parse_value(text).map_err(|error| AttributeError::Value {
        name: name.into(),
        text: text.into(),
        error,
    });
    // A negative number is no resource, but it is a fine text.
    let parsed = match parsed {
        Err(AttributeError::Value {
            error: ValueError::Negative(text) | ValueError::NotFinite(text),
            ..
        }) => Parsed::Text(text),
        other => other?,
    };
    let mut attribute = Attribute { name: name.into(), ..Attribute::default() };
    let kind = match parsed {
        Parsed::Scalar(value) => {
            attribute.scalar = Some(proto::Scalar { value });
            proto::Type::Scalar
        }
        Parsed::Ranges(ranges) => {
            attribute.ranges = Some((&ranges).into());
            proto::Type::Ranges
        }
        Parsed::Set(set) => {
            attribute.set = Some((&set).into());
            proto::Type::Set
        }
        Parsed::Text(value) => {
            attribute.text = Some(proto::Text { value });
            proto::Type::Text
        }
    };
    attribute.r#type = kind.into();
    Ok(attribute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type() {
        let all =
            parse("rack:abc;zone:west;level:10;keys:[1000-1500];disks:{sda,sdb};t:-4").unwrap();
        let kinds: Vec<proto::Type> = all.iter().map(Attribute::r#type).collect();
        use proto::Type::{Ranges, Scalar, Set, Text};
        assert_eq!(kinds, [Text, Text, Scalar, Ranges, Set, Text]);
        assert_eq!(all[0].text.as_ref().unwrap().value, "abc");
        assert_eq!(all[4].set.as_ref().unwrap().item, ["sda", "sdb"]);
        // Everything after the first colon is the value.
        assert_eq!(parse("url:http://x").unwrap()[0].text.as_ref().unwrap().value, "http://x");
    }

    #[test]
    fn errors_name_the_pair() {
        assert_eq!(
            parse("a:1;rack").unwrap_err().to_string(),
            "Invalid attribute key:value pair 'rack'"
        );
        assert_eq!(
            parse("keys:[1-").unwrap_err().to_string(),
            "Failed to parse attribute keys text [1- error Mismatched brackets"
        );
    }
}
