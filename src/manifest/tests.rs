use super::*;

const FEED: &str = include_str!("../../tests/fixtures/lab/1-threatfeed.yaml");
const POLICY: &str = include_str!("../../tests/fixtures/lab/2-tier-policy.yaml");

fn good(text: &str) -> Vec<Resource> {
    let parsed = parse(text);
    assert_eq!(render(&parsed.mistakes, "f.yaml"), "");
    let found = parsed.resources.into_iter();
    found.map(|found| found.resource).collect()
}

#[test]
fn the_labs_manifests_parse_as_they_stand() {
    let [feed] = &good(FEED)[..] else {
        unreachable!("one feed")
    };
    assert_eq!(
        feed.id().to_string(),
        "globalthreatfeed/training.ip.threatfeed"
    );
    let Spec::ThreatFeed(spec) = &feed.spec else {
        unreachable!("a feed")
    };
    let labels = spec.network_set.as_ref().unwrap();
    assert_eq!(
        labels.get("feed").map(String::as_str),
        Some("training-ip-threatfeed")
    );
    let [tier, policy] = &good(POLICY)[..] else {
        unreachable!("a tier and a policy")
    };
    assert_eq!(tier.tier().unwrap().order.0, Some(300.0));
    let policy = policy.policy().unwrap();
    assert_eq!((policy.has_ingress, policy.has_egress), (false, true));
    assert_eq!(policy.egress.len(), 2);
}

/// Every message of a text, with the place and without the frame.
pub(super) fn mistakes(text: &str) -> Vec<String> {
    let line = |m: &Mistake| format!("{}:{} {}: {}", m.line, m.column, m.path, m.message);
    parse(text).mistakes.iter().map(line).collect()
}

/// A document of this kind with such a spec, which stands in its fourth line.
pub(super) fn with_spec(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

#[test]
fn what_is_wrong_with_a_document_has_its_place() {
    for (text, expect) in [
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
            &[
                "1:13 apiVersion: \"v1\" is not projectcalico.org/v3",
                "2:7 kind: \"Pod\" is not a kind that feedgate takes",
            ][..],
        ),
        (
            "kind: Tier\nmetadata: {name: a}\n",
            &["1:1 apiVersion: missing"],
        ),
        (
            "a: &x [1]\nb: *x\n",
            &["1:1 apiVersion: missing", "1:1 kind: missing"],
        ),
        ("a: !t 1\n", &["1:4 : the tag \"!t\" is not taken"]),
        ("a: [\n", &["1:4 : unclosed bracket '['"]),
        ("- 1\n", &["1:1 : expected fields below it, found a list"]),
        ("%", &["1:1 : YAML directives are disallowed"]),
    ] {
        assert_eq!(mistakes(text), expect, "{text}");
    }
    // A document with a mistake hides none of the others.
    let text = "kind: Tier\n---\n".to_owned() + FEED + "\n---\nx: [\n";
    let parsed = parse(&text);
    assert_eq!(parsed.resources.len(), 1, "{:?}", parsed.mistakes);
    assert!(
        parsed.mistakes.iter().any(|m| m.document == 1)
            && parsed.mistakes.iter().any(|m| m.document == 3)
    );
}

