//! The alert as Suricata's EVE log writes one (<https://docs.suricata.io/en/latest/output/eve/eve-json-format.html>).
//!
//! Suricata's schema is closed: it has no place for a process, container or LAN client but
//! `alert.metadata`, whose keys are free and whose values are lists of texts. All of the attribution
//! is there.

use serde_json::{Map, Value, json};

use super::{
    Alert, community_id,
    ecs::{Observer, object},
    element::{Rfc3339, exe},
    line::{Loss, loss_message},
};
use crate::{
    feed::{Action, Direction, Severity},
    packet::{Protocol, Transport},
};

/// Suricata's own signatures have generator 1.
const GENERATOR: u32 = 32473;
/// Numbers up to this one survive a reader that takes them as floating point.
const EXACT_BITS: u32 = 53;
/// What Emerging Threats' block list rules say (classtype misc-attack).
const CATEGORY: &str = "Misc Attack";

/// The EVE event of `alert`. Absent fields are left out.
pub fn eve(alert: &Alert, observer: &Observer) -> Value {
    let flow = &alert.flow;
    let (kind, code) = match flow.transport {
        Transport::Icmp { kind, code, .. } => (Some(kind.into()), Some(code.into())),
        _ => (None, None),
    };
    let ether = object([("src_mac", alert.source.mac.as_deref().map(Value::from))]);
    // The MAC address is the one of the machine on this side, which is the sender of an outgoing flow.
    let ether = ether.filter(|_| alert.direction == Direction::Egress);
    object([
        ("timestamp", Some(time(alert.time).into())),
        ("flow_id", Some(flow_id(alert).into())),
        ("in_iface", alert.iface.as_deref().map(Value::from)),
        ("event_type", Some("alert".into())),
        ("src_ip", Some(flow.src.to_string().into())),
        ("src_port", flow.src_port().map(Value::from)),
        ("dest_ip", Some(flow.dst.to_string().into())),
        ("dest_port", flow.dst_port().map(Value::from)),
        ("proto", Some(protocol(flow.proto).into())),
        ("ip_v", Some(if flow.src.is_ipv4() { 4 } else { 6 }.into())),
        ("icmp_type", kind),
        ("icmp_code", code),
        // The packet that is judged is the first one, from the client.
        ("direction", Some("to_server".into())),
        ("community_id", community_id(flow).map(Value::from)),
        ("host", Some(observer.hostname.clone().into())),
        ("ether", ether),
        ("alert", Some(signature(alert))),
        ("verdict", Some(json!({ "action": verdict(alert.action) }))),
        ("flow", Some(json!({ "start": time(first(alert)) }))),
    ])
    .unwrap_or_default()
}

/// The EVE event that tells of alerts a sink did not get: a message of the engine.
pub fn eve_loss(loss: &Loss, observer: &Observer) -> Value {
    json!({
        "timestamp": time(loss.time),
        "event_type": "engine",
        "log_level": "Warning",
        "host": observer.hostname,
        "engine": { "message": loss_message(loss) },
    })
}

fn signature(alert: &Alert) -> Value {
    let feeds: Vec<&str> = alert.feeds.iter().map(|feed| feed.as_str()).collect();
    let preposition = match alert.direction {
        Direction::Egress => "to",
        Direction::Ingress => "from",
    };
    let text = format!(
        "feedgate: flow {preposition} an address of feed {}",
        feeds.join(",")
    );
    let (listed, ours) = match alert.direction {
        Direction::Egress => (alert.flow.dst, alert.flow.src),
        Direction::Ingress => (alert.flow.src, alert.flow.dst),
    };
    json!({
        "action": match alert.action {
            Action::Alert => "allowed",
            Action::Deny => "blocked",
        },
        "gid": GENERATOR,
        "signature_id": signature_id(&text),
        "rev": 1,
        "signature": text,
        "category": CATEGORY,
        "severity": severity(alert.severity),
        "source": { "ip": listed.to_string() },
        "target": { "ip": ours.to_string() },
        "metadata": metadata(alert),
    })
}

/// The same for the same feeds and direction, also after a restart and on other hosts: FNV-1a, 31 bits.
fn signature_id(text: &str) -> u32 {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    (hash & (u32::MAX >> 1)).max(1)
}

/// The last bits of the alert's id, which are random.
fn flow_id(alert: &Alert) -> u64 {
    let (_, low) = alert.id.as_u64_pair();
    low & ((1 << EXACT_BITS) - 1)
}

/// Suricata counts from 1, the most urgent.
fn severity(severity: Severity) -> u8 {
    match severity {
        Severity::Critical => 1,
        Severity::High => 2,
        Severity::Medium => 3,
        Severity::Low => 4,
    }
}

fn verdict(action: Action) -> &'static str {
    match action {
        Action::Alert => "alert",
        Action::Deny => "drop",
    }
}

/// As Suricata names them: `TCP`, `IPv6-ICMP`, three digits for a number without a name.
fn protocol(proto: Protocol) -> String {
    match proto {
        Protocol::ICMPV6 => "IPv6-ICMP".to_owned(),
        Protocol(number) if proto.to_string() == number.to_string() => format!("{number:03}"),
        proto => proto.to_string().to_uppercase(),
    }
}

