//! The alert as a Detection Finding of the Open Cybersecurity Schema Framework
//! (<https://schema.ocsf.io/1.6.0/classes/detection_finding>), with the profiles container, host, osint and
//! security_control.
//!
//! What OCSF has no attribute for is under `unmapped`.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::{
    Alert, community_id,
    ecs::{Observer, container_id_or_name, object, policy, text},
    line::{Loss, LossKind, loss_message, message},
};
use crate::{
    attribution::Source,
    feed::{Action, Direction, FeedName, Indicator, Severity},
};

const OCSF_VERSION: &str = "1.6.0";
const CATEGORY_FINDINGS: u32 = 2;
const CLASS_DETECTION_FINDING: u32 = 2004;
const ACTIVITY_CREATE: u32 = 1;

/// The Detection Finding of `alert`. Absent attributes are left out.
pub fn ocsf(alert: &Alert, observer: &Observer) -> Value {
    let (first, last) = alert.window.unwrap_or((alert.time, alert.time));
    let (severity_id, severity) = severity(alert.severity);
    let (action_id, action, disposition_id, disposition) = match alert.action {
        Action::Alert => (1, "Allowed", 19, "Alert"),
        Action::Deny => (2, "Denied", 2, "Blocked"),
    };
    let policy = object([("name", policy(alert))]);
    object([
        ("category_uid", Some(CATEGORY_FINDINGS.into())),
        ("category_name", Some("Findings".into())),
        ("class_uid", Some(CLASS_DETECTION_FINDING.into())),
        ("class_name", Some("Detection Finding".into())),
        ("activity_id", Some(ACTIVITY_CREATE.into())),
        ("activity_name", Some("Create".into())),
        (
            "type_uid",
            Some((CLASS_DETECTION_FINDING * 100 + ACTIVITY_CREATE).into()),
        ),
        ("time", Some(millis(alert.time).into())),
        ("start_time", Some(millis(first).into())),
        ("end_time", Some(millis(last).into())),
        ("count", Some(alert.count.into())),
        ("severity_id", Some(severity_id.into())),
        ("severity", Some(severity.into())),
        ("status_id", Some(1.into())),
        ("status", Some("New".into())),
        ("is_alert", Some(true.into())),
        ("message", Some(message(alert).into())),
        ("metadata", Some(metadata(observer, Some(alert)))),
        ("device", Some(device(observer))),
        ("finding_info", Some(finding_info(alert))),
        ("evidences", Some(json!([evidence(alert)]))),
        ("osint", Some(osint(alert))),
        ("action_id", Some(action_id.into())),
        ("action", Some(action.into())),
        ("disposition_id", Some(disposition_id.into())),
        ("disposition", Some(disposition.into())),
        ("firewall_rule", policy.clone()),
        ("policy", policy),
        ("unmapped", Some(unmapped(alert))),
    ])
    .unwrap_or_default()
}

/// The event that tells of alerts a sink did not get: a Base Event, since nothing was found.
pub fn ocsf_loss(loss: &Loss, observer: &Observer) -> Value {
    json!({
        "category_uid": 0,
        "class_uid": 0,
        "activity_id": 99,
        "activity_name": match loss.kind {
            LossKind::Undelivered => "alerts-lost",
            LossKind::Unattributed => "unattributed",
            LossKind::Unprotected => "unprotected",
            LossKind::HeldBack => "held-back",
        },
        "type_uid": 99,
        "time": millis(loss.time),
        "count": loss.count,
        "severity_id": 3,
        "severity": "Medium",
        "message": loss_message(loss),
        "metadata": metadata(observer, None),
        "unmapped": { "target": loss.target, "cause": loss.cause },
    })
}

fn metadata(observer: &Observer, alert: Option<&Alert>) -> Value {
    let id = alert.map(|alert| alert.id.hyphenated().to_string().into());
    let profiles = alert.map(|_| json!(["container", "host", "osint", "security_control"]));
    object([
        ("version", Some(OCSF_VERSION.into())),
        ("uid", id),
        (
            "product",
            Some(json!({
                "name": "feedgate",
                "vendor_name": "feedgate",
                "version": observer.version,
            })),
        ),
        ("profiles", profiles),
    ])
    .unwrap_or_default()
}

/// This host: its type is not known.
fn device(observer: &Observer) -> Value {
    json!({ "type_id": 0, "hostname": observer.hostname })
}

fn severity(severity: Severity) -> (u8, &'static str) {
    match severity {
        Severity::Low => (2, "Low"),
        Severity::Medium => (3, "Medium"),
        Severity::High => (4, "High"),
        Severity::Critical => (5, "Critical"),
    }
}

fn finding_info(alert: &Alert) -> Value {
    let (first, last) = alert.window.unwrap_or((alert.time, alert.time));
    let feeds: Vec<&str> = alert.feeds.iter().map(|feed| feed.as_str()).collect();
    let feeds = feeds.join(",");
    json!({
        "uid": alert.id.hyphenated().to_string(),
        "title": format!("Flow with an address of feed {feeds}"),
        "desc": message(alert),
        "analytic": { "type_id": 1, "type": "Rule", "name": feeds },
        "created_time": millis(alert.time),
        "first_seen_time": millis(first),
        "last_seen_time": millis(last),
    })
}

