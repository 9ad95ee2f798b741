//! Checks against a clock that the test moves.

use super::*;

fn health(threshold: u32, grace: f64) -> Checks {
    let check = HealthCheck {
        r#type: Some(health_check::Type::Tcp as i32),
        tcp: Some(health_check::TcpCheckInfo { port: 80, ..Default::default() }),
        delay_seconds: Some(2.0),
        interval_seconds: Some(5.0),
        timeout_seconds: Some(1.0),
        consecutive_failures: Some(threshold),
        grace_period_seconds: Some(grace),
        ..Default::default()
    };
    Checks::of(&TaskInfo { health_check: Some(check), ..TaskInfo::default() })
}

fn check(kind: check_info::Type) -> Checks {
    let check = CheckInfo {
        r#type: Some(kind as i32),
        command: Some(check_info::Command::default()),
        http: Some(check_info::Http { port: 80, path: Some("/x".into()) }),
        tcp: Some(check_info::Tcp { port: 80 }),
        ..Default::default()
    };
    Checks::of(&TaskInfo { check: Some(check), ..TaskInfo::default() })
}

/// Plays a task: every probe gets the next answer. Returns what was reported, with
/// the time.
fn play(checks: &mut Checks, answers: &[Outcome]) -> Vec<(f64, Effect)> {
    let mut effects = checks.start(100.0);
    let (mut now, mut answers, mut reports) = (100.0, answers.iter(), Vec::new());
    loop {
        let mut next = Vec::new();
        for effect in std::mem::take(&mut effects) {
            match effect {
                Effect::Schedule(after, kind, round) => {
                    now += after.as_secs_f64();
                    next.extend(checks.handle(now, Event::Due(kind, round)));
                }
                Effect::Probe(attempt) => {
                    let Some(answer) = answers.next() else { return reports };
                    let done = Event::Done(attempt.kind, attempt.round, answer.clone());
                    next.extend(checks.handle(now, done));
                }
                report => reports.push((now - 100.0, report)),
            }
        }
        effects = next;
    }
}

fn verdicts(checks: &mut Checks, answers: &[bool]) -> Vec<(f64, bool, bool)> {
    let answers: Vec<Outcome> = answers.iter().map(|made| Outcome::Connected(*made)).collect();
    play(checks, &answers)
        .into_iter()
        .filter_map(|(at, effect)| match effect {
            Effect::Health { healthy, kill, .. } => Some((at, healthy, kill)),
            _ => None,
        })
        .collect()
}

#[test]
fn health_follows_answers_delay_interval_grace_and_threshold() {
    // threshold, grace, answers -> (time, healthy, kill)
    type Row<'a> = (u32, f64, &'a [bool], &'a [(f64, bool, bool)]);
    let rows: [Row<'_>; 6] = [
        (3, 0.0, &[true, true, true], &[(2.0, true, false)]),
        (
            2,
            0.0,
            &[true, false, true, false, false],
            &[
                (2.0, true, false),
                (7.0, false, false),
                (12.0, true, false),
                (17.0, false, false),
                (22.0, false, true),
            ],
        ),
        // Failures of the grace period do not count until a success has ended it.
        (1, 8.0, &[false, false, false], &[(12.0, false, true)]),
        (1, 8.0, &[true, false], &[(2.0, true, false), (7.0, false, true)]),
        (1, 0.0, &[false], &[(2.0, false, true)]),
        (0, 0.0, &[false], &[(2.0, false, true)]),
    ];
    for (threshold, grace, answers, wanted) in rows {
        let found = verdicts(&mut health(threshold, grace), answers);
        assert_eq!(found, wanted, "threshold {threshold}, grace {grace}, {answers:?}");
    }
}

