//! Who counted what, and the laws that the numbers must keep.

use std::{
    collections::BTreeMap,
    fmt,
    process::Command,
    time::{Duration, Instant},
};

use super::{CHURN, DENIED, TOGGLED, UNLISTED, WATCHED};
use crate::support::{Daemon, Lab, Meter, Rsyslog, eventually, within};

/// How long all numbers must stand still to be the last ones: the daemon reports what the kernel counted
/// every 5 seconds, and a summary every 10.
const QUIET: Duration = Duration::from_secs(12);

/// What a kill may take: the flows of so many seconds.
const SECONDS_A_KILL: u64 = 2;

/// The same of the store beside syslog: bursts of alerts of live flows, and a store that a debug build on a busy
/// machine writes late.
const SECONDS_OF_ALERTS: u64 = 4;

/// All numbers since the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// By address.
    sent: BTreeMap<String, u64>,
    /// By address, on the wire behind the host.
    arrived: BTreeMap<String, u64>,
    /// Flows in alerts of the store, by verdict and indicator.
    stored: BTreeMap<(String, String), u64>,
    /// Told to syslog: packets of denied and of watched addresses that the kernel judged alone.
    unattributed: [u64; 2],
    /// Alerts told to syslog.
    told: u64,
    /// Alerts in the store.
    alerts: u64,
    /// Told to syslog as lost.
    lost: u64,
}

/// Waits until nothing moves any more.
pub(super) fn settled(
    lab: &Lab,
    daemon: &Daemon<'_>,
    rsyslog: &Rsyslog,
    meter: &Meter<'_>,
    sent: &BTreeMap<String, u64>,
) -> Account {
    eventually("nothing waits", || {
        let status = daemon.status();
        let sinks = status["sinks"].as_array().unwrap();
        let idle = sinks
            .iter()
            .all(|sink| sink["queued"] == 0 && sink["spooled"] == 0);
        (idle && status["queue"]["waiting"] == 0).then_some(())
    });
    let mut seen = (Account::now(lab, rsyslog, meter), Instant::now());
    eventually("the numbers stand still", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = Account::now(lab, rsyslog, meter);
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        (seen.1.elapsed() > within(QUIET)).then_some(())
    });
    let mut account = seen.0;
    account.sent.clone_from(sent);
    account
}

impl Account {
    fn now(lab: &Lab, rsyslog: &Rsyslog, meter: &Meter<'_>) -> Self {
        let all = [&DENIED[..], &WATCHED, &UNLISTED, &[TOGGLED, CHURN]].concat();
        let arrived = all
            .iter()
            .map(|address| ((*address).to_owned(), meter.seen(address)));
        let mut account = Self {
            arrived: arrived.collect(),
            ..Self::default()
        };
        account.read_store(lab);
        account.read_syslog(rsyslog);
        account
    }

    fn read_store(&mut self, lab: &Lab) {
        // Live flows were counted when they began.
        let question = "SELECT action, indicator, count(*), \
             sum(iif(instr(body, '\"method\":\"live-flow\"'), 0, flows)) \
             FROM alert JOIN record USING (seq) GROUP BY 1, 2";
        let mut sqlite = Command::new("sqlite3");
        sqlite.args(["-readonly", "-cmd", ".timeout 20000"]);
        let output = sqlite
            .arg(lab.path("state/alerts.db"))
            .arg(question)
            .output();
        let output = output.expect("sqlite3 is installed");
        assert!(output.status.success(), "{output:?}");
        for row in String::from_utf8(output.stdout).unwrap().lines() {
            let cells: Vec<&str> = row.split('|').collect();
            let [action, indicator, alerts, flows] = cells[..] else {
                panic!("{row}")
            };
            self.alerts += alerts.parse::<u64>().unwrap();
            let key = (action.to_owned(), indicator.to_owned());
            self.stored.insert(key, flows.parse().unwrap());
        }
    }

    fn read_syslog(&mut self, rsyslog: &Rsyslog) {
        for record in rsyslog.records() {
            let value = |key: &str| {
                let (_, rest) = record.sd.split_once(&format!(" {key}=\""))?;
                Some(rest.split('"').next().unwrap_or_default().to_owned())
            };
            if value("id").is_some() {
                self.told += 1;
                continue;
            }
            let Some(count) = value("count").and_then(|count| count.parse::<u64>().ok()) else {
                continue;
            };
            match value("cause").unwrap_or_default() {
                cause if cause.contains("denied addresses were dropped") => {
                    self.unattributed[0] += count
                }
                cause if cause.contains("watched addresses were passed") => {
                    self.unattributed[1] += count
                }
                _ => self.lost += count,
            }
        }
    }

