//! Ended flows into lines: each, or sums by source or by indicator.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use serde_json::{Map, Value};

use super::{
    Ended, Line, Traffic,
    crowd::{Crowd, INGRESS_LINES, Match},
    line::{self, endpoints, times, traffic, verdict},
    who::Who,
};
use crate::{
    alert::suppress::Distinct,
    feed::{Action, Direction, FeedName, Indicator},
    packet::Protocol,
};

/// Most sums that are kept at once: about 10 MB. Flows beyond them are summed by verdict alone.
pub const MAX_GROUPS: usize = 16_384;
/// Floods that are summed up at once; each takes some 10 kB.
const FLOODS: usize = 1_024;

/// How much lines are summed up (`flow-log-aggregation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A line for each flow.
    Flows,
    /// A line for each process (or other source), destination and match: ports of the source are dropped.
    Sources,
    /// A line for each workload and indicator: processes, addresses and ports are dropped.
    Indicators,
}

impl From<u8> for Level {
    fn from(level: u8) -> Self {
        match level {
            0 => Self::Flows,
            1 => Self::Sources,
            _ => Self::Indicators,
        }
    }
}

/// What flows of one sum have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Group {
    who: Who,
    action: Action,
    policy: Option<Arc<str>>,
    direction: Direction,
    feeds: Vec<FeedName>,
    indicator: Indicator,
    /// Source, destination, protocol and port of the destination; by source only.
    ends: Option<(IpAddr, IpAddr, Protocol, Option<u16>)>,
    /// The source address, where nothing else is known of the source; by indicator only.
    src: Option<IpAddr>,
}

/// A sum of flows.
#[derive(Debug)]
struct Sum {
    /// One of them, for what they have in common.
    first: Ended,
    flows: u64,
    /// Flows that nobody counted.
    uncounted: u64,
    start: SystemTime,
    end: SystemTime,
    traffic: Option<Traffic>,
}

impl Sum {
    fn new(ended: Ended) -> Self {
        Self {
            flows: 1,
            uncounted: u64::from(ended.traffic.is_none()),
            start: ended.alert.time,
            end: ended.end,
            traffic: ended.traffic,
            first: ended,
        }
    }

    fn add(&mut self, more: &Ended) {
        self.flows += 1;
        self.uncounted += u64::from(more.traffic.is_none());
        self.start = self.start.min(more.alert.time);
        self.end = self.end.max(more.end);
        if let Some(traffic) = &more.traffic {
            self.traffic.get_or_insert_default().add(traffic);
        }
    }

    /// Adds what all sums have, and ends the line.
    fn line(&self, mut line: Map<String, Value>) -> Line {
        times(&mut line, self.start, self.end);
        traffic(&mut line, self.traffic.as_ref());
        if self.uncounted > 0 {
            line.insert("num_uncounted".into(), self.uncounted.into());
        }
        Line::new(line, self.flows)
    }
}

/// Sums of one interval.
#[derive(Debug)]
pub struct Aggregator {
    level: Level,
    max: usize,
    groups: HashMap<Group, Sum>,
    crowd: Crowd,
    /// Flows of what comes in beyond the first sources of one match.
    floods: HashMap<Match, (Sum, Distinct)>,
    /// By verdict: what came when there were too many groups or floods.
    others: BTreeMap<Action, Sum>,
}

impl Aggregator {
    /// Sums at `level`.
    pub fn new(level: Level) -> Self {
        Self::with_capacity(level, MAX_GROUPS)
    }

    /// As [`Aggregator::new`], with at most `max` sums.
    pub fn with_capacity(level: Level, max: usize) -> Self {
        Self {
            level,
            max,
            groups: HashMap::new(),
            crowd: Crowd::new(INGRESS_LINES),
            floods: HashMap::new(),
            others: BTreeMap::new(),
        }
    }