fn metadata(alert: &Alert) -> Value {
    let source = &alert.source;
    let mut map = Map::new();
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            map.insert(key.to_owned(), json!([value]));
        }
    };
    let number = |value: Option<u32>| value.map(|value| value.to_string());
    let window = |pick: fn(&(_, _)) -> _| alert.window.as_ref().map(|window| time(pick(window)));
    add("alert_id", Some(alert.id.hyphenated().to_string()));
    add("signature_severity", Some(alert.severity.to_string()));
    add("policy", alert.policy.as_deref().map(str::to_owned));
    add("exception", alert.exception.as_deref().map(str::to_owned));
    add("attribution", Some(source.grade.to_string()));
    add("attribution_method", source.method.map(str::to_owned));
    add("attribution_cause", source.cause.clone());
    add("process_pid", number(source.pid));
    add("process_ppid", number(source.ppid));
    add("process_name", source.comm.clone());
    add(
        "process_executable",
        exe(source).map(|path| path.into_owned()),
    );
    add("process_command_line", source.command_line.clone());
    add("user_id", number(source.uid));
    add("user_name", source.user.clone());
    add("unit", source.unit.clone());
    add("container", source.container.clone());
    add("image", source.image.clone());
    add("pod", source.pod.clone());
    add("namespace", source.namespace.clone());
    add("client_mac", source.mac.clone());
    add("client_name", source.client.clone());
    add(
        "nat_dest_ip",
        alert.nat_dst.map(|(addr, _)| addr.to_string()),
    );
    let port = alert.nat_dst.and_then(|(_, port)| port);
    add("nat_dest_port", port.map(|port| port.to_string()));
    add("count", Some(alert.count.to_string()));
    let flood = alert.flood.as_ref();
    add("sources", flood.map(|flood| flood.sources.to_string()));
    add("first", window(|window| window.0));
    add("last", window(|window| window.1));
    let mut indicators: Vec<String> = alert.indicators().map(ToString::to_string).collect();
    if alert.scan.as_ref().is_some_and(|scan| scan.more) {
        indicators.push("...".into());
    }
    map.insert("indicator".into(), indicators.into());
    let feeds: Vec<&str> = alert.feeds.iter().map(|feed| feed.as_str()).collect();
    map.insert("feed".into(), feeds.into());
    Value::Object(map)
}

fn first(alert: &Alert) -> std::time::SystemTime {
    alert.window.map_or(alert.time, |(first, _)| first)
}

/// With the zone as Suricata writes it: `+0000`.
fn time(time: std::time::SystemTime) -> String {
    let mut text = Rfc3339(time).to_string();
    text.pop();
    text + "+0000"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::example;

    fn observer() -> Observer {
        Observer {
            hostname: "gw".into(),
            version: "0.1.0".into(),
        }
    }

    #[test]
    fn a_local_flow_field_by_field() {
        assert_eq!(
            eve(&example::alert(), &observer()),
            json!({
                "timestamp": "2026-08-06T07:06:40.123456+0000",
                "flow_id": 1,
                "in_iface": "eth0",
                "event_type": "alert",
                "src_ip": "10.0.0.1", "src_port": 4711,
                "dest_ip": "10.48.255.194", "dest_port": 80,
                "proto": "TCP", "ip_v": 4, "direction": "to_server",
                "community_id": "1:OHtovGbttPq2UT6l3DTkAdYbV1E=",
                "host": "gw",
                "alert": {
                    "action": "blocked", "gid": 32473, "signature_id": 247_428_039, "rev": 1,
                    "signature": "feedgate: flow to an address of feed ipsum",
                    "category": "Misc Attack", "severity": 3,
                    "source": { "ip": "10.48.255.194" }, "target": { "ip": "10.0.0.1" },
                    "metadata": {
                        "alert_id": ["0190a5c8-7c1e-7000-8000-000000000001"],
                        "feed": ["ipsum"], "indicator": ["10.48.255.194"], "signature_severity": ["medium"],
                        "attribution": ["exact"], "attribution_method": ["sock-diag"],
                        "process_pid": ["1234"], "process_ppid": ["1"], "process_name": ["curl"],
                        "process_executable": ["/usr/bin/curl"], "user_id": ["1001"], "user_name": ["red"],
                        "unit": ["cron.service"], "count": ["1"],
                    },
                },
                "verdict": { "action": "drop" },
                "flow": { "start": "2026-08-06T07:06:40.123456+0000" },
            })
        );
    }

    #[test]
    fn protocols_have_suricatas_names() {
        for (number, name) in [(6, "TCP"), (58, "IPv6-ICMP"), (47, "047")] {
            assert_eq!(protocol(Protocol(number)), name);
        }
    }

    #[test]
    fn a_signature_is_its_feeds_and_direction() {
        let id = |change: fn(&mut Alert)| {
            let mut alert = example::alert();
            change(&mut alert);
            eve(&alert, &observer())["alert"]["signature_id"].clone()
        };
        let same = id(|_| {});
        assert_eq!(same, id(|alert| alert.flow.dst = alert.flow.src));
        assert_ne!(same, id(|alert| alert.direction = Direction::Ingress));
        assert_ne!(same, id(|alert| alert.feeds.push("b".parse().unwrap())));
    }
}