    /// What was added since `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        let less = |now: &BTreeMap<String, u64>, then: &BTreeMap<String, u64>| {
            let row =
                |(key, count): (&String, &u64)| (key.clone(), count - then.get(key).unwrap_or(&0));
            now.iter().map(row).collect()
        };
        let stored = self.stored.iter();
        let stored =
            stored.map(|(key, count)| (key.clone(), count - before.stored.get(key).unwrap_or(&0)));
        Self {
            sent: self.sent.clone(),
            arrived: less(&self.arrived, &before.arrived),
            stored: stored.collect(),
            unattributed: [0, 1].map(|at| self.unattributed[at] - before.unattributed[at]),
            told: self.told - before.told,
            alerts: self.alerts - before.alerts,
            lost: self.lost - before.lost,
        }
    }

    fn flows(&self, denied: bool) -> u64 {
        let rows = self.stored.iter();
        let of = rows.filter(|((action, _), _)| (action == "deny") == denied);
        of.map(|(_, flows)| flows).sum()
    }

    fn of(counts: &BTreeMap<String, u64>, addresses: &[&str]) -> u64 {
        addresses
            .iter()
            .filter_map(|address| counts.get(*address))
            .sum()
    }

    /// What a phase of so many seconds must keep, with so many kills while so many packets waited.
    pub(super) fn laws(&self, phase: &str, kills: u64, died: u64, seconds: u64) -> Vec<Law> {
        let sent: u64 = self.sent.values().sum();
        let arrived: u64 = self.arrived.values().sum();
        assert!(
            sent > seconds * 10,
            "{sent} flows in {seconds} s are no soak"
        );
        let watched = Self::of(&self.arrived, &WATCHED) + Self::of(&self.arrived, &[TOGGLED]);
        let tolerance = kills * SECONDS_A_KILL * sent / seconds + died;
        // There are more alerts than flows: those of live flows, some hundreds at once.
        let alerts = self.told.max(self.alerts);
        let alerts_lost = kills * SECONDS_OF_ALERTS * alerts / seconds + died;
        let denied_told = self.flows(true) + self.unattributed[0];
        let passed_told = self.flows(false) + self.unattributed[1];
        eprintln!(
            "{phase}: {sent} sent, {arrived} arrived; {} denied and {} others stored; unattributed {:?}; of {} stored \
             alerts {} told",
            self.flows(true),
            self.flows(false),
            self.unattributed,
            self.alerts,
            self.told
        );
        let row = |what: &str, found: u64, allowed: u64| {
            Law::within(&format!("{phase}: {what}"), found, allowed)
        };
        // Stable addresses: exactly what was sent, but for what was told without an address.
        let stable = |addresses: &[&str], denied, unattributed: u64| {
            let rows = self.stored.iter();
            let of = rows.filter(|((action, indicator), _)| {
                (action == "deny") == denied && addresses.contains(&indicator.as_str())
            });
            let stored: u64 = of.map(|(_, flows)| flows).sum();
            let sent = Self::of(&self.sent, addresses);
            sent.saturating_sub(stored + unattributed) + stored.saturating_sub(sent)
        };
        // A packet that is held while its address leaves or enters a list: the alert has the verdict of
        // before, the kernel's sets that of after. Lists change each second.
        let moving = tolerance + 2 * seconds;
        let unlisted = Self::of(&self.sent, &UNLISTED).abs_diff(Self::of(&self.arrived, &UNLISTED));
        vec![
            row(
                "arrivals at denied addresses",
                Self::of(&self.arrived, &DENIED),
                0,
            ),
            row("flows to unlisted addresses lost", unlisted, 0),
            row(
                &format!("of {} dropped flows not accounted for", sent - arrived),
                (sent - arrived).abs_diff(denied_told),
                moving,
            ),
            row(
                "flows to always denied addresses not accounted for",
                stable(&DENIED, true, self.unattributed[0]),
                tolerance,
            ),
            row(
                "flows to always watched addresses not accounted for",
                stable(&WATCHED, false, self.unattributed[1]),
                tolerance,
            ),
            row(
                &format!("of {watched} passed flows not accounted for"),
                watched.abs_diff(passed_told),
                moving,
            ),
            row(
                &format!("of {} stored alerts not told to syslog once", self.alerts),
                self.alerts.abs_diff(self.told),
                alerts_lost,
            ),
            row("told to syslog as lost", self.lost, alerts_lost),
        ]
    }
}

/// One line of the table at the end.
#[derive(Clone, Debug)]
pub(super) struct Law {
    what: String,
    found: f64,
    allowed: f64,
}

impl Law {
    pub(super) fn zero(what: &str, found: u64) -> Self {
        Self::within(what, found, 0)
    }

    fn within(what: &str, found: u64, allowed: u64) -> Self {
        let number = |count: u64| f64::from(u32::try_from(count).unwrap());
        Self::at_most(what, number(found), number(allowed))
    }

    pub(super) fn at_most(what: &str, found: f64, allowed: f64) -> Self {
        Self {
            what: what.to_owned(),
            found,
            allowed,
        }
    }

    pub(super) fn holds(&self) -> bool {
        self.found <= self.allowed
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds() { "" } else { "  VIOLATED" };
        let (found, allowed) = (self.found.round(), self.allowed);
        write!(f, "  {:<62} {found:>8} {allowed:>8}{verdict}", self.what)
    }
}
