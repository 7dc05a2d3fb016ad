//! How a self-test went, step by step. Pure.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::Seen;
use crate::{
    attribution::Source, control::Probed, daemon::status::rfc3339, feed::Action, sink::SinkStats,
};

/// The result of a self-test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Every step went as it should.
    pub passed: bool,
    /// False: nothing could be tested, `why` says why.
    pub testable: bool,
    /// Why nothing could be tested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When it began.
    #[serde(serialize_with = "as_text")]
    pub at: SystemTime,
    /// All of it, in microseconds.
    pub total_us: u128,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `set`, `send`, `queue`, `attribution`, `alert`, `verdict`, `drop`, `removal`.
    pub name: &'static str,
    /// It went as it should.
    pub ok: bool,
    /// How long it took, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub us: Option<u128>,
    /// What happened.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

fn as_text<S: serde::Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&rfc3339(Some(*at)).unwrap_or_default())
}

/// What is known at the end.
pub(super) struct Facts<'a> {
    pub(super) at: SystemTime,
    pub(super) addr: IpAddr,
    pub(super) set: Duration,
    pub(super) probed: &'a Probed,
    pub(super) seen: Option<&'a Seen>,
    pub(super) sinks_before: &'a [SinkStats],
    pub(super) sinks: &'a [SinkStats],
    pub(super) has_store: bool,
    /// Packets that the kernel's counter `denied` counted meanwhile.
    pub(super) counted: Option<u64>,
    pub(super) removal: Result<Duration, String>,
    pub(super) is_include: bool,
    /// No packet can be queued.
    pub(super) no_queue: bool,
    pub(super) queue: u16,
    pub(super) total: Duration,
}

impl Report {
    /// Nothing could be tested.
    pub(super) fn untestable(at: SystemTime, why: &str) -> Self {
        Self {
            passed: false,
            testable: false,
            why: Some(why.to_owned()),
            at,
            total_us: 0,
            steps: Vec::new(),
        }
    }

    /// The canary did not come into the kernel.
    pub(super) fn no_set(at: SystemTime, took: Duration, why: &str) -> Self {
        let text = format!("the canary is not in the kernel: {why}");
        let help = "`feedgate status` says what is wrong with the table";
        Self {
            passed: false,
            testable: true,
            why: None,
            at,
            total_us: took.as_micros(),
            steps: vec![bad("set", Some(took), text, help)],
        }
    }

    pub(super) fn of(facts: &Facts<'_>) -> Self {
        let text = format!("{} is in the kernel's deny set", facts.addr);
        let mut steps = vec![good("set", Some(facts.set), text)];
        steps.push(send(facts));
        if facts.probed.error.is_none() || facts.no_queue {
            steps.push(queue(facts));
        }
        if let Some(seen) = facts.seen {
            steps.push(attribution(seen, facts.probed.pid));
            steps.push(alert(facts, seen));
            steps.push(verdict(facts, seen));
        }
        if facts.probed.error.is_none() {
            steps.push(dropped(facts));
        }
        steps.push(match &facts.removal {
            Ok(took) => good(
                "removal",
                Some(*took),
                "the canary is out of the kernel".into(),
            ),
            Err(e) => bad(
                "removal",
                None,
                format!("the canary is still in the kernel: {e}"),
                "it harms nobody; `feedgate status` says what is wrong with the table",
            ),
        });
        Self {
            passed: steps.iter().all(|step| step.ok),
            testable: true,
            why: None,
            at: facts.at,
            total_us: facts.total.as_micros(),
            steps,
        }
    }

    /// The result in one line.
    pub fn line(&self) -> String {
        if let Some(why) = &self.why {
            return format!("the self-test is not possible: {why}");
        }
        let ms = self.total_us / 1_000;
        match self.steps.iter().find(|step| !step.ok) {
            None => format!("the self-test passed in {ms} ms"),
            Some(step) => {
                let help = step.help.as_deref().unwrap_or_default();
                format!(
                    "the self-test failed at {}: {}; {help}",
                    step.name, step.text
                )
            }
        }
    }
}

fn good(name: &'static str, took: Option<Duration>, text: String) -> Step {
    Step {
        name,
        ok: true,
        us: took.map(|took| took.as_micros()),
        text,
        help: None,
    }
}

fn bad(name: &'static str, took: Option<Duration>, text: String, help: &str) -> Step {
    Step {
        ok: false,
        help: Some(help.to_owned()),
        ..good(name, took, text)
    }
}

