//! Resources as JSON and YAML: what is printed reads back as the same resource.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{
    FeedPull, Header, HeaderSource, KeyRef, PolicySpec, PullFormat, Resource, Spec, ThreatFeedSpec,
    envelope::API_VERSION, rule::PROTOCOLS, yaml::to_yaml,
};
use crate::{
    feed::formats::{Column, CsvOptions, RecordSize},
    packet::Protocol,
    policy::{Entity, Rule},
    prefix::Prefix,
};

impl Resource {
    /// The whole object, without a status.
    pub fn to_json(&self) -> Value {
        let spec = match &self.spec {
            Spec::ThreatFeed(spec) => threat_feed(spec),
            Spec::NetworkSet(spec) => object([
                ("nets", Some(nets(&spec.nets))),
                ("allowedEgressDomains", list(&spec.domains)),
            ]),
            Spec::Policy(spec) => policy(spec),
            Spec::Tier(spec) => object([("order", spec.order.0.map(number))]),
        };
        let metadata = object([
            ("name", Some(json!(self.metadata.name))),
            ("labels", map(&self.metadata.labels)),
            ("annotations", map(&self.metadata.annotations)),
        ]);
        json!({
            "apiVersion": API_VERSION,
            "kind": self.kind().as_str(),
            "metadata": metadata,
            "spec": spec,
        })
    }

    /// The same as a YAML document.
    pub fn to_yaml(&self) -> String {
        to_yaml(&self.to_json())
    }
}

fn threat_feed(spec: &ThreatFeedSpec) -> Value {
    let set = spec
        .network_set
        .as_ref()
        .map(|labels| match labels.is_empty() {
            true => json!({}),
            false => json!({ "labels": labels }),
        });
    object([
        ("content", Some(json!(spec.content.as_str()))),
        (
            "mode",
            Some(json!(if spec.is_enabled {
                "Enabled"
            } else {
                "Disabled"
            })),
        ),
        (
            "description",
            spec.description.as_ref().map(|text| json!(text)),
        ),
        ("feedType", Some(json!(spec.feed_type.as_str()))),
        ("globalNetworkSet", set),
        ("pull", spec.pull.as_ref().map(pull)),
    ])
}

fn pull(pull: &FeedPull) -> Value {
    let headers: Vec<Value> = pull.headers.iter().map(header).collect();
    let format = match &pull.format {
        PullFormat::Lines => json!({ "newlineDelimited": {} }),
        PullFormat::Json(path) => json!({ "json": { "path": path.to_string() } }),
        PullFormat::Csv(options) => json!({ "csv": csv(options) }),
    };
    let http = object([
        ("url", Some(json!(pull.url.as_str()))),
        (
            "headers",
            (!headers.is_empty()).then_some(Value::Array(headers)),
        ),
        ("format", Some(format)),
    ]);
    json!({ "period": go_duration(pull.period), "http": http })
}

fn header(header: &Header) -> Value {
    let key_ref = |of: &KeyRef| {
        object([
            ("name", Some(json!(of.name))),
            ("key", Some(json!(of.key))),
            ("optional", of.optional.then_some(json!(true))),
        ])
    };
    match &header.value {
        HeaderSource::Value(value) => json!({ "name": header.name, "value": value }),
        HeaderSource::Secret(of) => {
            json!({ "name": header.name, "valueFrom": { "secretKeyRef": key_ref(of) } })
        }
        HeaderSource::ConfigMap(of) => {
            json!({ "name": header.name, "valueFrom": { "configMapKeyRef": key_ref(of) } })
        }
    }
}

fn csv(options: &CsvOptions) -> Value {
    let (number, name) = match &options.column {
        Column::Number(number) => (Some(json!(number)), None),
        Column::Name(name) => (None, Some(json!(name))),
    };
    let (size, any) = match options.record_size {
        RecordSize::First => (None, None),
        RecordSize::Exactly(size) => (Some(json!(size)), None),
        RecordSize::Any => (None, Some(json!(true))),
    };
    let comment = options.comment.map(character).unwrap_or_default();
    object([
        ("fieldNum", number),
        ("fieldName", name),
        ("header", Some(json!(options.header))),
        ("columnDelimiter", Some(json!(character(options.delimiter)))),
        ("commentDelimiter", Some(json!(comment))),
        ("recordSize", size),
        ("disableRecordSizeValidation", any),
    ])
}

fn character(byte: u8) -> String {
    char::from(byte).to_string()
}

