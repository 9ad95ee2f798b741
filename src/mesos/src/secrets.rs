//! Secret values inside messages, and how to write the messages down without them.
//!
//! Called wherever a message goes to a disk or to people. What is left says that
//! there was a secret, and which; references stay, since they give nothing away.

use crate::secret::Value;
use crate::{
    CheckInfo, CommandInfo, ContainerInfo, Environment, ExecutorInfo, HealthCheck, Secret, Task,
    TaskGroupInfo, TaskInfo,
};

/// A message that may hold secret values.
pub trait Secretive: Clone {
    /// Empties every secret value in it.
    fn hide_secrets(&mut self);

    /// A copy without secret values.
    #[must_use]
    fn without_secrets(&self) -> Self {
        let mut copy = self.clone();
        copy.hide_secrets();
        copy
    }
}

impl<T: Secretive> Secretive for Option<T> {
    fn hide_secrets(&mut self) {
        if let Some(inner) = self {
            inner.hide_secrets();
        }
    }
}

impl<T: Secretive> Secretive for Box<T> {
    fn hide_secrets(&mut self) {
        (**self).hide_secrets();
    }
}

impl Secretive for Secret {
    fn hide_secrets(&mut self) {
        if let Some(value) = &mut self.value {
            *value = Value { data: Vec::new() };
        }
    }
}

impl Secretive for Environment {
    fn hide_secrets(&mut self) {
        self.variables.iter_mut().for_each(|variable| variable.secret.hide_secrets());
    }
}

impl Secretive for CommandInfo {
    fn hide_secrets(&mut self) {
        self.environment.hide_secrets();
    }
}

impl Secretive for ContainerInfo {
    fn hide_secrets(&mut self) {
        for volume in &mut self.volumes {
            if let Some(source) = &mut volume.source {
                source.secret.hide_secrets();
                if let Some(csi) = &mut source.csi_volume
                    && let Some(provisioned) = &mut csi.static_provisioning
                {
                    provisioned.node_stage_secrets.values_mut().for_each(Secret::hide_secrets);
                    provisioned.node_publish_secrets.values_mut().for_each(Secret::hide_secrets);
                }
            }
            hide_in_image(&mut volume.image);
        }
        if let Some(mesos) = &mut self.mesos {
            hide_in_image(&mut mesos.image);
        }
    }
}

fn hide_in_image(image: &mut Option<crate::Image>) {
    if let Some(docker) = image.as_mut().and_then(|image| image.docker.as_mut()) {
        docker.config.hide_secrets();
    }
}

impl Secretive for HealthCheck {
    fn hide_secrets(&mut self) {
        self.command.hide_secrets();
    }
}

impl Secretive for CheckInfo {
    fn hide_secrets(&mut self) {
        if let Some(command) = &mut self.command {
            command.command.hide_secrets();
        }
    }
}

impl Secretive for ExecutorInfo {
    fn hide_secrets(&mut self) {
        self.command.hide_secrets();
        self.container.hide_secrets();
    }
}

impl Secretive for TaskInfo {
    fn hide_secrets(&mut self) {
        self.command.hide_secrets();
        self.container.hide_secrets();
        self.executor.hide_secrets();
        self.health_check.hide_secrets();
        self.check.hide_secrets();
    }
}

impl Secretive for TaskGroupInfo {
    fn hide_secrets(&mut self) {
        self.tasks.iter_mut().for_each(TaskInfo::hide_secrets);
    }
}

impl Secretive for Task {
    fn hide_secrets(&mut self) {
        self.container.hide_secrets();
        self.health_check.hide_secrets();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Variable;
    use crate::{Volume, secret, volume};

    #[test]
    fn values_go_and_references_stay() {
        let value = Secret {
            r#type: Some(secret::Type::Value as i32),
            value: Some(Value { data: b"hush".to_vec() }),
            reference: None,
        };
        let reference = secret::Reference { name: "vault".into(), key: None };
        let named = Secret {
            r#type: Some(secret::Type::Reference as i32),
            reference: Some(reference),
            value: None,
        };
        let variable = |secret: &Secret| Variable {
            name: "S".into(),
            secret: Some(secret.clone()),
            ..Variable::default()
        };
        let environment = Environment { variables: vec![variable(&value), variable(&named)] };
        let command = CommandInfo { environment: Some(environment), ..CommandInfo::default() };
        let source = volume::Source { secret: Some(value), ..volume::Source::default() };
        let volumes = vec![Volume { source: Some(source), ..Volume::default() }];
        let health = HealthCheck { command: Some(command.clone()), ..HealthCheck::default() };
        let task = TaskInfo {
            command: Some(command),
            container: Some(ContainerInfo { volumes, ..ContainerInfo::default() }),
            health_check: Some(health),
            ..TaskInfo::default()
        };
        let hidden = format!("{:?}", task.without_secrets());
        let bytes = format!("{:?}", b"hush");
        assert!(format!("{task:?}").contains(&bytes));
        assert!(!hidden.contains(&bytes) && hidden.contains("vault"), "{hidden}");
    }
}