#[test]
fn what_is_wrong_with_a_threat_feed_has_its_place() {
    for (spec, expect) in [
        (
            r#"{content: IPset}"#,
            r#"4:17 spec.content: "IPset" is not one of IPSet, DomainNameSet"#,
        ),
        (
            r#"{feedType: Custom, pull: 5}"#,
            r#"4:32 spec.pull: expected fields below it, found a number"#,
        ),
        (
            r#"{globalNetworkSet: {labels: {a: b}}}"#,
            r#"4:26 spec.globalNetworkSet: only with pull"#,
        ),
        (
            r#"{content: DomainNameSet}"#,
            r#"4:17 spec.content: feedgate matches addresses only"#,
        ),
        (
            r#"{pull: {period: 4m, http: {url: 'http://a/'}}}"#,
            r#"4:23 spec.pull.period: must be at least 5m"#,
        ),
        (
            r#"{pull: {period: 1d, http: {url: 'http://a/'}}}"#,
            r#"4:23 spec.pull.period: "1d" is not a duration"#,
        ),
        (
            r#"{pull: {http: {}}}"#,
            r#"4:21 spec.pull.http.url: missing"#,
        ),
        (
            r#"{pull: {http: {url: 'ftp://a/'}}}"#,
            r#"4:27 spec.pull.http.url: the scheme must be https or http"#,
        ),
        (
            r#"{pull: {http: {url: 'http://a/', format: {csv: {fieldNum: 1, fieldName: a, header: true}}}}}"#,
            r#"4:79 spec.pull.http.format.csv.fieldName: excludes fieldNum"#,
        ),
        (
            r#"{pull: {http: {url: 'http://a/', format: {csv: {fieldName: a}}}}}"#,
            r#"4:66 spec.pull.http.format.csv.fieldName: a column is found by its name only in a header"#,
        ),
        (
            r#"{pull: {http: {url: 'http://a/', format: {csv: {fieldNum: 0, recordSize: 2, disableRecordSizeValidation: true}}}}}"#,
            r#"4:112 spec.pull.http.format.csv.disableRecordSizeValidation: excludes recordSize"#,
        ),
        (
            r#"{pull: {http: {url: 'http://a/', format: {json: {path: '$.a'}, csv: {fieldNum: 0}}}}}"#,
            r#"4:75 spec.pull.http.format.csv: excludes json"#,
        ),
        (
            r#"{pull: {http: {url: 'http://a/', headers: [{name: A, value: b, valueFrom: {secretKeyRef: {name: n, key: k}}}]}}}"#,
            r#"4:81 spec.pull.http.headers[0].valueFrom: excludes value"#,
        ),
        (
            r#"{pull: {http: {url: 'http://a/', headers: [{name: 'a b', value: c}]}}}"#,
            r#"4:57 spec.pull.http.headers[0].name: not the name of an HTTP header"#,
        ),
        (
            r#"{pull: {http: {url: 'http://a/', headers: [{name: A, valueFrom: {secretKeyRef: {name: ../n, key: k}}}]}}}"#,
            r#"4:93 spec.pull.http.headers[0].valueFrom.secretKeyRef.name: "../n" is not a name"#,
        ),
    ] {
        let text = with_spec("GlobalThreatFeed", "f", spec);
        assert_eq!(mistakes(&text), [expect], "{spec}");
    }
}

#[test]
fn what_is_wrong_with_a_network_set_has_its_place() {
    for (spec, expect) in [
        (
            r#"{nets: [192.0.2.1/33]}"#,
            r#"4:15 spec.nets[0]: "192.0.2.1/33": not a prefix length"#,
        ),
        (
            r#"{nets: [192.0.2.1/24]}"#,
            r#"4:15 spec.nets[0]: has bits set behind its length"#,
        ),
        (
            r#"{nets: 192.0.2.1}"#,
            r#"4:14 spec.nets: expected a list, found a text"#,
        ),
        (
            r#"{allowedEgressDomains: [a.example]}"#,
            r#"4:30 spec.allowedEgressDomains: kept and shown, but not matched"#,
        ),
    ] {
        let text = with_spec("GlobalNetworkSet", "s", spec);
        assert_eq!(mistakes(&text), [expect], "{spec}");
    }
}

#[test]
fn what_is_wrong_with_a_tier_has_its_place() {
    for (spec, expect) in [
        (
            r#"{order: high}"#,
            r#"4:15 spec.order: expected a number, found a text"#,
        ),
        (
            r#"{order: 1, odrer: 2}"#,
            r#"4:18 spec.odrer: unknown field"#,
        ),
        (
            r#"{order: 1, order: 2}"#,
            r#"4:18 : the key "order" is there twice"#,
        ),
    ] {
        let text = with_spec("Tier", "t", spec);
        assert_eq!(mistakes(&text), [expect], "{spec}");
    }
}

