//! What manifests are refused for, each with its place: what `tests` leaves out.

use super::{
    parse,
    tests::{mistakes, with_spec},
};

/// Stands in front of what a mistake is about.
const HERE: char = '‸';

/// Each text with [`HERE`] at the places where these mistakes are.
fn check(cases: &[(String, &[&str])]) {
    for (marked, expect) in cases {
        let mut places = Vec::new();
        let (mut line, mut column) = (1, 1);
        for c in marked.chars() {
            match c {
                HERE => places.push((line, column)),
                '\n' => (line, column) = (line + 1, 1),
                _ => column += 1,
            }
        }
        assert_eq!(places.len(), expect.len(), "{marked}");
        let expect: Vec<String> = (places.iter().zip(*expect))
            .map(|((line, column), message)| format!("{line}:{column} {message}"))
            .collect();
        assert_eq!(mistakes(&marked.replace(HERE, "")), expect, "{marked}");
    }
}

fn feed(pull: &str) -> String {
    with_spec("GlobalThreatFeed", "f", &format!("{{pull: {pull}}}"))
}

fn http(rest: &str) -> String {
    feed(&format!("{{http: {{url: 'http://a/', {rest}}}}}"))
}

fn policy(rest: &str) -> String {
    let spec = format!("{{tier: t, {rest}}}");
    with_spec("GlobalNetworkPolicy", "t.p", &spec)
}

fn rule(rest: &str) -> String {
    policy(&format!("egress: [{{action: Allow, {rest}}}]"))
}

fn tier(metadata: &str, rest: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {metadata}\n{rest}")
}

fn set(metadata: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {metadata}\n")
}

