//! The three forms of the JSON file against their schemas, by a validator that is not ours.

use std::sync::LazyLock;

use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Alert,
    ecs::{self, Observer},
    eve, example,
    line::{Loss, LossKind},
    ocsf,
};
use crate::{feed::Action, packet::Transport};

fn validator(schema: &str) -> Validator {
    let schema = serde_json::from_str(schema).unwrap();
    jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .unwrap()
}

static ECS: LazyLock<Validator> =
    LazyLock::new(|| validator(include_str!("../../docs/ecs.schema.json")));
static EVE: LazyLock<Validator> =
    LazyLock::new(|| validator(include_str!("../../tests/fixtures/schemas/eve-alert.json")));
static OCSF: LazyLock<Validator> = LazyLock::new(|| {
    validator(include_str!(
        "../../tests/fixtures/schemas/ocsf-finding.json"
    ))
});

#[track_caller]
fn check(validator: &Validator, event: &Value) {
    let mistakes: Vec<String> = validator
        .iter_errors(event)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(mistakes.is_empty(), "{mistakes:#?} in {event:#}");
}

fn observer() -> Observer {
    Observer {
        hostname: "gw".into(),
        version: "0.1.0".into(),
    }
}

#[track_caller]
fn check_all(alert: &Alert) {
    check(&ECS, &ecs::ecs(alert, &observer()));
    check(&EVE, &eve::eve(alert, &observer()));
    check(&OCSF, &ocsf::ocsf(alert, &observer()));
}

/// Every text of an event, with its path.
fn texts<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => out.push(text),
        Value::Array(list) => list.iter().for_each(|value| texts(value, out)),
        Value::Object(map) => map.values().for_each(|value| texts(value, out)),
        _ => {}
    }
}

#[test]
fn a_schema_that_is_closed_refuses_what_it_does_not_know() {
    for (schema, mut event) in [
        (&ECS, ecs::ecs(&example::alert(), &observer())),
        (&EVE, eve::eve(&example::alert(), &observer())),
        (&OCSF, ocsf::ocsf(&example::alert(), &observer())),
    ] {
        assert!(schema.is_valid(&event));
        event["other"] = json!(1);
        assert!(!schema.is_valid(&event));
    }
    let mut event = ecs::ecs(&example::alert(), &observer());
    event["source"]["ip"] = json!("192.0.2.0/24");
    assert!(!ECS.is_valid(&event), "a network is no address");
}

#[test]
fn what_was_lost_is_told_in_each_form() {
    for kind in [
        LossKind::Undelivered,
        LossKind::Unattributed,
        LossKind::Unprotected,
        LossKind::HeldBack,
    ] {
        let loss = Loss {
            kind,
            count: 3,
            target: "json-file:/var/log/a.json".into(),
            cause: "the queue was full".into(),
            time: std::time::SystemTime::UNIX_EPOCH,
        };
        check(&ECS, &ecs::ecs_loss(&loss, &observer()));
        check(&EVE, &eve::eve_loss(&loss, &observer()));
        check(&OCSF, &ocsf::ocsf_loss(&loss, &observer()));
    }
}

proptest! {
    #[test]
    fn any_alert_fits(alert in example::any_alert()) {
        check_all(&alert);
    }

    #[test]
    fn every_form_carries_flow_feeds_and_attribution(alert in example::any_alert()) {
        let forms = [
            ecs::ecs(&alert, &observer()),
            eve::eve(&alert, &observer()),
            ocsf::ocsf(&alert, &observer()),
        ];
        for form in &forms {
            let mut all = Vec::new();
            texts(form, &mut all);
            let has = |text: &str| all.contains(&text);
            for feed in &alert.feeds {
                prop_assert!(has(feed.as_str()), "{feed} in {form}");
            }
            prop_assert!(has(&alert.flow.src.to_string()) && has(&alert.flow.dst.to_string()));
            prop_assert!(has(&alert.indicator.to_string()));
            prop_assert!(has(alert.source.grade.as_str()));
            prop_assert!(has(&alert.id.to_string()));
            let source = &alert.source;
            for name in [&source.unit, &source.container, &source.pod, &source.user, &source.cause].into_iter().flatten() {
                // ECS and OCSF have no place for the rest of a process without a pid or a namespace without a pod.
                prop_assert!(has(name), "{name:?} in {form}");
            }
        }
        let denied = alert.action == Action::Deny;
        let [ecs, eve, ocsf] = &forms;
        prop_assert_eq!(ecs["event"]["action"] == "deny", denied);
        prop_assert_eq!(eve["alert"]["action"] == "blocked", denied);
        prop_assert_eq!(eve["verdict"]["action"] == "drop", denied);
        prop_assert_eq!(ocsf["action_id"] == 2, denied);
        if let Transport::Ports { src, dst } = alert.flow.transport {
            prop_assert_eq!(&eve["src_port"], &json!(src));
            prop_assert_eq!(&ocsf["evidences"][0]["dst_endpoint"]["port"], &json!(dst));
        }
    }
}
