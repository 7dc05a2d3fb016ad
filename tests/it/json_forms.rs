//! Events of real flows in each form of the JSON file, against the schemas.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{Conf, Daemon, Lab, echo, eventually, exchange, ping, unanswered};

fn schema(path: &str) -> jsonschema::Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    jsonschema::options()
        .should_validate_formats(true)
        .build(&schema)
        .unwrap()
}

#[test]
fn real_events_fit_the_schemas() {
    let Some(lab) = Lab::new() else { return };
    let _echo = echo(&lab.server, "203.0.113.1:53");
    let conf = |format: &str| {
        let file = lab.path(&format!("{format}.json"));
        let conf = Conf::new(&lab)
            .feed("watch", "alert", &["203.0.113.0/30", "2001:db8:bad::1"])
            .feed("more", "alert", &["203.0.113.1"])
            .feed("block", "deny", &["203.0.113.4:53"])
            .json_file(&file)
            .alerting(&format!("json-format = \"{format}\""));
        (file, conf)
    };
    let (_, first) = conf("ecs");
    let daemon = Daemon::start(&lab, &lab.host, &first);
    for (format, path) in [
        ("ecs", "docs/ecs.schema.json"),
        ("eve", "tests/fixtures/schemas/eve-alert.json"),
        ("ocsf", "tests/fixtures/schemas/ocsf-finding.json"),
    ] {
        let (file, conf) = conf(format);
        daemon.reload(&conf.text());
        let name = format!("json-file:{}", file.display());
        eventually("alerts go to the file", || {
            let status = daemon.status();
            let mut sinks = status["sinks"].as_array().unwrap().iter();
            sinks.any(|sink| sink["name"] == name).then_some(())
        });
        exchange(&lab.host, "203.0.113.1:53").unwrap();
        assert!(unanswered(&lab.host, "203.0.113.4:53"));
        assert!(ping(&lab.host, "2001:db8:bad::1"));
        let lines = eventually("three events", || {
            let text = fs::read_to_string(&file).unwrap();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let lines: Vec<String> = whole.lines().map(str::to_owned).collect();
            (lines.len() >= 3).then_some(lines)
        });
        let schema = schema(path);
        for line in lines {
            let event: Value = serde_json::from_str(&line).unwrap();
            let mistakes: Vec<String> = schema
                .iter_errors(&event)
                .map(|e| format!("{}: {e}", e.instance_path()))
                .collect();
            assert!(mistakes.is_empty(), "{format}: {mistakes:#?} in {event:#}");
        }
    }
}