fn send(facts: &Facts<'_>) -> Step {
    match &facts.probed.error {
        None => {
            let text = format!("process {} sent one datagram to it", facts.probed.pid);
            good("send", None, text)
        }
        // Denied without being asked about: the sender is told at once.
        Some(why) if facts.no_queue => good("send", None, why.clone()),
        Some(why) => bad(
            "send",
            None,
            why.clone(),
            "a sandbox may forbid new processes or sockets; \"Operation not permitted\": another rule drops the packet before feedgate sees it",
        ),
    }
}

fn queue(facts: &Facts<'_>) -> Step {
    if facts.no_queue {
        let help = if facts.is_include {
            "include inspect.nft, or add a queue rule"
        } else {
            "the kernel needs CONFIG_NFT_QUEUE, or xt_NFQUEUE with nft_compat"
        };
        let text = "no packet can be queued: what is denied is dropped, and nobody is named".into();
        return bad("queue", None, text, help);
    }
    let Some(seen) = facts.seen else {
        let help = if facts.is_include {
            "does a chain of yours in hook output jump to the chain of inspect.nft, and does its queue rule name this number?"
        } else {
            "run it in the daemon's network namespace; `feedgate status` says how packets are queued; `nft list ruleset` shows rules that take packets first"
        };
        let text = format!("no packet came to queue {}", facts.queue);
        return bad("queue", None, text, help);
    };
    let sent = facts.probed.sent_us.map(Duration::from_micros);
    let arrived = seen.at.duration_since(SystemTime::UNIX_EPOCH).ok();
    let took = arrived
        .zip(sent)
        .map(|(arrived, sent)| arrived.saturating_sub(sent));
    let text = format!("it was held in queue {}", facts.queue);
    good("queue", took, text)
}

fn attribution(seen: &Seen, pid: u32) -> Step {
    let Source {
        grade,
        method,
        cause,
        comm,
        ..
    } = &seen.source;
    let took = Some(seen.attribution);
    let method = method.unwrap_or("nothing");
    let comm = comm.as_deref().unwrap_or("-");
    match seen.source.pid {
        Some(found) if found == pid => {
            let text = format!("process {pid} ({comm}) was found, {grade} by {method}");
            good("attribution", took, text)
        }
        Some(found) => bad(
            "attribution",
            took,
            format!("process {found} ({comm}) was found, {grade} by {method}, and it was {pid}"),
            "is this command in another PID namespace than the daemon? Otherwise please report it",
        ),
        None => {
            let cause = cause.as_deref().unwrap_or("no cause is known");
            bad(
                "attribution",
                took,
                format!("process {pid} was not found: {cause}"),
                "see \"An alert without a process\" in docs/troubleshooting.md",
            )
        }
    }
}

fn alert(facts: &Facts<'_>, seen: &Seen) -> Step {
    let took = Some(seen.alert);
    let sent_before = |name: &str| {
        let old = facts.sinks_before.iter().find(|sink| sink.name == name);
        old.map_or(0, |sink| sink.sent)
    };
    let mut words = Vec::new();
    let mut failed = false;
    for sink in facts.sinks {
        if sink.sent > sent_before(&sink.name) {
            words.push(format!("{} sent", sink.name));
        } else if let Some(error) = &sink.last_error {
            failed = true;
            words.push(format!("{} failed ({error})", sink.name));
        } else {
            failed = true;
            words.push(format!("{} still waits", sink.name));
        }
    }
    if facts.has_store {
        words.push("stored".to_owned());
    }
    let text = words.join(", ");
    if words.is_empty() {
        let text = "there is no target and no store: nobody hears of alerts";
        return bad("alert", took, text.into(), "add a [[alerts.syslog]]");
    }
    if failed {
        return bad("alert", took, text, "`feedgate status` shows the targets");
    }
    good("alert", took, text)
}

fn verdict(facts: &Facts<'_>, seen: &Seen) -> Step {
    let took = Some(seen.held);
    if seen.action != Action::Deny {
        let text = "the daemon let it pass".to_owned();
        let help = "a policy decided otherwise: `feedgate get globalnetworkpolicy`";
        return bad("verdict", took, text, help);
    }
    match facts.counted {
        Some(0) => bad(
            "verdict",
            took,
            "it was denied, and the kernel's counter `denied` did not count it".into(),
            "does another program remove the mark of packets (mark-mask)? `feedgate nft print` shows the guard chain that asks for it",
        ),
        Some(_) => good("verdict", took, "denied, and counted by the kernel".into()),
        None => good("verdict", took, "denied".into()),
    }
}