    /// Takes a flow; gives its line at once where each has one.
    pub fn add(&mut self, ended: Ended) -> Option<Line> {
        let group = Group::of(self.level, &ended);
        if let Some(sum) = group.as_ref().and_then(|group| self.groups.get_mut(group)) {
            sum.add(&ended);
            return None;
        }
        let alert = &ended.alert;
        if alert.direction == Direction::Ingress {
            let of = Match::of(alert);
            if !self.crowd.takes(alert, &of) {
                self.flood(of, ended);
                return None;
            }
        }
        let Some(group) = group else {
            return Some(line::flow(&ended));
        };
        if self.groups.len() < self.max {
            self.groups.insert(group, Sum::new(ended));
        } else {
            self.other(ended);
        }
        None
    }

    fn flood(&mut self, of: Match, ended: Ended) {
        let source = ended.alert.flow.src;
        if let Some((sum, sources)) = self.floods.get_mut(&of) {
            sum.add(&ended);
            sources.add(&source);
        } else if self.floods.len() < FLOODS {
            let mut sources = Distinct::default();
            sources.add(&source);
            self.floods.insert(of, (Sum::new(ended), sources));
        } else {
            self.other(ended);
        }
    }

    fn other(&mut self, ended: Ended) {
        if let Some(sum) = self.others.get_mut(&ended.alert.action) {
            sum.add(&ended);
        } else {
            self.others.insert(ended.alert.action, Sum::new(ended));
        }
    }

    /// The lines of all sums, by their start; the next interval begins.
    pub fn flush(&mut self) -> Vec<Line> {
        let mut sums: Vec<(Group, Sum)> = self.groups.drain().collect();
        sums.sort_by_key(|(_, sum)| sum.start);
        let mut lines: Vec<Line> = sums.iter().map(|(group, sum)| group.line(sum)).collect();
        self.crowd.clear();
        let mut floods: Vec<(Sum, Distinct)> =
            self.floods.drain().map(|(_, flood)| flood).collect();
        floods.sort_by_key(|(sum, _)| sum.start);
        for (sum, sources) in floods {
            let mut line = Map::new();
            verdict(&mut line, &sum.first);
            line.insert("sources".into(), sources.count().0.into());
            lines.push(sum.line(line));
        }
        for (action, sum) in std::mem::take(&mut self.others) {
            let mut line = Map::new();
            line.insert("verdict".into(), action.as_str().into());
            line.insert("others".into(), true.into());
            lines.push(sum.line(line));
        }
        lines
    }
}

impl Group {
    /// The sum that a flow belongs to; `None`: to none, it has a line of its own.
    fn of(level: Level, ended: &Ended) -> Option<Self> {
        let alert = &ended.alert;
        let flow = &alert.flow;
        let (who, ends) = match level {
            Level::Flows => return None,
            Level::Sources => {
                let ends = (flow.src, flow.dst, flow.proto, flow.dst_port());
                (Who::process(&alert.source), Some(ends))
            }
            Level::Indicators => (Who::workload(&alert.source), None),
        };
        let src = (ends.is_none() && who.is_unknown()).then_some(flow.src);
        Some(Self {
            who,
            action: alert.action,
            policy: alert.policy.clone(),
            direction: alert.direction,
            feeds: alert.feeds.clone(),
            indicator: alert.indicator,
            ends,
            src,
        })
    }