fn policy(spec: &PolicySpec) -> Value {
    let policy = &spec.policy;
    let types = [
        (policy.has_ingress, "Ingress"),
        (policy.has_egress, "Egress"),
    ];
    let types = types
        .into_iter()
        .filter(|(has, _)| *has)
        .map(|(_, word)| json!(word));
    let rules = |rules: &[Rule]| -> Option<Value> {
        (!rules.is_empty()).then(|| rules.iter().map(rule).collect())
    };
    object([
        ("tier", Some(json!(policy.tier))),
        ("order", policy.order.0.map(number)),
        ("selector", Some(json!(policy.selector.to_string()))),
        (
            "namespaceSelector",
            policy
                .namespace_selector
                .as_ref()
                .map(|s| json!(s.to_string())),
        ),
        ("types", Some(types.collect())),
        ("ingress", rules(&policy.ingress)),
        ("egress", rules(&policy.egress)),
        (
            "stagedAction",
            spec.staged_action.map(|action| json!(action.as_str())),
        ),
    ])
}

fn rule(rule: &Rule) -> Value {
    object([
        ("action", Some(json!(rule.action.as_str()))),
        ("protocol", rule.protocol.map(protocol)),
        ("notProtocol", rule.not_protocol.map(protocol)),
        ("ipVersion", rule.ip_version.map(|version| json!(version))),
        ("source", Some(entity(&rule.source))),
        ("destination", Some(entity(&rule.destination))),
    ])
}

fn protocol(protocol: Protocol) -> Value {
    let mut names = PROTOCOLS.iter();
    match names.find(|(_, known)| *known == protocol) {
        Some((name, _)) => json!(name),
        None => json!(protocol.0),
    }
}

fn entity(entity: &Entity) -> Value {
    let some = |prefixes: &[Prefix]| (!prefixes.is_empty()).then(|| nets(prefixes));
    object([
        (
            "selector",
            entity.selector.as_ref().map(|s| json!(s.to_string())),
        ),
        (
            "notSelector",
            entity.not_selector.as_ref().map(|s| json!(s.to_string())),
        ),
        ("nets", some(&entity.nets)),
        ("notNets", some(&entity.not_nets)),
        ("ports", ports(&entity.ports)),
        ("notPorts", ports(&entity.not_ports)),
    ])
}

fn ports(ports: &[(u16, u16)]) -> Option<Value> {
    let port = |(first, last): &(u16, u16)| match first == last {
        true => json!(first),
        false => json!(format!("{first}:{last}")),
    };
    (!ports.is_empty()).then(|| ports.iter().map(port).collect())
}

/// As CIDRs, with the length also of single addresses.
fn nets(prefixes: &[Prefix]) -> Value {
    prefixes
        .iter()
        .map(|prefix| json!(prefix.net().to_string()))
        .collect()
}

fn list(texts: &[String]) -> Option<Value> {
    (!texts.is_empty()).then(|| json!(texts))
}

fn map(pairs: &std::collections::BTreeMap<String, String>) -> Option<Value> {
    (!pairs.is_empty()).then(|| json!(pairs))
}

/// A whole number without a point, as it is mostly written.
fn number(value: f64) -> Value {
    let text = value.to_string();
    match text.parse::<i64>() {
        Ok(whole) => json!(whole),
        Err(_) => json!(value),
    }
}

/// An object with the fields that are there.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let fields = fields.into_iter();
    let fields = fields.filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(fields.collect::<Map<String, Value>>())
}