fn dropped(facts: &Facts<'_>) -> Step {
    match &facts.probed.again {
        Some(why) => good(
            "drop",
            None,
            format!("the next datagram of the same flow was refused by the kernel: {why}"),
        ),
        None if facts.is_include && facts.seen.is_some() => good(
            "drop",
            None,
            "not shown in mode include: your rules need not remember verdicts".into(),
        ),
        None => bad(
            "drop",
            None,
            "the next datagrams of the same flow were not refused".into(),
            "are the guard chains of the table there (`feedgate nft print`, `nft list table inet feedgate`)?",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::Grade;

    fn seen() -> Seen {
        Seen {
            at: SystemTime::UNIX_EPOCH + Duration::from_micros(1_500),
            source: Source {
                grade: Grade::Exact,
                method: Some("sock-diag"),
                pid: Some(7),
                ..Source::default()
            },
            attribution: Duration::from_micros(200),
            alert: Duration::from_micros(20),
            action: Action::Deny,
            held: Duration::from_micros(300),
        }
    }

    fn probed() -> Probed {
        Probed {
            pid: 7,
            sent_us: Some(1_000),
            error: None,
            again: Some("Operation not permitted (os error 1)".into()),
        }
    }

    fn sink(sent: u64, error: Option<&str>) -> SinkStats {
        SinkStats {
            name: "unix:/dev/log".into(),
            sent,
            queued: 0,
            spooled: 0,
            dropped: 0,
            last_error: error.map(str::to_owned),
        }
    }

    /// The name of the first failed step, or `passed`; and its text.
    fn of(
        change: impl FnOnce(&mut Probed, &mut Option<Seen>, &mut SinkStats, &mut Option<u64>),
    ) -> (String, String) {
        let (mut probed, mut seen, mut after, mut counted) =
            (probed(), Some(seen()), sink(4, None), Some(1));
        change(&mut probed, &mut seen, &mut after, &mut counted);
        let before = [sink(3, None)];
        let report = Report::of(&Facts {
            at: SystemTime::UNIX_EPOCH,
            addr: "203.0.113.254".parse().unwrap(),
            set: Duration::from_millis(2),
            probed: &probed,
            seen: seen.as_ref(),
            sinks_before: &before,
            sinks: &[after],
            has_store: true,
            counted,
            removal: Ok(Duration::from_millis(1)),
            is_include: false,
            no_queue: false,
            queue: 4470,
            total: Duration::from_millis(9),
        });
        let failed = report.steps.iter().find(|step| !step.ok);
        assert_eq!(report.passed, failed.is_none());
        assert!(
            report
                .steps
                .iter()
                .all(|step| step.ok == step.help.is_none())
        );
        let name = failed.map_or("passed", |step| step.name).to_owned();
        (name, report.line())
    }

    #[test]
    fn each_step_that_fails_says_so_itself() {
        assert_eq!(
            of(|_, _, _, _| {}),
            ("passed".into(), "the self-test passed in 9 ms".into())
        );
        let cases = [
            (
                "send",
                of(|probed, seen, _, _| {
                    probed.error = Some("the child process could not send: x".into());
                    *seen = None;
                }),
            ),
            ("queue", of(|_, seen, _, _| *seen = None)),
            (
                "attribution",
                of(|_, seen, _, _| seen.as_mut().unwrap().source.pid = Some(8)),
            ),
            (
                "attribution",
                of(|_, seen, _, _| seen.as_mut().unwrap().source.pid = None),
            ),
            ("alert", of(|_, _, sink, _| sink.sent = 3)),
            (
                "alert",
                of(|_, _, sink, _| (sink.sent, sink.last_error) = (3, Some("gone".into()))),
            ),
            (
                "verdict",
                of(|_, seen, _, _| seen.as_mut().unwrap().action = Action::Alert),
            ),
            ("verdict", of(|_, _, _, counted| *counted = Some(0))),
            ("drop", of(|probed, _, _, _| probed.again = None)),
        ];
        let mut lines = std::collections::BTreeSet::new();
        for (expect, (name, line)) in cases {
            assert_eq!(name, expect, "{line}");
            assert!(line.contains(&format!("failed at {expect}: ")), "{line}");
            assert!(lines.insert(line));
        }
    }

    #[test]
    fn what_cannot_be_tested_is_no_failure_of_a_step() {
        let report = Report::untestable(SystemTime::UNIX_EPOCH, "no hook");
        assert!(!report.passed && !report.testable);
        assert_eq!(report.line(), "the self-test is not possible: no hook");
        let report = Report::no_set(SystemTime::UNIX_EPOCH, Duration::ZERO, "refused");
        assert!(report.testable && report.line().contains("failed at set"));
    }
}