    fn line(&self, sum: &Sum) -> Line {
        let mut line = Map::new();
        verdict(&mut line, &sum.first);
        self.who.write(&mut line);
        if self.ends.is_some() {
            endpoints(&mut line, &sum.first.alert.flow);
        }
        if let Some(src) = self.src {
            line.insert("src".into(), src.to_string().into());
        }
        sum.line(line)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{
        alert::{Alert, example},
        attribution::Source,
        flowlog::{Book, Count, Reason},
        packet::Transport,
    };

    fn ended(change: impl Fn(&mut Alert)) -> Ended {
        let mut alert = example::alert();
        alert.action = Action::Alert;
        change(&mut alert);
        let way = |bytes| Count { packets: 2, bytes };
        Ended {
            end: alert.time + Duration::from_secs(3),
            alert: Box::new(alert),
            traffic: Some(Traffic {
                orig: way(100),
                reply: way(1000),
            }),
            reason: Reason::Ended,
        }
    }

    fn value(line: &Line) -> Value {
        serde_json::from_str(&line.text).unwrap()
    }

    #[test]
    fn a_line_for_each_flow() {
        let mut all = Aggregator::new(Level::Flows);
        let line = all.add(ended(|_| {})).unwrap();
        assert_eq!(
            value(&line),
            json!({
                "start": "2026-08-06T07:06:40.123456Z", "end": "2026-08-06T07:06:43.123456Z",
                "verdict": "alert", "direction": "egress", "feed": ["ipsum"], "indicator": "10.48.255.194",
                "severity": "medium", "proto": "tcp", "src": "10.0.0.1", "spt": 4711,
                "dst": "10.48.255.194", "dpt": 80, "iface": "eth0", "attribution": "exact", "method": "sock-diag",
                "uid": 1001, "user": "red", "pid": 1234, "exe": "/usr/bin/curl", "comm": "curl",
                "unit": "cron.service", "community_id": "1:OHtovGbttPq2UT6l3DTkAdYbV1E=",
                "alert_id": "0190a5c8-7c1e-7000-8000-000000000001", "num_flows": 1,
                "orig_packets": 2, "orig_bytes": 100, "reply_packets": 2, "reply_bytes": 1000,
                "end_reason": "ended",
            })
        );
        assert_eq!(all.flush(), []);
    }

    #[test]
    fn by_source_the_ports_of_the_source_are_dropped() {
        let mut all = Aggregator::new(Level::Sources);
        for port in [1, 2, 3] {
            let flow = ended(|alert| {
                alert.flow.transport = Transport::Ports { src: port, dst: 80 };
                alert.time += Duration::from_secs(port.into());
            });
            assert_eq!(all.add(flow), None);
        }
        let mut uncounted = ended(|_| {});
        uncounted.traffic = None;
        assert_eq!(all.add(uncounted), None);
        assert_eq!(all.add(ended(|alert| alert.source.pid = Some(9))), None);
        let lines = all.flush();
        let mut lines: Vec<Value> = lines.iter().map(value).collect();
        lines.sort_by_key(|line| line["pid"].as_u64());
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["num_flows"], 1);
        let sum = &lines[1];
        assert_eq!(
            (&sum["num_flows"], &sum["num_uncounted"]),
            (&json!(4), &json!(1))
        );
        assert_eq!(
            (&sum["orig_bytes"], &sum["reply_packets"]),
            (&json!(300), &json!(6))
        );
        assert_eq!(sum["start"], "2026-08-06T07:06:40.123456Z");
        assert_eq!(sum["end"], "2026-08-06T07:06:46.123456Z");
        assert_eq!((&sum["dpt"], &sum["spt"]), (&json!(80), &Value::Null));
        assert_eq!(all.flush(), [], "the next interval is empty");
    }