/// Hours, minutes and seconds: `24h`, `1h30m`, `5m0.5s`.
fn go_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    for (number, unit) in [(hours, 'h'), (minutes, 'm')] {
        if number > 0 {
            text.push_str(&format!("{number}{unit}"));
        }
    }
    if nanos > 0 {
        let fraction = format!("{nanos:09}");
        text.push_str(&format!("{rest}.{}s", fraction.trim_end_matches('0')));
    } else if rest > 0 || text.is_empty() {
        text.push_str(&format!("{rest}s"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;

    /// Every field that is kept, in values that are easily misread.
    const ALL: &str = r##"
apiVersion: projectcalico.org/v3
kind: GlobalThreatFeed
metadata:
  name: a.b-c
  labels: {"x/y": "yes", n: "1", e: ""}
  annotations: {note: "two\nlines: # and \"quotes\" \u0085 \u001b ü 😀", empty: ""}
spec:
  content: IPSet
  mode: Disabled
  description: "- not: a list"
  feedType: Builtin
  globalNetworkSet: {labels: {feed: "on", z: "0x10"}}
  pull:
    period: 1h30m0.5s
    http:
      url: "https://user:p%20w@example.net/a?b=c&d=[1]#frag"
      headers:
      - {name: X-A, value: "Bearer: x #y"}
      - {name: X-B, valueFrom: {secretKeyRef: {name: s, key: token, optional: true}}}
      - {name: X-C, valueFrom: {configMapKeyRef: {name: c, key: "1"}}}
      format: {csv: {fieldName: "ip address", header: true, columnDelimiter: "\t", commentDelimiter: "", disableRecordSizeValidation: true}}
---
apiVersion: projectcalico.org/v3
kind: GlobalThreatFeed
metadata: {name: lines}
spec: {pull: {http: {url: "http://203.0.113.1/", format: {csv: {fieldNum: 3, recordSize: 4}}}}}
---
apiVersion: projectcalico.org/v3
kind: GlobalThreatFeed
metadata: {name: json}
spec: {globalNetworkSet: {}, pull: {period: 24h, http: {url: "http://203.0.113.1/", format: {json: {path: "$.a['b c'][*].ip"}}}}}
---
apiVersion: projectcalico.org/v3
kind: GlobalThreatFeed
metadata: {name: pushed}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {name: set, labels: {a: "null"}}
spec: {nets: [203.0.113.1, 203.0.113.0/24, "2001:db8::1/128", "::1", 2001:db8::/32], allowedEgressDomains: ["*.example.com"]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: t}
spec: {order: 1.5}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: last}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: t.all}
spec:
  tier: t
  order: 100
  selector: a == "it's" && !(b in {'x', "y"} || has(c)) && d not in {"e"}
  namespaceSelector: projectcalico.org/name == "n"
  types: [Ingress, Egress]
  ingress:
  - {action: Log, protocol: 47, ipVersion: 4}
  - {action: Allow, notProtocol: ICMPv6, source: {notSelector: global(), notNets: [10.0.0.0/8]}}
  egress:
  - action: Deny
    protocol: TCP
    source: {ports: [1, "2:3"], nets: [192.0.2.0/24]}
    destination: {selector: feed starts with "x", notPorts: [65535]}
  - action: Pass
---
apiVersion: projectcalico.org/v3
kind: StagedGlobalNetworkPolicy
metadata: {name: default.s}
spec: {stagedAction: Ignore}
"##;

    fn read(text: &str) -> Vec<Resource> {
        let parsed = parse(text);
        assert!(!parsed.has_errors(), "{:#?}\n{text}", parsed.mistakes);
        parsed
            .resources
            .into_iter()
            .map(|found| found.resource)
            .collect()
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        let all = read(ALL);
        assert_eq!(all.len(), 9);
        for resource in &all {
            for text in [resource.to_yaml(), resource.to_json().to_string()] {
                assert_eq!(read(&text), std::slice::from_ref(resource), "{text}");
            }
        }
        let texts: Vec<String> = all.iter().map(Resource::to_yaml).collect();
        assert_eq!(read(&texts.join("---\n")), all);
    }

    proptest::proptest! {
        #[test]
        fn any_text_reads_back_as_it_was(
            text in proptest::prop_oneof![
                proptest::prelude::any::<String>(),
                "[ -~]{0,20}",
                "(yes|null|~|1e3|0x1f|1_0|24h|1:20|2026-01-31|- a|a: b|a #b|\\||a:|& a)",
            ],
        ) {
            let mut resource = read(ALL).swap_remove(3);
            let Spec::ThreatFeed(spec) = &mut resource.spec else {
                unreachable!("the pushed feed")
            };
            let text: String = text.chars().take(256).collect();
            spec.description = Some(text);
            proptest::prop_assert_eq!(&read(&resource.to_yaml()), std::slice::from_ref(&resource));
        }
    }

    #[test]
    fn the_labs_policy_is_printed_as_people_write_it() {
        let text = include_str!("../../tests/fixtures/lab/2-tier-policy.yaml");
        let policy = read(text).pop().unwrap();
        assert_eq!(
            policy.to_yaml(),
            "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: tigera-security.block-training-ipthreatfeed
spec:
  egress:
  - action: Deny
    destination:
      selector: feed == \"training-ip-threatfeed\"
    source: {}
  - action: Pass
    destination: {}
    source: {}
  selector: all()
  tier: tigera-security
  types:
  - Egress
"
        );
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (millis, text) in [
            (86_400_000, "24h"),
            (5_400_000, "1h30m"),
            (90_000, "1m30s"),
            (300_500, "5m0.5s"),
            (0, "0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
