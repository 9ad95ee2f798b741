//! Ids of containers, which nest.

use std::fmt;

use crate::ContainerId;

impl ContainerId {
    /// The container at the top: itself, unless it is nested.
    ///
    /// ```
    /// let top = mesos::ContainerId { value: "top".into(), parent: None };
    /// let inner = |parent: &mesos::ContainerId| mesos::ContainerId {
    ///     value: "inner".into(),
    ///     parent: Some(Box::new(parent.clone())),
    /// };
    /// assert_eq!(top.root(), &top);
    /// assert_eq!(inner(&inner(&top)).root(), &top);
    /// ```
    #[must_use]
    pub fn root(&self) -> &ContainerId {
        self.parent.as_deref().map_or(self, ContainerId::root)
    }

    /// The values from the top-level container down to this one.
    #[must_use]
    pub fn lineage(&self) -> Vec<&str> {
        let mut values = self.parent.as_deref().map(ContainerId::lineage).unwrap_or_default();
        values.push(&self.value);
        values
    }
}

/// With its parents, as Mesos prints it: `top.inner`.
impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lineage().join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_with_their_parents() {
        let of = |value: &str, parent: Option<&ContainerId>| ContainerId {
            value: value.into(),
            parent: parent.cloned().map(Box::new),
        };
        let top = of("a", None);
        let inner = of("c", Some(&of("b", Some(&top))));
        assert_eq!((top.lineage(), top.to_string().as_str()), (vec!["a"], "a"));
        assert_eq!((inner.lineage(), inner.to_string().as_str()), (vec!["a", "b", "c"], "a.b.c"));
    }
}