    #[test]
    fn by_indicator_only_the_workload_is_told() {
        let mut all = Aggregator::new(Level::Indicators);
        for pid in [1, 2] {
            let flow = ended(|alert| {
                alert.source.pid = Some(pid);
                alert.source.comm = Some(format!("worker{pid}"));
                alert.flow.dst = format!("10.48.255.{pid}").parse().unwrap();
            });
            assert_eq!(all.add(flow), None);
        }
        for _ in 0..2 {
            let stranger = ended(|alert| alert.source = Source::default());
            assert_eq!(all.add(stranger), None);
        }
        let lines: Vec<Value> = all.flush().iter().map(value).collect();
        assert_eq!(lines.len(), 2);
        let known = lines.iter().find(|line| line["unit"].is_string()).unwrap();
        assert_eq!(
            (&known["num_flows"], &known["user"]),
            (&json!(2), &json!("red"))
        );
        for absent in ["pid", "exe", "comm", "src", "dst", "dpt", "proto"] {
            assert_eq!(known[absent], Value::Null, "{absent}");
        }
        let stranger = lines.iter().find(|line| !line["unit"].is_string()).unwrap();
        assert_eq!(
            (&stranger["num_flows"], &stranger["src"]),
            (&json!(2), &json!("10.0.0.1"))
        );
        for policy in [
            None,
            Some("default.a"),
            Some("default.b"),
            Some("default.b"),
        ] {
            let flow = ended(|alert| alert.policy = policy.map(Into::into));
            assert_eq!(all.add(flow), None);
        }
        let mut lines: Vec<Value> = all.flush().iter().map(value).collect();
        lines.sort_by_key(|line| line["policy"].to_string());
        let sums = lines
            .iter()
            .map(|line| (&line["policy"], &line["num_flows"]));
        assert_eq!(
            sums.collect::<Vec<_>>(),
            [
                (&json!("default.a"), &json!(1)),
                (&json!("default.b"), &json!(2)),
                (&Value::Null, &json!(1)),
            ]
        );
    }

