//! When to check a task and what follows: a pure state machine, without a clock.
//!
//! A task has at most one check and one health check. Both run in rounds:
//!
//! ```text
//! start --delay--> due --probe--> done --interval--> due ...
//!   paused: nothing is due, answers that come late are dropped
//! ```
//! A check reports its status when that differs from the one before. A health
//! check reports the first success, the first success after failures, and every
//! failure but those of the grace period; with enough failures in a row the task
//! is to be killed.

use std::time::Duration;

use mesos::{
    CheckInfo, CheckStatusInfo, CommandInfo, HealthCheck, TaskInfo, TaskStatus, check_info,
    check_status_info, health_check, network_info,
};

/// Which of a task's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `TaskInfo.check`: its result is passed on.
    Check,
    /// `TaskInfo.health_check`: its result is judged.
    Health,
}

/// What to ask of a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Probe {
    /// Run this in the task's container.
    Command(Box<CommandInfo>),
    /// GET on the loopback address of the container's network.
    Http {
        /// The port, as given: 65536 and above can only fail.
        port: u32,
        /// Starts with `/`, or is empty.
        path: String,
        /// With TLS; certificates are not verified.
        tls: bool,
        /// On `::1`.
        ipv6: bool,
    },
    /// Connect to the loopback address of the container's network.
    Tcp {
        /// The port.
        port: u32,
        /// On `::1`.
        ipv6: bool,
    },
}

/// One probe to be made. Its answer is [`Event::Done`] with the same round.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Of which check.
    pub kind: Kind,
    /// Which round.
    pub round: u64,
    /// What to do.
    pub probe: Probe,
    /// How long it may take.
    pub limit: Option<Duration>,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The command exited with this code.
    Exited(i32),
    /// The HTTP status.
    Status(u16),
    /// Whether the connection was made.
    Connected(bool),
    /// The probe could not be made, or not in time.
    Failed(String),
    /// Nothing can be said this time; that is no failure.
    Unavailable(String),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A scheduled round is due.
    Due(Kind, u64),
    /// A probe ended.
    Done(Kind, u64, Outcome),
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Bring [`Event::Due`] after this long.
    Schedule(Duration, Kind, u64),
    /// Make this probe.
    Probe(Attempt),
    /// The check's status changed.
    Status(CheckStatusInfo),
    /// The task is healthy or not.
    Health {
        /// Which.
        healthy: bool,
        /// It failed too often: kill the task.
        kill: bool,
        /// Why it is not healthy, for people.
        message: Option<String>,
    },
}

/// When a check runs, in Mesos' defaults where the task says nothing.
#[derive(Debug, Clone, PartialEq)]
struct Plan {
    kind: Kind,
    probe: Probe,
    delay: Duration,
    interval: Duration,
    /// `None`: for ever.
    limit: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
struct Checker {
    plan: Plan,
    round: u64,
    paused: bool,
    judge: Judge,
}

/// What is made of the answers.
#[derive(Debug, Clone, PartialEq)]
enum Judge {
    Status { last: CheckStatusInfo },
    Health { grace: f64, threshold: u32, started: f64, initializing: bool, failures: u32 },
}

/// The checks of one task. Times are in seconds since any fixed moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checks {
    checkers: Vec<Checker>,
    healthy: Option<bool>,
}

impl Checks {
    /// The checks that a task asks for; none of them runs yet. A kind of check
    /// that nobody knows is left out: masters refuse such tasks.
    #[must_use]
    pub fn of(task: &TaskInfo) -> Checks {
        let checkers = task.check.iter().filter_map(of_check);
        let health = task.health_check.iter().filter_map(of_health_check);
        Checks { checkers: checkers.chain(health).collect(), healthy: None }
    }

