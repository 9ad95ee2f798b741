//! Secrets of tasks. Values are what they say; references would have to be looked
//! up somewhere by a resolver, and there is none.

use mesos::{Secret, secret::Type};

/// The secret's bytes.
///
/// # Errors
/// A reference, or a message that contradicts itself; for people, without the
/// secret.
pub fn resolve(secret: &Secret) -> Result<&[u8], String> {
    match secret.r#type.and_then(|value| Type::try_from(value).ok()) {
        Some(Type::Value) => match (&secret.value, &secret.reference) {
            (Some(value), None) => Ok(&value.data),
            (None, _) => Err("a secret of type VALUE without 'value'".to_owned()),
            (_, Some(_)) => Err("a secret of type VALUE with 'reference'".to_owned()),
        },
        Some(Type::Reference) => {
            let name = secret.reference.as_ref().map_or("", |reference| reference.name.as_str());
            Err(format!(
                "the secret is a reference to '{name}': there is no secret resolver, give its value"
            ))
        }
        Some(Type::Unknown) | None => Err("a secret of unknown type".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_given_and_references_refused() {
        let value = mesos::secret::Value { data: b"hush".to_vec() };
        let plain = Secret {
            r#type: Some(Type::Value as i32),
            value: Some(value.clone()),
            ..Secret::default()
        };
        assert_eq!(resolve(&plain), Ok(&b"hush"[..]));
        let reference = mesos::secret::Reference { name: "vault".into(), key: None };
        let reference = Secret {
            r#type: Some(Type::Reference as i32),
            reference: Some(reference),
            ..Secret::default()
        };
        assert!(resolve(&reference).unwrap_err().contains("'vault'"));
        for bad in [
            Secret::default(),
            Secret { r#type: Some(Type::Value as i32), ..Secret::default() },
            Secret { reference: reference.reference.clone(), ..plain.clone() },
        ] {
            let error = resolve(&bad).unwrap_err();
            assert!(!error.contains("hush"), "{error}");
        }
    }
}
