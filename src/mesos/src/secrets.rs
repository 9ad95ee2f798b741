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
    /// Goes over every secret in it.
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret));

    /// Empties every secret value in it.
    fn hide_secrets(&mut self) {
        self.each_secret(&mut |secret| {
            if let Some(value) = &mut secret.value {
                *value = Value { data: Vec::new() };
            }
        });
    }

    /// Whether it has secret values, hidden ones too: what was read back from a disk
    /// lacks them.
    #[must_use]
    fn has_secret_values(&self) -> bool {
        let mut found = false;
        self.clone().each_secret(&mut |secret| found |= secret.value.is_some());
        found
    }

    /// A copy without secret values.
    #[must_use]
    fn without_secrets(&self) -> Self {
        let mut copy = self.clone();
        copy.hide_secrets();
        copy
    }
}

impl<T: Secretive> Secretive for Option<T> {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        if let Some(inner) = self {
            inner.each_secret(act);
        }
    }
}

impl<T: Secretive> Secretive for Box<T> {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        (**self).each_secret(act);
    }
}

impl Secretive for Secret {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        act(self);
    }
}

impl Secretive for Environment {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        self.variables.iter_mut().for_each(|variable| variable.secret.each_secret(act));
    }
}

impl Secretive for CommandInfo {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        self.environment.each_secret(act);
    }
}

impl Secretive for ContainerInfo {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        for volume in &mut self.volumes {
            if let Some(source) = &mut volume.source {
                source.secret.each_secret(act);
                if let Some(csi) = &mut source.csi_volume
                    && let Some(provisioned) = &mut csi.static_provisioning
                {
                    provisioned.node_stage_secrets.values_mut().for_each(&mut *act);
                    provisioned.node_publish_secrets.values_mut().for_each(&mut *act);
                }
            }
            in_image(&mut volume.image, act);
        }
        if let Some(mesos) = &mut self.mesos {
            in_image(&mut mesos.image, act);
        }
    }
}

fn in_image(image: &mut Option<crate::Image>, act: &mut dyn FnMut(&mut Secret)) {
    if let Some(docker) = image.as_mut().and_then(|image| image.docker.as_mut()) {
        docker.config.each_secret(act);
    }
}

impl Secretive for HealthCheck {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        self.command.each_secret(act);
    }
}

impl Secretive for CheckInfo {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        if let Some(command) = &mut self.command {
            command.command.each_secret(act);
        }
    }
}

impl Secretive for ExecutorInfo {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        self.command.each_secret(act);
        self.container.each_secret(act);
    }
}

impl Secretive for TaskInfo {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        self.command.each_secret(act);
        self.container.each_secret(act);
        self.executor.each_secret(act);
        self.health_check.each_secret(act);
        self.check.each_secret(act);
    }
}

impl Secretive for TaskGroupInfo {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        self.tasks.iter_mut().for_each(|task| task.each_secret(act));
    }
}

impl Secretive for Task {
    fn each_secret(&mut self, act: &mut dyn FnMut(&mut Secret)) {
        self.container.each_secret(act);
        self.health_check.each_secret(act);
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
        assert!(task.without_secrets().has_secret_values(), "it is told that there was one");
        assert!(!TaskInfo::default().has_secret_values());
    }
}