#[test]
fn refusals_of_a_threat_feed_have_their_places() {
    check(&[
        (
            with_spec(
                "GlobalThreatFeed",
                "f",
                "{content: ‸DomainNameSet, globalNetworkSet: ‸{}, pull: {http: {url: 'http://a/'}}}",
            ),
            &[
                "spec.content: feedgate matches addresses only",
                "spec.globalNetworkSet: only with content IPSet",
            ][..],
        ),
        (
            with_spec("GlobalThreatFeed", "f", "{mode: ‸enabled}"),
            &[r#"spec.mode: "enabled" is not one of Enabled, Disabled"#][..],
        ),
        (
            with_spec("GlobalThreatFeed", "f", "{feedType: ‸1}"),
            &["spec.feedType: expected a text, found a number"][..],
        ),
        (feed("‸{period: 5m}"), &["spec.pull.http: missing"][..]),
        (
            feed("{period: ‸100000h, http: {url: 'http://a/'}}"),
            &["spec.pull.period: must be at most 87660h"][..],
        ),
        (
            feed("{period: ‸5, http: {url: 'http://a/'}}"),
            &["spec.pull.period: expected a text, found a number"][..],
        ),
        (
            feed("{http: {url: ‸'http://a /'}}"),
            &["spec.pull.http.url: a URL has no spaces or control characters"][..],
        ),
        (
            feed("{http: {url: ‸'http:a'}}"),
            &["spec.pull.http.url: not a URL: no // behind the scheme"][..],
        ),
        (
            feed("{http: {url: ‸'//a'}}"),
            &["spec.pull.http.url: not a URL: relative URL without a base"][..],
        ),
        (
            http("headers: [{name: A, value: b}, {name: ‸a, value: c}]"),
            &["spec.pull.http.headers[1].name: this header is there twice"][..],
        ),
        (
            http("headers: [{name: A, value: ‸\"b\\nc\"}]"),
            &[
                "spec.pull.http.headers[0].value: the value of a header has no control characters and only ASCII",
            ][..],
        ),
        (
            http("headers: [{name: A, value: ‸5}]"),
            &["spec.pull.http.headers[0].value: expected a text, found a number"][..],
        ),
        (
            http("headers: [‸{name: A}]"),
            &["spec.pull.http.headers[0].value: missing"][..],
        ),
        (
            http("headers: [‸{value: b}]"),
            &["spec.pull.http.headers[0].name: missing"][..],
        ),
        (
            http("headers: [{name: A, valueFrom: ‸{}}]"),
            &["spec.pull.http.headers[0].valueFrom.secretKeyRef: missing"][..],
        ),
        (
            http(
                "headers: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}, configMapKeyRef: ‸{name: a, key: b}}}]",
            ),
            &["spec.pull.http.headers[0].valueFrom.configMapKeyRef: excludes secretKeyRef"][..],
        ),
        (
            http("headers: [{name: A, valueFrom: {configMapKeyRef: {name: a, key: ‸../b}}}]"),
            &[r#"spec.pull.http.headers[0].valueFrom.configMapKeyRef.key: "../b" is not a key"#][..],
        ),
        (
            http("headers: [{name: A, valueFrom: {configMapKeyRef: {name: a, key: ‸..}}}]"),
            &[r#"spec.pull.http.headers[0].valueFrom.configMapKeyRef.key: ".." is not a key"#][..],
        ),
        (
            http("headers: [{name: A, valueFrom: {secretKeyRef: ‸‸{}}}]"),
            &[
                "spec.pull.http.headers[0].valueFrom.secretKeyRef.name: missing",
                "spec.pull.http.headers[0].valueFrom.secretKeyRef.key: missing",
            ][..],
        ),
        (
            http("format: {‸xml: {}}"),
            &["spec.pull.http.format.xml: unknown field"][..],
        ),
        (
            http("format: {newlineDelimited: {‸comment: x}}"),
            &["spec.pull.http.format.newlineDelimited.comment: unknown field"][..],
        ),
        (
            http("format: {json: ‸{}}"),
            &["spec.pull.http.format.json.path: missing"][..],
        ),
        (
            http("format: {json: {path: ‸'a['}}"),
            &[
                "spec.pull.http.format.json.path: not a JSONPath: at position 0, parser error; it starts with $, as in $.ips[*] (RFC 9535)",
            ][..],
        ),
        (
            http("format: {csv: {fieldName: ‸'', header: true}}"),
            &["spec.pull.http.format.csv.fieldName: must not be empty"][..],
        ),
        (
            http("format: {csv: {fieldNum: ‸-1}}"),
            &[r#"spec.pull.http.format.csv.fieldNum: "-1" is not a whole number from 0"#][..],
        ),
        (
            http("format: {csv: {fieldNum: ‸70000}}"),
            &["spec.pull.http.format.csv.fieldNum: must be at most 65536"][..],
        ),
        (
            http("format: {csv: {recordSize: ‸0}}"),
            &["spec.pull.http.format.csv.recordSize: must be at least 1"][..],
        ),
        (
            http("format: {csv: {columnDelimiter: ‸';;'}}"),
            &[
                "spec.pull.http.format.csv.columnDelimiter: must be one ASCII character, and no quote or line end",
            ][..],
        ),
        (
            http("format: {csv: {columnDelimiter: ';', commentDelimiter: ‸';'}}"),
            &["spec.pull.http.format.csv.commentDelimiter: is also the columnDelimiter"][..],
        ),
        (
            http("format: {csv: {header: ‸yes}}"),
            &["spec.pull.http.format.csv.header: expected true or false"][..],
        ),
        (
            with_spec(
                "GlobalThreatFeed",
                "f",
                &format!("{{description: ‸{}}}", "a".repeat(257)),
            ),
            &["spec.description: must have at most 256 characters, has 257"][..],
        ),
        (
            with_spec("GlobalThreatFeed", &format!("‸{}", "a".repeat(118)), "{}"),
            &["metadata.name: longer than 117 characters"][..],
        ),
    ]);
}

#[test]
fn refusals_of_a_network_set_have_their_places() {
    check(&[
        (
            with_spec("GlobalNetworkSet", "s", "{nets: [‸a, 10.0.0.0/8, ‸5]}"),
            &[
                r#"spec.nets[0]: "a": not an IP address"#,
                "spec.nets[2]: expected a text, found a number",
            ][..],
        ),
        (
            with_spec("GlobalNetworkSet", "s", "{allowedEgressDomains: ‸[‸'a b']}"),
            &[
                "spec.allowedEgressDomains: kept and shown, but not matched",
                r#"spec.allowedEgressDomains[0]: "a b" is not a domain name"#,
            ][..],
        ),
        (
            set("{name: ‸threatfeed.x}"),
            &["metadata.name: sets named threatfeed.NAME are kept by feeds"][..],
        ),
        (
            set("{name: a, annotations: ‸{feedgate/nets: 'x: nets 1 to 2 of 3'}}"),
            &[r#"metadata.annotations: this is only a part of the set: "x: nets 1 to 2 of 3""#][..],
        ),
        (
            set(&format!("{{name: ‸{}}}", "a".repeat(129))),
            &["metadata.name: longer than 128 characters"][..],
        ),
        (
            set(r#"{name: ‸"partners\e[31m"}"#),
            &[r#"metadata.name: "partners\u{1b}[31m" is not a name"#][..],
        ),
    ]);
}

#[test]
fn refusals_of_metadata_and_a_tier_have_their_places() {
    check(&[
        (
            tier("{name: ‸a.b}", ""),
            &["metadata.name: the name of a tier has no dot"][..],
        ),
        (
            tier("{name: ‸A}", ""),
            &[r#"metadata.name: "A" is not a name"#][..],
        ),
        (tier("‸{}", ""), &["metadata.name: missing"][..]),
        (
            tier("{name: a, namespace: ‸b}", ""),
            &["metadata.namespace: a Tier has no namespace"][..],
        ),
        (
            tier("‸{generateName: ‸a}", ""),
            &[
                "metadata.name: missing",
                "metadata.generateName: names are not generated",
            ][..],
        ),
        (
            tier("{name: a, labels: {‸-x: y}}", ""),
            &["metadata.labels.-x: not the key of a label"][..],
        ),
        (
            tier("{name: a, labels: {x: ‸'y z'}}", ""),
            &["metadata.labels.x: not the value of a label"][..],
        ),
        (
            tier("{name: a, labels: {x: ‸5}}", ""),
            &["metadata.labels.x: expected a text, found a number"][..],
        ),
        (
            tier("{name: a, ‸nmae: b}", ""),
            &["metadata.nmae: unknown field"][..],
        ),
        (
            tier("‸[a]", ""),
            &["metadata: expected fields below it, found a list"][..],
        ),
        (
            tier("{name: default}", "spec: {order: ‸5}\n"),
            &["spec.order: the default tier stands at 1000000"][..],
        ),
        (
            tier("{name: a}", "spec: {defaultAction: ‸Pass}\n"),
            &["spec.defaultAction: the end of a tier always denies what its policies select"][..],
        ),
        (
            tier("{name: a}", "spec: {order: ‸.inf}\n"),
            &[r#"spec.order: ".inf" is not a finite decimal number"#][..],
        ),
        (
            tier("{name: a}", "‸specs: {}\n"),
            &["specs: unknown field"][..],
        ),
        (
            tier("{name: a}", "---\n") + &tier("{name: ‸a}", ""),
            &["metadata.name: tier/a is there twice"][..],
        ),
        (
            tier(
                &format!("{{name: a, annotations: {{x: ‸{}}}}}", "a".repeat(262_145)),
                "",
            ),
            &["metadata.annotations.x: longer than 256 KiB"][..],
        ),
    ]);
}

#[test]
fn refusals_of_lists_and_json_have_their_places() {
    check(&[
        ("‸apiVersion: projectcalico.org/v3\nkind: Tier\n".to_owned(), &["metadata: missing"][..]),
        ("apiVersion: v1\nkind: List\nitems:\n- kind: Tier\n  apiVersion: projectcalico.org/v3\n  metadata: {name: ‸A}\n".to_owned(), &[r#"items[0].metadata.name: "A" is not a name"#][..]),
        ("apiVersion: v1\nkind: ‸PodList\nitems: []\n".to_owned(), &[r#"kind: "Pod" is not a kind that feedgate takes"#][..]),
        ("apiVersion: ‸v2\nkind: List\nitems: []\n".to_owned(), &[r#"apiVersion: "v2" is not v1"#][..]),
        ("apiVersion: v1\nkind: List\nitems: ‸5\n".to_owned(), &["items: expected a list, found a number"][..]),
        ("‸‸{\"a\": 1,\n ‸\"a\": 2}\n".to_owned(), &["apiVersion: missing", "kind: missing", r#": the key "a" is there twice"#][..]),
        ("{\"kind\": \"Tier\", \"apiVersion\": \"projectcalico.org/v3\",\n \"metadata\": {\"name\": \"a\"},\n \"spec\": {\"order\": ‸\"5\"}}".to_owned(), &["spec.order: expected a number, found a text"][..]),
    ]);
}

#[test]
fn refusals_of_a_policy_and_its_rules_have_their_places() {
    check(&[
        (
            policy("types: ‸[Egress, Egress]"),
            &["spec.types: a direction is there twice"][..],
        ),
        (
            policy("types: [‸egress]"),
            &[r#"spec.types[0]: "egress" is not one of Ingress, Egress"#][..],
        ),
        (
            policy("doNotTrack: ‸true"),
            &["spec.doNotTrack: only false is taken: feedgate's flows are those of conntrack"][..],
        ),
        (
            policy("‸stagedAction: Set"),
            &["spec.stagedAction: unknown field"][..],
        ),
        (
            policy("selector: 'a == ‸'"),
            &["spec.selector: not a selector: expected a quoted value after ==, found the end"][..],
        ),
        (
            policy("namespaceSelector: 'has(‸'"),
            &[
                "spec.namespaceSelector: not a selector: expected the key of a label after has(, found the end; it is written without quotes",
            ][..],
        ),
        (
            policy("‸tier: T"),
            &[r#": the key "tier" is there twice"#][..],
        ),
        (
            with_spec(
                "StagedGlobalNetworkPolicy",
                "t.p",
                "{tier: t, stagedAction: ‸Drop}",
            ),
            &[r#"spec.stagedAction: "Drop" is not one of Set, Delete, Ignore, Learn"#][..],
        ),
        (
            with_spec("GlobalNetworkPolicy", "t.p", "{tier: ‸T.x}"),
            &[r#"spec.tier: "T.x" is not the name of a tier"#][..],
        ),
        (
            "‸apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\n"
                .to_owned(),
            &["spec: missing"][..],
        ),
        (
            rule("protocol: ‸0"),
            &["spec.egress[0].protocol: 0 is not a protocol"][..],
        ),
        (
            rule("protocol: ‸256"),
            &["spec.egress[0].protocol: 256 is not a protocol"][..],
        ),
        (
            rule("notProtocol: ‸x"),
            &[r#"spec.egress[0].notProtocol: "x" is not a protocol"#][..],
        ),
        (
            rule("ipVersion: ‸5"),
            &["spec.egress[0].ipVersion: must be 4 or 6"][..],
        ),
        (
            rule("ipVersion: 6, protocol: ‸ICMP"),
            &["spec.egress[0].protocol: does not occur in IPv6"][..],
        ),
        (
            rule("metadata: ‸{annotations: {}}"),
            &["spec.egress[0].metadata: annotations of rules are not kept"][..],
        ),
        (
            rule("metadata: ‸{‸foo: 1}"),
            &[
                "spec.egress[0].metadata: annotations of rules are not kept",
                "spec.egress[0].metadata.foo: unknown field",
            ][..],
        ),
        (
            rule("metadata: ‸x"),
            &["spec.egress[0].metadata: expected fields below it, found a text"][..],
        ),
        (
            rule("metadata: ‸{annotations: {a: ‸1}}"),
            &[
                "spec.egress[0].metadata: annotations of rules are not kept",
                "spec.egress[0].metadata.annotations.a: expected a text, found a number",
            ][..],
        ),
        (
            rule("protocol: ‸-1"),
            &[r#"spec.egress[0].protocol: "-1" is not a protocol"#][..],
        ),
        (
            rule("protocol: TCP, source: {ports: [‸-1, ‸80.0]}"),
            &[
                r#"spec.egress[0].source.ports[0]: "-1" is not a port"#,
                r#"spec.egress[0].source.ports[1]: "80.0" is not a port"#,
            ][..],
        ),
        (
            rule("protocol: TCP, source: {ports: [‸{a: b}]}"),
            &["spec.egress[0].source.ports[0]: expected a port, found fields"][..],
        ),
        (
            rule("notICMP: ‸{type: 1}"),
            &["spec.egress[0].notICMP: feedgate's flows have no ICMP type"][..],
        ),
        (
            rule("source: {serviceAccounts: ‸{names: [a]}}"),
            &["spec.egress[0].source.serviceAccounts: service accounts are not known on a host"][..],
        ),
        (
            rule("source: {domains: ‸[a]}"),
            &["spec.egress[0].source.domains: feedgate matches addresses only"][..],
        ),
        (
            rule("source: {selector: 'a‸'}"),
            &[
                "spec.egress[0].source.selector: not a selector: expected ==, !=, in, not in, contains, starts with or ends with, found the end",
            ][..],
        ),
        (
            rule(r#"source: {notSelector: "x == 'a' ‸& b"}"#),
            &["spec.egress[0].source.notSelector: not a selector: write &&"][..],
        ),
        (
            rule("source: {notNets: [‸a]}"),
            &[r#"spec.egress[0].source.notNets[0]: "a": not an IP address"#][..],
        ),
        (
            rule("protocol: TCP, source: {ports: [‸0]}"),
            &[r#"spec.egress[0].source.ports[0]: "0" is not a port"#][..],
        ),
        (
            rule("protocol: TCP, source: {ports: [‸70000]}"),
            &[r#"spec.egress[0].source.ports[0]: "70000" is not a port"#][..],
        ),
        (
            rule("protocol: TCP, source: {notPorts: [‸'1:2:3']}"),
            &[r#"spec.egress[0].source.notPorts[0]: "1:2:3" is not a port"#][..],
        ),
        (
            rule("protocol: ICMP, source: {notPorts: ‸[1]}"),
            &["spec.egress[0].source.notPorts: ports need a protocol that has them"][..],
        ),
        (
            policy(&format!("selector: ‸{}", "a".repeat(4_097))),
            &["spec.selector: longer than 4096 bytes"][..],
        ),
    ]);
}

#[test]
fn refusals_of_yaml_itself_have_their_places() {
    check(&[
        (
            "a: {‸<<: {b: c}}\n".to_owned(),
            &[": merge keys are not taken"][..],
        ),
        ("‸[a]: b\n".to_owned(), &[": a key must be a text"][..]),
        ("‸{a: b}: c\n".to_owned(), &[": a key must be a text"][..]),
        (
            "a: &x [‸*x]\n".to_owned(),
            &[": an alias inside its own anchor"][..],
        ),
        (
            "a: ‸*x\n".to_owned(),
            &[": while parsing node, found unknown anchor"][..],
        ),
        (
            "a:\n\t‸- b\n".to_owned(),
            &[": tabs disallowed within this context (block indentation)"][..],
        ),
    ]);
}

#[test]
fn limits_hold_and_have_their_places() {
    let mistake = |text: &str| {
        let mut found = parse(text).mistakes;
        let last = found.pop().unwrap();
        format!("{}:{} {}", last.line, last.column, last.message)
    };
    let levels = mistake(&"[".repeat(10_000));
    assert_eq!(levels, "1:65 recursion limit exceeded");
    // The document after the last that is read.
    let documents = mistake(&"---\n".repeat(20_000));
    assert_eq!(documents, "10001:1 more than 10000 documents");
    // Each level repeats the one before it eight times.
    let bomb = "a: &a [x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n\
        c: &c [*b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n\
        e: &e [*d, *d, *d, *d, *d, *d, *d, *d]\n";
    assert_eq!(mistake(bomb), "4:7 anchors hold more than 10000 values");
    let kind = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: a}\n";
    let long = format!("{kind}# {}\nspec: {{}}\n", "a".repeat(1 << 20));
    assert_eq!(mistake(&long), "1:1 longer than 1024 KiB");
}