    /// Whether there is nothing to check.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.checkers.is_empty()
    }

    /// The task runs: begins with the delays.
    pub fn start(&mut self, now: f64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for checker in &mut self.checkers {
            if let Judge::Health { started, .. } = &mut checker.judge {
                *started = now;
            }
            let delay = checker.plan.delay;
            effects.push(checker.schedule(delay));
        }
        effects
    }

    /// Takes up checks that another process has made: what it last reported and
    /// when the task was started. The next round is due at once.
    pub fn take_over(&mut self, last: &TaskStatus, running_since: f64) -> Vec<Effect> {
        self.healthy = last.healthy;
        for checker in &mut self.checkers {
            match &mut checker.judge {
                Judge::Status { last: known } => {
                    if let Some(status) = &last.check_status {
                        *known = *status;
                    }
                }
                Judge::Health { started, initializing, failures, .. } => {
                    *started = running_since;
                    *initializing = last.healthy != Some(true);
                    *failures = u32::from(last.healthy == Some(false));
                }
            }
        }
        self.resume()
    }

    /// No more rounds, until [`Checks::resume`]. What is under way is dropped.
    pub fn pause(&mut self) {
        for checker in &mut self.checkers {
            checker.paused = true;
            checker.round += 1;
        }
    }

    /// Goes on, with a round at once.
    pub fn resume(&mut self) -> Vec<Effect> {
        let resumed = self.checkers.iter_mut().map(|checker| {
            checker.paused = false;
            checker.schedule(Duration::ZERO)
        });
        resumed.collect()
    }

    /// Takes one event; old rounds have no effect.
    pub fn handle(&mut self, now: f64, event: Event) -> Vec<Effect> {
        let (Event::Due(kind, round) | Event::Done(kind, round, _)) = &event;
        let current = |c: &&mut Checker| c.plan.kind == *kind && c.round == *round && !c.paused;
        let Some(checker) = self.checkers.iter_mut().find(current) else { return Vec::new() };
        match event {
            Event::Due(..) => vec![Effect::Probe(checker.attempt())],
            Event::Done(_, _, outcome) => {
                let mut effects = checker.judge(now, outcome);
                if let Some(Effect::Health { healthy, .. }) = effects.first() {
                    self.healthy = Some(*healthy);
                }
                let interval = checker.plan.interval;
                effects.push(checker.schedule(interval));
                effects
            }
        }
    }

    /// What the health check last reported.
    #[must_use]
    pub fn healthy(&self) -> Option<bool> {
        self.healthy
    }

    /// What the check last reported; without details if it has not yet.
    #[must_use]
    pub fn status(&self) -> Option<CheckStatusInfo> {
        self.checkers.iter().find_map(|checker| match &checker.judge {
            Judge::Status { last } => Some(*last),
            Judge::Health { .. } => None,
        })
    }
}

/// The status of a task's check before there is a result, which every status of a
/// task with a check carries.
#[must_use]
pub fn empty_status(task: &TaskInfo) -> Option<CheckStatusInfo> {
    task.check.as_ref().map(|check| status_of(check.r#type()))
}

impl Checker {
    fn schedule(&mut self, after: Duration) -> Effect {
        self.round += 1;
        Effect::Schedule(after, self.plan.kind, self.round)
    }

    fn attempt(&self) -> Attempt {
        Attempt {
            kind: self.plan.kind,
            round: self.round,
            probe: self.plan.probe.clone(),
            limit: self.plan.limit,
        }
    }

    fn judge(&mut self, now: f64, outcome: Outcome) -> Vec<Effect> {
        if matches!(outcome, Outcome::Unavailable(_)) {
            return Vec::new();
        }
        match &mut self.judge {
            Judge::Status { last } => {
                let status = status_with(&self.plan.probe, &outcome);
                if status == *last {
                    return Vec::new();
                }
                *last = status;
                vec![Effect::Status(status)]
            }
            Judge::Health { grace, threshold, started, initializing, failures } => {
                let Some(why) = failure(&outcome) else {
                    let news = *initializing || *failures > 0;
                    (*initializing, *failures) = (false, 0);
                    let fine = Effect::Health { healthy: true, kill: false, message: None };
                    return if news { vec![fine] } else { Vec::new() };
                };
                if *initializing && *grace > 0.0 && now - *started <= *grace {
                    return Vec::new();
                }
                *failures = failures.saturating_add(1);
                let what = name(&self.plan.probe);
                let times =
                    if *failures == 1 { "once".into() } else { format!("{failures} times") };
                let message = format!("{what} health check failed {times}: {why}");
                let kill = *failures >= *threshold;
                vec![Effect::Health { healthy: false, kill, message: Some(message) }]
            }
        }
    }
}

fn name(probe: &Probe) -> &'static str {
    match probe {
        Probe::Command(_) => "COMMAND",
        Probe::Http { .. } => "HTTP",
        Probe::Tcp { .. } => "TCP",
    }
}

/// Why an answer is not that of a healthy task.
fn failure(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Exited(0) | Outcome::Status(200..400) | Outcome::Connected(true) => None,
        Outcome::Exited(code) => Some(format!("the command exited with status {code}")),
        Outcome::Status(status) => Some(format!("unexpected HTTP response code {status}")),
        Outcome::Connected(false) => Some("the connection failed".into()),
        Outcome::Failed(why) | Outcome::Unavailable(why) => Some(why.clone()),
    }
}