#[test]
fn answers_are_judged_as_mesos_judges_them() {
    let rows = [
        (Outcome::Exited(0), true),
        (Outcome::Exited(1), false),
        (Outcome::Status(199), false),
        (Outcome::Status(200), true),
        (Outcome::Status(399), true),
        (Outcome::Status(400), false),
        (Outcome::Connected(true), true),
        (Outcome::Connected(false), false),
        (Outcome::Failed("timed out".into()), false),
    ];
    for (outcome, healthy) in rows {
        assert_eq!(failure(&outcome).is_none(), healthy, "{outcome:?}");
    }
}

#[test]
fn a_status_is_reported_when_it_changes() {
    let answers = [
        Outcome::Status(503),
        Outcome::Status(503),
        Outcome::Unavailable("the agent is away".into()),
        Outcome::Status(200),
        Outcome::Failed("timed out".into()),
        Outcome::Failed("refused".into()),
    ];
    let mut checks = check(check_info::Type::Http);
    let reports = play(&mut checks, &answers);
    let codes: Vec<Option<u32>> = reports
        .iter()
        .filter_map(|(_, report)| match report {
            Effect::Status(status) => Some(status.http.as_ref()?.status_code),
            _ => None,
        })
        .collect();
    assert_eq!(codes, [Some(503), Some(200), None]);
    // The defaults: 15 s of delay, 10 s between rounds.
    let times: Vec<f64> = reports.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [15.0, 45.0, 55.0]);
    assert_eq!(checks.status().and_then(|s| s.http), Some(check_status_info::Http::default()));
}

#[test]
fn the_first_failed_probe_of_a_check_changes_nothing() {
    let mut checks = check(check_info::Type::Command);
    assert_eq!(play(&mut checks, &[Outcome::Failed("no such file".into())]), []);
    let reports = play(&mut checks, &[Outcome::Exited(0)]);
    assert_eq!(reports.len(), 1);
}

#[test]
fn a_pause_drops_what_is_under_way_and_a_resume_asks_at_once() {
    let mut checks = health(1, 0.0);
    let effects = checks.start(0.0);
    let [Effect::Schedule(_, kind, round)] = effects[..] else { panic!("{effects:?}") };
    checks.pause();
    assert_eq!(checks.handle(2.0, Event::Due(kind, round)), []);
    let effects = checks.resume();
    let [Effect::Schedule(after, kind, later)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(after, Duration::ZERO);
    assert_eq!(checks.handle(3.0, Event::Due(kind, round)), []);
    let effects = checks.handle(3.0, Event::Due(kind, later));
    let [Effect::Probe(attempt)] = &effects[..] else { panic!("{effects:?}") };
    checks.pause();
    let answer = Event::Done(kind, attempt.round, Outcome::Connected(false));
    assert_eq!(checks.handle(3.5, answer), []);
}

#[test]
fn a_successor_knows_what_was_reported() {
    let sick = TaskStatus { healthy: Some(false), ..TaskStatus::default() };
    let well = TaskStatus { healthy: Some(true), ..TaskStatus::default() };
    // what was reported, the answer, what is reported now
    let rows = [(&well, true, None), (&well, false, Some(false)), (&sick, true, Some(true))];
    for (last, answer, wanted) in rows {
        let mut checks = health(3, 10.0);
        let effects = checks.take_over(last, 0.0);
        let [Effect::Schedule(_, kind, round)] = effects[..] else { panic!("{effects:?}") };
        checks.handle(50.0, Event::Due(kind, round));
        let effects = checks.handle(50.0, Event::Done(kind, round, Outcome::Connected(answer)));
        let found = effects.iter().find_map(|effect| match effect {
            Effect::Health { healthy, .. } => Some(*healthy),
            _ => None,
        });
        assert_eq!(found, wanted);
        assert_eq!(checks.healthy(), wanted.or(last.healthy));
    }
}

#[test]
fn times_that_are_no_times_do_no_harm() {
    for (given, wanted) in [(f64::INFINITY, Duration::MAX), (-1.0, Duration::ZERO)] {
        assert_eq!(seconds(given), wanted);
    }
    assert_eq!(limit(0.0), None);
    assert_eq!(limit(0.5), Some(Duration::from_millis(500)));
}