fn evidence(alert: &Alert) -> Value {
    let flow = &alert.flow;
    let source = &alert.source;
    // The machine behind the MAC address and the name is the one that the feed does not list.
    let endpoint = |addr: std::net::IpAddr, port: Option<u16>, is_ours: bool| {
        let client = is_ours.then_some(source);
        object([
            ("ip", Some(addr.to_string().into())),
            ("port", port.map(Value::from)),
            ("mac", client.and_then(|source| mac(&source.mac))),
            ("name", client.and_then(|source| text(&source.client))),
        ])
    };
    let egress = alert.direction == Direction::Egress;
    object([
        ("src_endpoint", endpoint(flow.src, flow.src_port(), egress)),
        ("dst_endpoint", endpoint(flow.dst, flow.dst_port(), !egress)),
        ("connection_info", connection(alert)),
        ("actor", actor(source)),
        ("container", container(source)),
    ])
    .unwrap_or_default()
}

fn connection(alert: &Alert) -> Option<Value> {
    let flow = &alert.flow;
    let (direction_id, direction) = match alert.direction {
        Direction::Ingress => (1, "Inbound"),
        Direction::Egress => (2, "Outbound"),
    };
    let number = flow.proto.0.to_string();
    let name = flow.proto.to_string();
    object([
        ("direction_id", Some(direction_id.into())),
        ("direction", Some(direction.into())),
        ("protocol_num", Some(flow.proto.0.into())),
        ("protocol_name", (name != number).then(|| name.into())),
        (
            "protocol_ver_id",
            Some(if flow.src.is_ipv4() { 4 } else { 6 }.into()),
        ),
        ("community_uid", community_id(flow).map(Value::from)),
    ])
}

fn actor(source: &Source) -> Option<Value> {
    object([
        ("process", process(source)),
        ("user", user(source)),
        ("app_name", text(&source.unit)),
    ])
}

/// OCSF knows a process by its pid: without one there is none.
fn process(source: &Source) -> Option<Value> {
    source.pid?;
    let file = source.exe.as_deref().map(|path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        json!({ "type_id": 1, "name": name, "path": path })
    });
    object([
        ("pid", source.pid.map(Value::from)),
        ("name", text(&source.comm)),
        ("cmd_line", text(&source.command_line)),
        ("file", file),
        (
            "created_time",
            source.started.map(|time| millis(time).into()),
        ),
        ("user", user(source)),
        (
            "parent_process",
            source.ppid.map(|pid| json!({ "pid": pid })),
        ),
    ])
}

fn user(source: &Source) -> Option<Value> {
    object([
        ("uid", source.uid.map(|uid| uid.to_string().into())),
        ("name", text(&source.user)),
    ])
}

fn container(source: &Source) -> Option<Value> {
    let (id, name) = container_id_or_name(source);
    id.or(name)?;
    let image = source
        .image
        .as_ref()
        .map(|image| json!({ "uid": image, "name": image }));
    let orchestrator = source.pod.as_ref().map(|_| Value::from("kubernetes"));
    object([
        ("uid", id.map(Value::from)),
        ("name", name.map(Value::from)),
        ("image", image),
        ("orchestrator", orchestrator),
    ])
}

/// One for each feed, and one for each further indicator of a scan, of which no feed is kept.
fn osint(alert: &Alert) -> Value {
    let entry = |of: &Indicator, feed: Option<&FeedName>| {
        let span = of.span;
        let subnet = (span.first() != span.last()).then(|| Value::from(span.to_string()));
        object([
            ("type_id", Some(1.into())),
            ("type", Some("IP Address".into())),
            ("value", Some(of.to_string().into())),
            ("subnet", subnet),
            ("vendor_name", feed.map(|feed| feed.as_str().into())),
        ])
    };
    let feeds = alert.feeds.iter();
    let feeds = feeds.filter_map(|feed| entry(&alert.indicator, Some(feed)));
    let further = alert.indicators().skip(1);
    feeds
        .chain(further.filter_map(|of| entry(of, None)))
        .collect()
}

fn unmapped(alert: &Alert) -> Value {
    let source = &alert.source;
    let held = u64::try_from(alert.held.as_micros()).unwrap_or(u64::MAX);
    let nat = alert.nat_dst.and_then(|(addr, port)| {
        object([
            ("ip", Some(addr.to_string().into())),
            ("port", port.map(Value::from)),
        ])
    });
    object([
        ("attribution", Some(source.grade.as_str().into())),
        ("attribution_method", source.method.map(Value::from)),
        ("attribution_cause", text(&source.cause)),
        ("exception", alert.exception.as_deref().map(Value::from)),
        ("interface", text(&alert.iface)),
        ("pod", text(&source.pod)),
        ("namespace", text(&source.namespace)),
        ("nat_dst_endpoint", nat),
        ("sources", alert.flood.as_ref().map(|f| f.sources.into())),
        ("held_us", alert.window.is_none().then(|| held.into())),
    ])
    .unwrap_or_default()
}

/// OCSF's pattern takes colons or dashes; only what is a MAC address.
fn mac(text: &Option<String>) -> Option<Value> {
    let text = text.as_deref()?;
    let is_mac = text.len() == 17
        && text
            .split(':')
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
    is_mac.then(|| text.into())
}

/// Milliseconds since 1970, as OCSF writes a time.
fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