/// A status without a result.
fn status_of(kind: check_info::Type) -> CheckStatusInfo {
    let mut status = CheckStatusInfo { r#type: Some(kind as i32), ..Default::default() };
    match kind {
        check_info::Type::Command => status.command = Some(check_status_info::Command::default()),
        check_info::Type::Http => status.http = Some(check_status_info::Http::default()),
        check_info::Type::Tcp => status.tcp = Some(check_status_info::Tcp::default()),
        check_info::Type::Unknown => {}
    }
    status
}

/// The status that an answer makes; a failed probe has no result.
fn status_with(probe: &Probe, outcome: &Outcome) -> CheckStatusInfo {
    let mut status = status_of(match probe {
        Probe::Command(_) => check_info::Type::Command,
        Probe::Http { .. } => check_info::Type::Http,
        Probe::Tcp { .. } => check_info::Type::Tcp,
    });
    match outcome {
        Outcome::Exited(code) => {
            status.command = Some(check_status_info::Command { exit_code: Some(*code) });
        }
        Outcome::Status(code) => {
            status.http = Some(check_status_info::Http { status_code: Some(u32::from(*code)) });
        }
        Outcome::Connected(made) => {
            status.tcp = Some(check_status_info::Tcp { succeeded: Some(*made) });
        }
        Outcome::Failed(_) | Outcome::Unavailable(_) => {}
    }
    status
}

fn of_check(check: &CheckInfo) -> Option<Checker> {
    let probe = match check.r#type() {
        check_info::Type::Command => {
            Probe::Command(Box::new(check.command.as_ref()?.command.clone()))
        }
        check_info::Type::Http => {
            let http = check.http.as_ref()?;
            let path = http.path.clone().unwrap_or_default();
            Probe::Http { port: http.port, path, tls: false, ipv6: false }
        }
        check_info::Type::Tcp => Probe::Tcp { port: check.tcp.as_ref()?.port, ipv6: false },
        check_info::Type::Unknown => return None,
    };
    let plan = Plan {
        kind: Kind::Check,
        probe,
        delay: seconds(check.delay_seconds()),
        interval: seconds(check.interval_seconds()),
        limit: limit(check.timeout_seconds()),
    };
    let last = status_of(check.r#type());
    Some(Checker { plan, round: 0, paused: false, judge: Judge::Status { last } })
}

fn of_health_check(check: &HealthCheck) -> Option<Checker> {
    let is_v6 = |protocol| protocol == network_info::Protocol::IPv6;
    let probe = match check.r#type() {
        health_check::Type::Command => Probe::Command(Box::new(check.command.clone()?)),
        health_check::Type::Http => {
            let http = check.http.as_ref()?;
            Probe::Http {
                port: http.port,
                path: http.path.clone().unwrap_or_default(),
                tls: http.scheme.as_deref() == Some("https"),
                ipv6: is_v6(http.protocol()),
            }
        }
        health_check::Type::Tcp => {
            let tcp = check.tcp.as_ref()?;
            Probe::Tcp { port: tcp.port, ipv6: is_v6(tcp.protocol()) }
        }
        health_check::Type::Unknown => return None,
    };
    let plan = Plan {
        kind: Kind::Health,
        probe,
        delay: seconds(check.delay_seconds()),
        interval: seconds(check.interval_seconds()),
        limit: limit(check.timeout_seconds()),
    };
    let judge = Judge::Health {
        grace: check.grace_period_seconds(),
        threshold: check.consecutive_failures(),
        started: 0.0,
        initializing: true,
        failures: 0,
    };
    Some(Checker { plan, round: 0, paused: false, judge })
}

/// Masters refuse what is negative; what is too large for a duration is for ever.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}

/// Zero is no limit.
fn limit(given: f64) -> Option<Duration> {
    Some(seconds(given)).filter(|limit| !limit.is_zero())
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
