use std::time::Instant;

use super::{
    Endpoint, Entity, Fact, Labels, Order, Policies, Policy, Question, Reach, Rule, RuleAction,
    Tier,
};
use crate::{feed::Direction, packet::Protocol};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn rule(action: RuleAction, set: &str) -> Rule {
    Rule {
        action,
        protocol: None,
        not_protocol: None,
        ip_version: None,
        source: Entity::default(),
        destination: Entity {
            selector: Some(set.parse().unwrap()),
            ..Entity::default()
        },
    }
}

fn policy(name: &str, order: f64, selector: &str, egress: Vec<Rule>) -> Policy {
    Policy {
        name: name.into(),
        tier: name.split('.').next().unwrap().to_owned(),
        order: Order(Some(order)),
        selector: selector.parse().unwrap(),
        namespace_selector: None,
        has_ingress: false,
        has_egress: true,
        ingress: Vec::new(),
        egress,
        is_staged: false,
    }
}

fn security() -> Tier {
    Tier {
        name: "security".to_owned(),
        order: Order(Some(100.0)),
    }
}

/// One unit may reach the feed, nobody else.
fn example() -> Policies {
    let feed = r#"threatfeed == "training""#;
    let mut staged = policy(
        "security.staged",
        1.0,
        "all()",
        vec![rule(RuleAction::Deny, "all()")],
    );
    staged.is_staged = true;
    let mut ingress = policy("security.in", 2.0, "all()", vec![]);
    (ingress.has_ingress, ingress.has_egress) = (true, false);
    let mut web = rule(RuleAction::Allow, feed);
    web.protocol = Some(Protocol::TCP);
    web.destination.ports = vec![(443, 443)];
    Policies::new(
        vec![security()],
        vec![
            policy(
                "security.rest",
                20.0,
                "all()",
                vec![rule(RuleAction::Deny, feed)],
            ),
            policy(
                "security.nginx",
                10.0,
                r#"unit == "nginx.service""#,
                vec![web],
            ),
            policy(
                "missing.tier",
                1.0,
                "all()",
                vec![rule(RuleAction::Deny, "all()")],
            ),
            ingress,
            staged,
        ],
    )
}

