//! The alert in Elastic Common Schema (<https://www.elastic.co/docs/reference/ecs>), for the JSON file.
//!
//! What ECS has no field for is under `feedgate.*`: the grade, method and cause of the
//! attribution, how long the packet was held, counts and times of a summary.

use serde_json::{Map, Value, json};

use super::{
    Alert, community_id,
    element::Rfc3339,
    line::{Loss, LossKind, loss_message, message},
};
use crate::{
    attribution::Source,
    feed::{Action, Direction, Indicator, Severity},
    packet::{Protocol, Transport},
    visible::escape_json,
};

/// Version of the schema the field names are from.
const ECS_VERSION: &str = "8.17.0";

/// Who observed the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observer {
    /// Name of this host.
    pub hostname: String,
    /// Version of feedgate.
    pub version: String,
}

impl Observer {
    /// This version of feedgate on the host with that name.
    pub fn of(hostname: String) -> Self {
        Self {
            hostname,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The ECS event of `alert`. Absent fields are left out.
pub fn ecs(alert: &Alert, observer: &Observer) -> Value {
    let mut doc = base(observer, &Rfc3339(alert.time).to_string(), message(alert));
    doc.insert("event".into(), event(alert));
    doc.insert("source".into(), source(alert));
    doc.insert("destination".into(), destination(alert));
    doc.insert("network".into(), network(alert));
    doc.insert("threat".into(), threat(alert));
    doc.insert("related".into(), json!({ "ip": related(alert) }));
    doc.insert("feedgate".into(), own(alert));
    interface(&mut doc, alert);
    for (name, value) in [
        ("process", process(alert)),
        ("user", user(alert)),
        ("service", object([("name", text(&alert.source.unit))])),
        ("container", container(alert)),
        ("orchestrator", orchestrator(alert)),
        ("rule", object([("name", policy(alert))])),
    ] {
        if let Some(value) = value {
            doc.insert(name.into(), value);
        }
    }
    Value::Object(doc)
}

/// The ECS event that tells of alerts a sink did not get.
pub fn ecs_loss(loss: &Loss, observer: &Observer) -> Value {
    let time = Rfc3339(loss.time).to_string();
    let mut doc = base(observer, &time, loss_message(loss));
    doc.insert(
        "event".into(),
        json!({
            "kind": "event",
            "action": match loss.kind {
                LossKind::Undelivered => "alerts-lost",
                LossKind::Unattributed => "unattributed",
                LossKind::Unprotected => "unprotected",
                LossKind::HeldBack => "held-back",
            },
            "module": "feedgate",
            "dataset": "feedgate.loss",
            "provider": "feedgate",
            "created": time,
            "reason": loss.cause,
        }),
    );
    doc.insert(
        "feedgate".into(),
        json!({ "count": loss.count, "target": loss.target }),
    );
    Value::Object(doc)
}

/// One line without its end: `value` with every hidden character written as `\uXXXX`, so that
/// neither a terminal nor a line-based reader is fooled. The JSON value is the same.
pub fn to_line(value: &Value) -> String {
    escape_json(value.to_string())
}

fn base(observer: &Observer, time: &str, message: String) -> Map<String, Value> {
    let doc = json!({
        "@timestamp": time,
        "ecs": { "version": ECS_VERSION },
        "message": message,
        "host": { "name": observer.hostname },
        "observer": {
            "type": "firewall",
            "vendor": "feedgate",
            "product": "feedgate",
            "version": observer.version,
            "hostname": observer.hostname,
        },
    });
    match doc {
        Value::Object(doc) => doc,
        _ => Map::new(),
    }
}

fn event(alert: &Alert) -> Value {
    let verdict = match alert.action {
        Action::Alert => "allowed",
        Action::Deny => "denied",
    };
    let mut event = json!({
        "kind": "alert",
        "category": ["network", "intrusion_detection", "threat"],
        "type": ["connection", verdict, "indicator"],
        "action": alert.action.as_str(),
        "module": "feedgate",
        "dataset": "feedgate.alert",
        "provider": "feedgate",
        "id": alert.id.hyphenated().to_string(),
        "severity": severity(alert.severity),
        "created": Rfc3339(alert.time).to_string(),
    });
    if let (Some((first, last)), Some(event)) = (alert.window, event.as_object_mut()) {
        event.insert("start".into(), Rfc3339(first).to_string().into());
        event.insert("end".into(), Rfc3339(last).to_string().into());
    }
    event
}

/// The numbers Elastic's own detection rules use for the four words.
fn severity(severity: Severity) -> u8 {
    match severity {
        Severity::Low => 21,
        Severity::Medium => 47,
        Severity::High => 73,
        Severity::Critical => 99,
    }
}

fn source(alert: &Alert) -> Value {
    let addr = alert.flow.src.to_string();
    object([
        ("ip", Some(addr.clone().into())),
        ("address", Some(addr.into())),
        ("port", alert.flow.src_port().map(Value::from)),
        ("mac", alert.source.mac.as_deref().and_then(mac)),
    ])
    .unwrap_or_default()
}

fn destination(alert: &Alert) -> Value {
    let addr = alert.flow.dst.to_string();
    let nat = alert.nat_dst.and_then(|(addr, port)| {
        object([
            ("ip", Some(addr.to_string().into())),
            ("port", port.map(Value::from)),
        ])
    });
    object([
        ("ip", Some(addr.clone().into())),
        ("address", Some(addr.into())),
        ("port", alert.flow.dst_port().map(Value::from)),
        ("nat", nat),
    ])
    .unwrap_or_default()
}

fn network(alert: &Alert) -> Value {
    let flow = &alert.flow;
    let number = flow.proto.0.to_string();
    let transport = match flow.proto {
        Protocol::ICMPV6 => "ipv6-icmp".to_owned(), // IANA's keyword
        proto => proto.to_string(),
    };
    object([
        ("direction", Some(alert.direction.as_str().into())),
        (
            "type",
            Some(if flow.src.is_ipv4() { "ipv4" } else { "ipv6" }.into()),
        ),
        ("transport", (transport != number).then(|| transport.into())),
        ("iana_number", Some(number.into())),
        ("community_id", community_id(flow).map(Value::from)),
    ])
    .unwrap_or_default()
}

/// The interface is the outgoing one for a local process, else the one the packet came in by.
fn interface(doc: &mut Map<String, Value>, alert: &Alert) {
    let Some(name) = &alert.iface else { return };
    let forwarded = alert.source.mac.is_some() || alert.source.method == Some("forward");
    let side = if alert.direction == Direction::Ingress || forwarded {
        "ingress"
    } else {
        "egress"
    };
    if let Some(observer) = doc.get_mut("observer").and_then(Value::as_object_mut) {
        observer.insert(side.into(), json!({ "interface": { "name": name } }));
    }
}

fn threat(alert: &Alert) -> Value {
    let names: Vec<&str> = alert.feeds.iter().map(|feed| feed.as_str()).collect();
    let mut threat = Map::new();
    threat.insert("indicator".into(), indicator(alert.indicator).into());
    if let [name] = names.as_slice() {
        threat.insert("feed".into(), json!({ "name": name }));
    } else {
        threat.insert("feed".into(), json!({ "name": names }));
    }
    let feeds = names.iter().filter(|_| names.len() > 1);
    let mut list: Vec<Value> = feeds.map(|name| enrichment(alert, name)).collect();
    let further = alert.indicators().skip(1);
    list.extend(further.map(|of| of_scan(alert.direction, *of)));
    if !list.is_empty() {
        threat.insert("enrichments".into(), list.into());
    }
    Value::Object(threat)
}

/// A further indicator of a scan; which of the feeds lists it is not kept.
fn of_scan(direction: Direction, of: Indicator) -> Value {
    let atomic = (of.span.first() == of.span.last()).then(|| of.span.first().to_string());
    let matched = object([
        ("atomic", atomic.map(Value::from)),
        ("field", Some(matched_field(direction).into())),
        ("type", Some("indicator_match_rule".into())),
    ]);
    json!({ "indicator": indicator(of), "matched": matched })
}

fn matched_field(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "destination.ip",
        Direction::Ingress => "source.ip",
    }
}

fn indicator(of: Indicator) -> Map<String, Value> {
    let kind = if of.span.first().is_ipv4() {
        "ipv4-addr"
    } else {
        "ipv6-addr"
    };
    let mut indicator = Map::new();
    indicator.insert("type".into(), kind.into());
    indicator.insert("name".into(), of.to_string().into());
    if of.span.first() == of.span.last() {
        // The field is one address; a network is only in the name.
        indicator.insert("ip".into(), of.span.first().to_string().into());
    }
    if let Some(port) = of.port {
        indicator.insert("port".into(), port.port.into());
    }
    indicator
}

fn enrichment(alert: &Alert, feed: &str) -> Value {
    let addr = match alert.direction {
        Direction::Egress => alert.flow.dst,
        Direction::Ingress => alert.flow.src,
    };
    let mut indicator = indicator(alert.indicator);
    indicator.insert("provider".into(), feed.into());
    json!({
        "indicator": indicator,
        "matched": {
            "atomic": addr.to_string(),
            "field": matched_field(alert.direction),
            "type": "indicator_match_rule",
            "occurred": Rfc3339(alert.time).to_string(),
        },
    })
}

fn related(alert: &Alert) -> Vec<String> {
    let nat = alert.nat_dst.map(|(addr, _)| addr);
    let ends = [Some(alert.flow.src), Some(alert.flow.dst), nat];
    let further = alert.indicators().skip(1).map(|of| of.span);
    let further = further.filter(|span| span.first() == span.last());
    let mut list = Vec::new();
    for addr in ends
        .into_iter()
        .flatten()
        .chain(further.map(|span| span.first()))
        .chain(alert.flood.iter().flat_map(|flood| flood.further.clone()))
    {
        let addr = addr.to_string();
        if !list.contains(&addr) {
            list.push(addr);
        }
    }
    list
}

fn process(alert: &Alert) -> Option<Value> {
    let source = &alert.source;
    let started = source.started.map(|time| Rfc3339(time).to_string().into());
    let group = source.gid.map(|gid| gid.to_string().into());
    object([
        ("pid", source.pid.map(Value::from)),
        ("name", text(&source.comm)),
        ("executable", text(&source.exe)),
        ("command_line", text(&source.command_line)),
        ("start", started),
        ("parent", object([("pid", source.ppid.map(Value::from))])),
        ("group", object([("id", group)])),
        ("thread", capabilities(source)),
    ])
}

/// Those of interest only: root's are forty.
fn capabilities(source: &Source) -> Option<Value> {
    let names: Vec<&str> = source.capabilities?.of_interest().collect();
    let effective = (!names.is_empty()).then(|| names.into());
    object([("capabilities", object([("effective", effective)]))])
}

fn user(alert: &Alert) -> Option<Value> {
    object([
        ("id", alert.source.uid.map(|uid| uid.to_string().into())),
        ("name", text(&alert.source.user)),
    ])
}

/// One field holds the container's name or its ID: 64 hexadecimal digits, or 12 of them, is an ID.
pub(super) fn container_id_or_name(source: &Source) -> (Option<&str>, Option<&str>) {
    let container = source.container.as_deref();
    let is_id = container.is_some_and(|text| {
        matches!(text.len(), 12 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
    });
    if is_id {
        (container, None)
    } else {
        (None, container)
    }
}

fn container(alert: &Alert) -> Option<Value> {
    let (id, name) = container_id_or_name(&alert.source);
    object([
        ("id", id.map(Value::from)),
        ("name", name.map(Value::from)),
        ("image", alert.source.image.as_deref().and_then(image)),
    ])
}

/// `name:tag` in two fields; a digest or a registry's port is no tag.
fn image(text: &str) -> Option<Value> {
    let (name, tag) = match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !name.contains('@') => {
            (name, Some(json!([tag])))
        }
        _ => (text, None),
    };
    object([("name", Some(name.into())), ("tag", tag)])
}

fn orchestrator(alert: &Alert) -> Option<Value> {
    let pod = alert.source.pod.as_ref()?;
    object([
        ("type", Some("kubernetes".into())),
        ("namespace", text(&alert.source.namespace)),
        ("resource", Some(json!({ "type": "pod", "name": pod }))),
    ])
}

fn own(alert: &Alert) -> Value {
    let source = &alert.source;
    let attribution = object([
        ("grade", Some(source.grade.as_str().into())),
        ("method", source.method.map(Value::from)),
        ("cause", text(&source.cause)),
    ]);
    let icmp = match alert.flow.transport {
        Transport::Icmp { kind, code, .. } => Some(json!({ "type": kind, "code": code })),
        _ => None,
    };
    let held = u64::try_from(alert.held.as_micros()).unwrap_or(u64::MAX);
    object([
        ("attribution", attribution),
        ("severity", Some(alert.severity.as_str().into())),
        ("count", Some(alert.count.into())),
        (
            "first",
            alert
                .window
                .map(|(first, _)| Rfc3339(first).to_string().into()),
        ),
        (
            "last",
            alert
                .window
                .map(|(_, last)| Rfc3339(last).to_string().into()),
        ),
        ("exception", alert.exception.as_deref().map(Value::from)),
        ("scan", scan(alert)),
        ("flood", flood(alert)),
        ("held_us", alert.window.is_none().then(|| held.into())),
        ("client", text(&source.client)),
        ("process_start_ticks", source.start.map(Value::from)),
        (
            "exe_deleted",
            source.exe.is_some().then(|| source.exe_deleted.into()),
        ),
        ("slice", text(&source.slice)),
        ("session_user", session_user(source)),
        ("icmp", icmp),
    ])
    .unwrap_or_default()
}

fn scan(alert: &Alert) -> Option<Value> {
    let scan = alert.scan.as_ref()?;
    Some(json!({ "indicators": alert.indicators().count(), "more": scan.more }))
}

fn flood(alert: &Alert) -> Option<Value> {
    let flood = alert.flood.as_ref()?;
    Some(json!({ "sources": flood.sources, "estimated": !flood.is_exact }))
}

fn session_user(source: &Source) -> Option<Value> {
    object([
        ("id", source.session_uid.map(|uid| uid.to_string().into())),
        ("name", text(&source.session_user)),
    ])
}

/// ECS writes a MAC address in capitals with dashes (RFC 7042).
fn mac(text: &str) -> Option<Value> {
    let good = text.len() == 17
        && text
            .split(':')
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
    good.then(|| text.replace(':', "-").to_ascii_uppercase().into())
}

pub(super) fn policy(alert: &Alert) -> Option<Value> {
    alert.policy.as_deref().map(Value::from)
}

pub(super) fn text(value: &Option<String>) -> Option<Value> {
    value.as_deref().map(Value::from)
}

/// The fields that are known; `None` when none is.
pub(super) fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Option<Value> {
    let map: Map<String, Value> = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
    (!map.is_empty()).then_some(Value::Object(map))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::visible::is_hidden;
    use crate::{
        alert::{Scan, example},
        attribution::Capabilities,
    };

    fn observer() -> Observer {
        Observer {
            hostname: "gw".into(),
            version: "0.1.0".into(),
        }
    }

    #[test]
    fn a_local_flow_field_by_field() {
        let mut alert = example::alert();
        alert.source = Source {
            started: Some(alert.time - std::time::Duration::from_micros(3_456)),
            command_line: Some("curl -s \u{1b}[2J".into()),
            gid: Some(100),
            capabilities: Some(Capabilities::from_bits(1 << 13 | 1)),
            session_uid: Some(1000),
            session_user: Some("blue".into()),
            slice: Some("system.slice".into()),
            ..alert.source
        };
        assert_eq!(
            ecs(&alert, &observer()),
            json!({
                "@timestamp": "2026-08-06T07:06:40.123456Z",
                "ecs": { "version": "8.17.0" },
                "message": "denied egress tcp 10.0.0.1:4711 -> 10.48.255.194:80 listed by ipsum: curl[1234] user red unit cron.service",
                "event": {
                    "kind": "alert",
                    "category": ["network", "intrusion_detection", "threat"],
                    "type": ["connection", "denied", "indicator"],
                    "action": "deny",
                    "module": "feedgate",
                    "dataset": "feedgate.alert",
                    "provider": "feedgate",
                    "id": "0190a5c8-7c1e-7000-8000-000000000001",
                    "severity": 47,
                    "created": "2026-08-06T07:06:40.123456Z",
                },
                "source": { "ip": "10.0.0.1", "address": "10.0.0.1", "port": 4711 },
                "destination": { "ip": "10.48.255.194", "address": "10.48.255.194", "port": 80 },
                "network": {
                    "direction": "egress", "type": "ipv4", "transport": "tcp", "iana_number": "6",
                    "community_id": "1:OHtovGbttPq2UT6l3DTkAdYbV1E=",
                },
                "observer": {
                    "type": "firewall", "vendor": "feedgate", "product": "feedgate", "version": "0.1.0", "hostname": "gw",
                    "egress": { "interface": { "name": "eth0" } },
                },
                "host": { "name": "gw" },
                "process": {
                    "pid": 1234, "name": "curl", "executable": "/usr/bin/curl", "command_line": "curl -s \u{1b}[2J",
                    "start": "2026-08-06T07:06:40.120000Z", "parent": { "pid": 1 }, "group": { "id": "100" },
                    "thread": { "capabilities": { "effective": ["CAP_NET_RAW"] } },
                },
                "user": { "id": "1001", "name": "red" },
                "service": { "name": "cron.service" },
                "threat": {
                    "feed": { "name": "ipsum" },
                    "indicator": { "type": "ipv4-addr", "ip": "10.48.255.194", "name": "10.48.255.194" },
                },
                "related": { "ip": ["10.0.0.1", "10.48.255.194"] },
                "feedgate": {
                    "attribution": { "grade": "exact", "method": "sock-diag" },
                    "severity": "medium", "count": 1, "held_us": 312, "process_start_ticks": 5678,
                    "exe_deleted": false, "slice": "system.slice", "session_user": { "id": "1000", "name": "blue" },
                },
            })
        );
    }

    #[test]
    fn a_forwarded_pod_and_two_feeds() {
        let mut alert = example::alert();
        alert.action = Action::Alert;
        alert.feeds = vec!["a".parse().unwrap(), "b".parse().unwrap()];
        alert.indicator = "10.48.0.0/16".parse().unwrap();
        alert.policy = Some("default.feeds".into());
        alert.nat_dst = Some(("192.0.2.9".parse().unwrap(), Some(8080)));
        alert.window = Some((alert.time, alert.time));
        alert.source = Source {
            method: Some("forward"),
            cause: Some("no socket here".into()),
            container: Some("0123456789ab".into()),
            image: Some("registry.example:5000/team/web:1.2".into()),
            pod: Some("web-0".into()),
            namespace: Some("shop".into()),
            mac: Some("00:00:5e:00:53:0a".into()),
            client: Some("printer".into()),
            ..Source::default()
        };
        let doc = ecs(&alert, &observer());
        for (pointer, want) in [
            ("/event/action", json!("alert")),
            ("/event/type", json!(["connection", "allowed", "indicator"])),
            ("/event/start", json!("2026-08-06T07:06:40.123456Z")),
            ("/source/mac", json!("00-00-5E-00-53-0A")),
            (
                "/destination/nat",
                json!({ "ip": "192.0.2.9", "port": 8080 }),
            ),
            ("/observer/ingress/interface/name", json!("eth0")),
            (
                "/container",
                json!({ "id": "0123456789ab", "image": { "name": "registry.example:5000/team/web", "tag": ["1.2"] } }),
            ),
            (
                "/orchestrator",
                json!({ "type": "kubernetes", "namespace": "shop", "resource": { "type": "pod", "name": "web-0" } }),
            ),
            ("/rule/name", json!("default.feeds")),
            ("/threat/feed/name", json!(["a", "b"])),
            (
                "/threat/indicator",
                json!({ "type": "ipv4-addr", "name": "10.48.0.0/16" }),
            ),
            ("/threat/enrichments/1/indicator/provider", json!("b")),
            (
                "/threat/enrichments/0/matched/atomic",
                json!("10.48.255.194"),
            ),
            (
                "/threat/enrichments/0/matched/field",
                json!("destination.ip"),
            ),
            ("/related/ip/2", json!("192.0.2.9")),
            (
                "/feedgate/attribution",
                json!({ "grade": "unknown", "method": "forward", "cause": "no socket here" }),
            ),
            ("/feedgate/client", json!("printer")),
        ] {
            assert_eq!(doc.pointer(pointer), Some(&want), "{pointer}");
        }
        for absent in [
            "/process",
            "/user",
            "/service",
            "/container/name",
            "/threat/indicator/ip",
            "/feedgate/held_us",
        ] {
            assert_eq!(doc.pointer(absent), None, "{absent}");
        }
    }

    #[test]
    fn a_scan_lists_its_indicators() {
        let mut alert = example::alert();
        alert.scan = Some(Scan {
            further: vec![
                "192.0.2.1:443".parse().unwrap(),
                "192.0.2.0/25".parse().unwrap(),
            ],
            more: true,
        });
        let doc = ecs(&alert, &observer());
        assert_eq!(
            doc.pointer("/threat/enrichments"),
            Some(&json!([
                {
                    "indicator": { "type": "ipv4-addr", "ip": "192.0.2.1", "name": "192.0.2.1:443", "port": 443 },
                    "matched": { "atomic": "192.0.2.1", "field": "destination.ip", "type": "indicator_match_rule" },
                },
                {
                    "indicator": { "type": "ipv4-addr", "name": "192.0.2.0/25" },
                    "matched": { "field": "destination.ip", "type": "indicator_match_rule" },
                },
            ]))
        );
        assert_eq!(
            doc.pointer("/related/ip"),
            Some(&json!(["10.0.0.1", "10.48.255.194", "192.0.2.1"]))
        );
        assert_eq!(
            doc.pointer("/feedgate/scan"),
            Some(&json!({ "indicators": 3, "more": true }))
        );
    }

    #[test]
    fn a_digest_is_no_tag() {
        assert_eq!(
            image("web@sha256:00ff"),
            Some(json!({ "name": "web@sha256:00ff" }))
        );
        assert_eq!(
            image("host:5000/web"),
            Some(json!({ "name": "host:5000/web" }))
        );
    }

    proptest! {
        #[test]
        fn one_visible_line_with_the_raw_names(alert in example::any_alert()) {
            let doc = ecs(&alert, &observer());
            let line = to_line(&doc);
            prop_assert!(!line.chars().any(is_hidden));
            let read: Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(&read, &doc);
            prop_assert_eq!(read.pointer("/process/name").and_then(Value::as_str), alert.source.comm.as_deref());
        }
    }
}