    #[test]
    fn too_many_sums_become_one_by_verdict() {
        let mut all = Aggregator::with_capacity(Level::Sources, 1);
        for pid in 0..5 {
            assert_eq!(all.add(ended(|alert| alert.source.pid = Some(pid))), None);
        }
        let lines: Vec<Value> = all.flush().iter().map(value).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["others"], true);
        assert_eq!(
            (&lines[1]["num_flows"], &lines[1]["verdict"]),
            (&json!(4), &json!("alert"))
        );
        assert_eq!(lines[1]["orig_bytes"], 400);
    }

    /// A flow of the `n`th of many sources that one prefix lists.
    fn from_outside(n: u32) -> Ended {
        ended(|alert| {
            alert.direction = Direction::Ingress;
            alert.source = Source::default();
            alert.flow.src = std::net::Ipv4Addr::from(0xc612_0000 + n).into();
            alert.indicator = "198.18.0.0/15".parse().unwrap();
        })
    }

    #[test]
    fn a_flood_is_twenty_sources_and_a_sum() {
        for level in [Level::Flows, Level::Sources, Level::Indicators] {
            let mut all = Aggregator::new(level);
            let at_once: Vec<Line> = (0..20_000)
                .filter_map(|n| all.add(from_outside(n)))
                .collect();
            let again = all.add(from_outside(3));
            let lines: Vec<Line> = at_once
                .into_iter()
                .chain(again)
                .chain(all.flush())
                .collect();
            let flows: u64 = lines.iter().map(|line| line.flows).sum();
            assert_eq!(flows, 20_001, "{level:?}");
            let most = if level == Level::Flows { 22 } else { 21 };
            assert_eq!(lines.len(), most, "{level:?}");
            let sum = value(lines.last().unwrap());
            assert_eq!(sum["num_flows"], 19_980);
            assert_eq!(sum["orig_bytes"], 1_998_000);
            assert_eq!(
                (&sum["src"], &sum["indicator"]),
                (&Value::Null, &json!("198.18.0.0/15"))
            );
            let sources = sum["sources"].as_u64().unwrap();
            assert!(sources.abs_diff(19_980) < 2_000, "{sources}");
            assert_eq!(all.flush(), [], "the next interval is empty");
        }
    }

    #[test]
    fn made_up_sources_of_many_indicators_are_bounded_too() {
        let mut all = Aggregator::new(Level::Flows);
        let host = |n: u32| {
            let mut flow = from_outside(n);
            flow.alert.indicator = crate::prefix::Prefix::host(flow.alert.flow.src).into();
            flow
        };
        let mut lines: Vec<Line> = (0..50_000).filter_map(|n| all.add(host(n))).collect();
        assert_eq!(lines.len(), INGRESS_LINES);
        assert!(
            all.add(ended(|_| {})).is_some(),
            "what goes out has its line"
        );
        lines.extend(all.flush());
        assert_eq!(lines.iter().map(|line| line.flows).sum::<u64>(), 50_000);
        assert_eq!(lines.len(), INGRESS_LINES + FLOODS + 1);
    }

    /// One step of a log.
    #[derive(Clone, Debug)]
    enum Step {
        Begin {
            port: u16,
            pid: u32,
            deny: bool,
            live: bool,
        },
        End {
            port: u16,
            counted: bool,
        },
        See {
            port: u16,
        },
        Sweep,
        Flush,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u16..6, 0u32..4, any::<bool>(), any::<bool>())
                .prop_map(|(port, pid, deny, live)| Step::Begin { port, pid, deny, live }),
            3 => (0u16..6, any::<bool>()).prop_map(|(port, counted)| Step::End { port, counted }),
            1 => (0u16..6).prop_map(|port| Step::See { port }),
            1 => Just(Step::Sweep),
            1 => Just(Step::Flush),
        ]
    }

    proptest! {
        #[test]
        fn every_flow_is_in_one_line(
            steps in prop::collection::vec(step(), 0..200),
            level in 0u8..3,
            max_open in 0usize..6,
            max_groups in 0usize..6,
        ) {
            let mut book = Book::with_capacity(max_open);
            let mut all = Aggregator::with_capacity(level.into(), max_groups);
            let now = Instant::now();
            let (mut flows, mut told, mut bytes, mut told_bytes) = (0, 0, 0, 0);
            let mut lines = Vec::new();
            for (at, step) in (0u64..).zip(steps) {
                let instant = now + Duration::from_secs(at);
                let time = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000 + at);
                let flow = |port| Transport::Ports { src: port, dst: 80 };
                let mut alert = example::alert();
                let mut over = Vec::new();
                match step {
                    Step::Begin { port, pid, deny, live } => {
                        alert.flow.transport = flow(port);
                        alert.source.pid = Some(pid);
                        alert.action = if deny { Action::Deny } else { Action::Alert };
                        alert.source.method = live.then_some("live-flow");
                        flows += 1;
                        over.extend(book.begin(Box::new(alert), instant));
                    }
                    Step::End { port, counted } => {
                        alert.flow.transport = flow(port);
                        let traffic = counted.then(|| Traffic {
                            orig: Count { packets: 1, bytes: 7 },
                            reply: Count::default(),
                        });
                        let ended = book.end(&alert.flow, traffic, time);
                        bytes += ended.iter().filter_map(|ended| ended.traffic).count() * 7;
                        over.extend(ended);
                    }
                    Step::See { port } => {
                        alert.flow.transport = flow(port);
                        book.see(&alert.flow, None);
                    }
                    Step::Sweep => over.extend(book.sweep(instant, time)),
                    Step::Flush => lines.extend(all.flush()),
                }
                lines.extend(over.into_iter().filter_map(|ended| all.add(ended)));
                prop_assert!(book.len() <= max_open && all.groups.len() <= max_groups);
            }
            lines.extend(book.drain(SystemTime::UNIX_EPOCH).into_iter().filter_map(|ended| all.add(ended)));
            lines.extend(all.flush());
            for line in &lines {
                let value = value(line);
                prop_assert_eq!(&value["num_flows"], &json!(line.flows));
                prop_assert!(value["start"].as_str() <= value["end"].as_str());
                told += line.flows;
                told_bytes += value["orig_bytes"].as_u64().unwrap_or(0);
            }
            prop_assert_eq!(told, flows);
            prop_assert_eq!(told_bytes, u64::try_from(bytes).unwrap());
        }

        #[test]
        fn a_line_is_one_visible_line(alert in example::any_alert(), level in 0u8..3) {
            let mut all = Aggregator::new(level.into());
            let ended = Ended { end: alert.time, alert: Box::new(alert), traffic: None, reason: Reason::Gone };
            let line = all.add(ended).or_else(|| all.flush().pop()).unwrap();
            prop_assert!(!line.text.chars().any(char::is_control));
            prop_assert!(value(&line).is_object());
        }
    }
}