#[test]
fn what_is_wrong_with_a_policy_has_its_place() {
    for (spec, expect) in [
        (r#"{}"#, r#"4:7 spec.tier: missing: the name begins with t"#),
        (
            r#"{tier: x}"#,
            r#"3:18 metadata.name: the name must begin with its tier, x."#,
        ),
        (
            r#"{tier: t, selector: "a = 'b'"}"#,
            r#"4:30 spec.selector: not a selector: write == for equality"#,
        ),
        (
            r#"{tier: t, serviceAccountSelector: all()}"#,
            r#"4:41 spec.serviceAccountSelector: service accounts are not known on a host"#,
        ),
        (
            r#"{tier: t, types: [Ingress], egress: [{action: Allow}]}"#,
            r#"4:43 spec.egress: these rules do nothing: types lacks Egress"#,
        ),
        (
            r#"{tier: t, preDNAT: true}"#,
            r#"4:26 spec.preDNAT: only false is taken: feedgate sees packets behind destination NAT"#,
        ),
        (
            r#"{tier: t, egress: [{}]}"#,
            r#"4:26 spec.egress[0].action: missing"#,
        ),
        (
            r#"{tier: t, egress: [{action: Drop}]}"#,
            r#"4:35 spec.egress[0].action: "Drop" is not one of Allow, Deny, Log, Pass"#,
        ),
        (
            r#"{tier: t, egress: [{action: Allow, protocol: TPC}]}"#,
            r#"4:52 spec.egress[0].protocol: "TPC" is not a protocol"#,
        ),
        (
            r#"{tier: t, egress: [{action: Allow, destination: {ports: [80]}}]}"#,
            r#"4:63 spec.egress[0].destination.ports: ports need a protocol that has them"#,
        ),
        (
            r#"{tier: t, egress: [{action: Allow, protocol: TCP, destination: {ports: [http]}}]}"#,
            r#"4:79 spec.egress[0].destination.ports[0]: the named port "http" is not taken"#,
        ),
        (
            r#"{tier: t, egress: [{action: Allow, protocol: TCP, destination: {ports: ['90:80']}}]}"#,
            r#"4:79 spec.egress[0].destination.ports[0]: "90:80" ends before it begins"#,
        ),
        (
            r#"{tier: t, egress: [{action: Allow, destination: {services: {name: a}}}]}"#,
            r#"4:66 spec.egress[0].destination.services: services are not known on a host"#,
        ),
        (
            r#"{tier: t, egress: [{action: Allow, destination: {namespaceSelector: all()}}]}"#,
            r#"4:75 spec.egress[0].destination.namespaceSelector: namespaces of a rule's end are not known on a host"#,
        ),
        (
            r#"{tier: t, egress: [{action: Allow, icmp: {type: 8}}]}"#,
            r#"4:48 spec.egress[0].icmp: feedgate's flows have no ICMP type"#,
        ),
        (
            r#"{tier: t, egress: [{action: Allow, http: {methods: [GET]}}]}"#,
            r#"4:48 spec.egress[0].http: feedgate decides on the first packet: no request is there yet"#,
        ),
        (
            r#"{tier: t, egress: [{action: Allow, ipVersion: 6, destination: {nets: [192.0.2.0/24]}}]}"#,
            r#"4:76 spec.egress[0].destination.nets: 192.0.2.0/24 is not IPv6"#,
        ),
        (
            r#"{tier: t, egress: [{action: Allow, destination: {net: [192.0.2.0/24]}}]}"#,
            r#"4:56 spec.egress[0].destination.net: unknown field"#,
        ),
    ] {
        let text = with_spec("GlobalNetworkPolicy", "t.p", spec);
        assert_eq!(mistakes(&text), [expect], "{spec}");
    }
}

#[test]
fn an_order_of_minus_zero_is_that_of_zero() {
    let orders = ["-0", "0"].map(|order| {
        let text = with_spec("Tier", "a", &format!("{{order: {order}}}"));
        good(&text).pop().unwrap().tier().unwrap().order
    });
    assert!(orders[0].cmp(&orders[1]).is_eq(), "{orders:?}");
}

#[test]
fn what_get_printed_is_left_out_but_where_it_is_kept() {
    let text = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: a\n  annotations: {feedgate/source: /etc/feedgate/feedgate.toml, note: b}\n";
    let parsed = parse(text);
    assert!(parsed.resources.is_empty(), "{parsed:?}");
    assert_eq!(parsed.mistakes.len(), 1);
    // Whether a file of the folder still keeps it, only the daemon can say.
    let of_file = text.replace("feedgate.toml", "manifests.d/a.yaml:1");
    assert_eq!(parse(&of_file).resources.len(), 1);
    let parsed = parse_kept(text);
    assert_eq!(parsed.mistakes, []);
    let metadata = &parsed.resources.first().unwrap().resource.metadata;
    let keys: Vec<&str> = metadata.annotations.keys().map(String::as_str).collect();
    assert_eq!(keys, ["note"]);
    // The set of a feed comes from the feed, and a part of a set is not the set.
    let set = |metadata: &str| {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {metadata}\n"
        );
        let parsed = parse_kept(&text);
        (parsed.resources.len(), parsed.has_errors())
    };
    let owner = "[{kind: GlobalThreatFeed, name: f}]";
    let kept = format!("{{name: threatfeed.f, ownerReferences: {owner}}}");
    assert_eq!(set(&kept), (0, false));
    let part = "{name: s, annotations: {feedgate/nets: \"s: nets 1 to 2 of 3\"}}";
    assert_eq!(set(part), (0, true));
}

#[test]
fn every_field_is_documented() {
    let text = concat!(
        include_str!("../../docs/calico.md"),
        include_str!("../../docs/policies.md")
    );
    // In the cells of tables; an example alone explains nothing.
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let cells = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let explained: std::collections::BTreeSet<&str> = cells
        .flat_map(|cell| cell.split(|c: char| !c.is_ascii_alphanumeric()))
        .collect();
    let fields = [
        &envelope::METADATA[..],
        &threat_feed::FIELDS,
        &threat_feed::CSV,
        &network_set::FIELDS,
        &tier::FIELDS,
        &policy::FIELDS,
        &rule::FIELDS,
        &rule::ENTITY,
    ];
    for field in fields.concat() {
        assert!(explained.contains(field), "{field} is in no table");
    }
}
