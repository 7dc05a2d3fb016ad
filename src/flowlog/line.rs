//! The lines of the log, as JSON objects.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::{Count, Ended, Traffic, who::Who};
use crate::{
    alert::{Rfc3339, community_id, ecs::to_line},
    packet::Flow,
};

/// One line, without its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The JSON object.
    pub text: String,
    /// Flows that it stands for.
    pub flows: u64,
}

impl Line {
    pub(super) fn new(line: Map<String, Value>, flows: u64) -> Self {
        let mut line = line;
        line.insert("num_flows".into(), flows.into());
        Self {
            text: to_line(&Value::Object(line)),
            flows,
        }
    }
}

/// The line of flows that could not be logged, and why.
pub fn lost(flows: u64, why: &str, at: SystemTime) -> Line {
    let mut line = Map::new();
    times(&mut line, at, at);
    line.insert("lost".into(), why.into());
    Line::new(line, flows)
}

/// The line of one flow.
pub(super) fn flow(ended: &Ended) -> Line {
    let alert = &ended.alert;
    let mut line = Map::new();
    times(&mut line, alert.time, ended.end);
    verdict(&mut line, ended);
    endpoints(&mut line, &alert.flow);
    let source = &alert.source;
    Who::process(source).write(&mut line);
    let (natdst, natdpt) = match alert.nat_dst {
        Some((addr, port)) => (Some(addr.to_string()), port),
        None => (None, None),
    };
    for (key, value) in [
        ("alert_id", Some(alert.id.hyphenated().to_string().into())),
        ("spt", alert.flow.src_port().map(Value::from)),
        ("natdst", natdst.map(Value::from)),
        ("natdpt", natdpt.map(Value::from)),
        ("iface", alert.iface.as_deref().map(Value::from)),
        ("severity", Some(alert.severity.as_str().into())),
        ("attribution", Some(source.grade.as_str().into())),
        ("method", source.method.map(Value::from)),
        ("cause", source.cause.as_deref().map(Value::from)),
        ("community_id", community_id(&alert.flow).map(Value::from)),
        ("end_reason", Some(ended.reason.as_str().into())),
    ] {
        if let Some(value) = value {
            line.insert(key.to_owned(), value);
        }
    }
    traffic(&mut line, ended.traffic.as_ref());
    Line::new(line, 1)
}

pub(super) fn times(line: &mut Map<String, Value>, start: SystemTime, end: SystemTime) {
    line.insert("start".into(), Rfc3339(start).to_string().into());
    line.insert("end".into(), Rfc3339(end).to_string().into());
}

/// What every line with a verdict tells of the match.
pub(super) fn verdict(line: &mut Map<String, Value>, ended: &Ended) {
    let alert = &ended.alert;
    let feeds: Vec<&str> = alert.feeds.iter().map(|feed| feed.as_str()).collect();
    line.insert("verdict".into(), alert.action.as_str().into());
    if let Some(policy) = alert.policy.as_deref() {
        line.insert("policy".into(), policy.into());
    }
    line.insert("direction".into(), alert.direction.as_str().into());
    line.insert("feed".into(), json!(feeds));
    line.insert("indicator".into(), alert.indicator.to_string().into());
}

/// Addresses, protocol and the port that was called.
pub(super) fn endpoints(line: &mut Map<String, Value>, flow: &Flow) {
    line.insert("proto".into(), flow.proto.to_string().into());
    line.insert("src".into(), flow.src.to_string().into());
    line.insert("dst".into(), flow.dst.to_string().into());
    if let Some(port) = flow.dst_port() {
        line.insert("dpt".into(), port.into());
    }
}

pub(super) fn traffic(line: &mut Map<String, Value>, traffic: Option<&Traffic>) {
    let Some(traffic) = traffic else { return };
    let mut add = |way: &str, Count { packets, bytes }: Count| {
        line.insert(format!("{way}_packets"), packets.into());
        line.insert(format!("{way}_bytes"), bytes.into());
    };
    add("orig", traffic.orig);
    add("reply", traffic.reply);
}