fn with<T>(
    endpoint: &Endpoint,
    far_sets: &[&Labels],
    dst_port: Fact<Option<u16>>,
    ask: impl FnOnce(&Question<'_>) -> T,
) -> T {
    ask(&Question {
        direction: Direction::Egress,
        endpoint,
        near: Fact::Unknown,
        far: "203.0.113.9".parse().unwrap(),
        far_sets,
        proto: Fact::Known(Protocol::TCP),
        src_port: Fact::Unknown,
        dst_port,
    })
}

fn complete(pairs: &[(&str, &str)]) -> Endpoint {
    Endpoint {
        labels: labels(pairs),
        is_complete: true,
    }
}

fn lines(policies: &Policies, endpoint: &Endpoint, port: Fact<Option<u16>>) -> String {
    let set = labels(&[("threatfeed", "training")]);
    let steps = with(endpoint, &[&set], port, |question| {
        policies.explain(question)
    });
    steps.iter().map(|step| format!("{step}\n")).collect()
}

#[test]
fn an_explanation_names_what_decides_and_why_the_rest_does_not() {
    let nginx = complete(&[("unit", "nginx.service")]);
    assert_eq!(
        lines(&example(), &nginx, Fact::Known(Some(80))),
        r#"tier security (order 100)
  security.staged (staged): takes part, by all()
    egress rule 1, Deny: matches
  security.in: no rules for egress
  security.nginx: takes part, by unit == "nginx.service"
    egress rule 1, Allow: no, destination.ports: the port is not among them
  security.rest: takes part, by all()
    egress rule 1, Deny: matches
result: denied by security.rest, egress rule 1
result: staged security.staged would deny
"#
    );
}

#[test]
fn an_explanation_says_what_it_depends_on() {
    let any = Endpoint::any(&Labels::new());
    assert_eq!(
        lines(&example(), &any, Fact::Unknown),
        r#"tier security (order 100)
  security.staged (staged): takes part, by all()
    egress rule 1, Deny: matches
  security.in: no rules for egress
  security.nginx: takes part or not, by unit == "nginx.service": depends on the label unit
    egress rule 1, Allow: depends on the destination port
  security.rest: takes part, by all()
    egress rule 1, Deny: matches
result: depends on the destination port and the label unit: a policy allows it, or a policy denies it
"#
    );
}

#[test]
fn the_end_of_a_tier_is_explained() {
    let nobody = complete(&[]);
    let steps = |sets: &[&Labels]| {
        let steps = with(&nobody, sets, Fact::Unknown, |question| {
            example().explain(question)
        });
        let lines = steps.iter().skip(5);
        lines.map(|step| format!("{step}\n")).collect::<String>()
    };
    assert_eq!(
        steps(&[]),
        r#"  security.rest: takes part, by all()
    egress rule 1, Deny: no, destination.selector: 203.0.113.9 is in no network set
  end of the tier: denies, since a policy takes part and no rule decided
result: denied at the end of the tier of security.rest, where no rule decided
"#
    );
    let nothing = Policies::new(vec![], vec![]);
    assert!(nothing.is_empty());
    let found = with(&nobody, &[], Fact::Unknown, |question| {
        nothing.explain(question)
    });
    assert_eq!(
        found[0].to_string(),
        "result: no policy decides: the feeds' own action does"
    );
}

#[test]
fn too_many_ways_count_as_everything() {
    let tiers = (0..6).map(|i| Tier {
        name: format!("t{i}"),
        order: Order(Some(f64::from(i))),
    });
    // A policy for each of many values passes to the next tier, by a key of its own per tier: the
    // ways multiply. At their end all are the same.
    let policies = (0..6).flat_map(|tier| {
        (0..20).map(move |value| {
            let selector = format!(r#"k{tier} == "{value}""#);
            let pass = rule(RuleAction::Pass, "all()");
            policy(&format!("t{tier}.p{value:02}"), 1.0, &selector, vec![pass])
        })
    });
    let policies = Policies::new(tiers.collect(), policies.collect());
    let set = Labels::new();
    let any = Endpoint::any(&Labels::new());
    with(&any, &[&set], Fact::Unknown, |question| {
        assert_eq!(policies.explore(question), Reach::ALL);
        assert_eq!(policies.rule(question), None);
    });
}

/// `cargo test --release --lib policies_tests::speed -- --ignored --nocapture`
#[test]
#[ignore = "prints how long answers take"]
fn speed() {
    let set = labels(&[("threatfeed", "training"), ("origin", "abuse")]);
    let far: Vec<Policy> = (0..100)
        .map(|i| {
            let selector = format!(r#"unit == "unit{i:03}.service" && user != "root""#);
            let feed = rule(RuleAction::Allow, r#"threatfeed == "training""#);
            let other = rule(RuleAction::Deny, r#"threatfeed == "other""#);
            policy(
                &format!("security.p{i:03}"),
                f64::from(i),
                &selector,
                vec![other, feed],
            )
        })
        .collect();
    let known = |unit: &str| {
        complete(&[
            ("app", "web"),
            ("comm", "x"),
            ("exe", "/usr/bin/x"),
            ("projectcalico.org/namespace", "web"),
            ("unit", unit),
            ("user", "www-data"),
        ])
    };
    let any = Endpoint::any(&Labels::new());
    let mut denied = far.clone();
    for policy in &mut denied {
        policy.egress[1].action = RuleAction::Deny;
    }
    denied.push(policy("security.z", 1e6, "all()", vec![]));
    let mixed = &Policies::new(vec![security()], far);
    let denied = &Policies::new(vec![security()], denied);
    let (nginx, last) = (known("nginx.service"), known("unit099.service"));
    for (what, policies, endpoint, rounds) in [
        ("rule, none of 100 policies", mixed, nginx, 20_000),
        ("rule, the last of 100 policies", mixed, last, 20_000),
        (
            "explore, any endpoint, many answers",
            mixed,
            any.clone(),
            200,
        ),
        (
            "explore, any endpoint, one answer on all ways",
            denied,
            any,
            200,
        ),
    ] {
        let is_complete = endpoint.is_complete;
        with(&endpoint, &[&set], Fact::Known(Some(443)), |question| {
            let start = Instant::now();
            for _ in 0..rounds {
                if is_complete {
                    std::hint::black_box(policies.rule(question));
                } else {
                    std::hint::black_box(policies.explore(question));
                }
            }
            let each = start.elapsed() / rounds;
            println!("{what}: {each:?}");
        });
    }
}

#[test]
fn a_set_that_some_endpoint_may_be_denied() {
    let with = |action| {
        let rules = vec![
            rule(action, r#"threatfeed == "training""#),
            rule(RuleAction::Allow, "all()"),
        ];
        let policy = policy("security.p", 1.0, "unit == 'x'", rules);
        Policies::new(vec![security()], vec![policy])
    };
    let asked = |policies: &Policies, feed: &str| {
        let anybody = Endpoint::any(&Labels::new());
        policies.may_deny(&anybody, &labels(&[("threatfeed", feed)]))
    };
    let denies = with(RuleAction::Deny);
    assert!(asked(&denies, "training") && !asked(&denies, "other"));
    assert!(!asked(&with(RuleAction::Allow), "training"));
    assert!(!asked(&Policies::default(), "training"));
}
