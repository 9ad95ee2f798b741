//! Ids of containers, which nest.

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
}
