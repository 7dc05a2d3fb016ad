//! `feedgate lookup`: who lists an address, what becomes of its flows, and who decides.
#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use serde_json::Value;

use super::{Failure, ask, table::visible};
use crate::{
    control::{Asked, Request},
    feed::{Direction, PortMatch},
};

pub(super) fn lookup(
    config: &Path,
    address: IpAddr,
    labels: Vec<(String, String)>,
    port: Option<PortMatch>,
    direction: Option<Direction>,
    json: bool,
) -> Result<(), Failure> {
    let asked = Asked {
        endpoint: endpoint(labels)?,
        port: port.map(|port| port.to_string()),
        direction,
    };
    let request = Request::Lookup {
        addr: address,
        asked,
    };
    let answer = ask::daemon(config, &request)?;
    if json {
        ask::print_json(&answer);
    } else {
        print!("{}", render(&answer));
    }
    Ok(())
}

fn endpoint(labels: Vec<(String, String)>) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let mut all = BTreeMap::new();
    for (key, value) in labels {
        if let Some(other) = all.insert(key.clone(), value.clone()) {
            return Err(Failure::usage(format!(
                "--as gives {key} twice, {other:?} and {value:?}: an endpoint has one value of a label"
            )));
        }
    }
    Ok((!all.is_empty()).then_some(all))
}

fn render(answer: &Value) -> String {
    let mut lines = Vec::new();
    if let Some(labels) = answer["endpoint"].as_object() {
        let pair = |(key, value): (&String, &Value)| format!("{key}={}", ask::text(value));
        let pairs: Vec<String> = labels.iter().map(pair).collect();
        lines.push(format!("as {}", pairs.join(", ")));
    }
    let address = ask::text(&answer["address"]);
    let ports: Vec<&Value> = answer["ports"].as_array().into_iter().flatten().collect();
    for (direction, way) in [("egress", "to"), ("ingress", "from")] {
        let Some(verdict) = answer.get(direction) else {
            continue;
        };
        let flows = format!("flows {way} {address}");
        lines.push(format!("{direction}: {flows} are {}", becomes(verdict)));
        let why = verdict["explanation"].as_array().into_iter().flatten();
        lines.extend(why.map(|line| format!("  {}", ask::text(line))));
        let others = ports.iter().filter(|port| port[direction] != *verdict);
        for port in others {
            let number = ask::text(&port["port"]);
            lines.push(format!(
                "{direction}: {flows} port {number} are {}",
                becomes(&port[direction])
            ));
        }
    }
    if answer["ipv4"].is_string() {
        let v4 = ask::text(&answer["ipv4"]);
        lines.push(format!("{address} stands for {v4}"));
    }
    let sets = &answer["network_sets"];
    if sets.as_array().is_some_and(|sets| !sets.is_empty()) {
        lines.push(format!("in network sets: {}", ask::list(sets)));
    }
    for listing in answer["listings"].as_array().into_iter().flatten() {
        let why = match (listing["ignored"].as_str(), listing["exception"].as_str()) {
            (Some(why), _) => format!(", does not count: {why}"),
            (None, Some(why)) => format!(", not denied: exception: {why}"),
            (None, None) => String::new(),
        };
        lines.push(format!(
            "listed by {}: {} ({}{}{why})",
            ask::text(&listing["feed"]),
            ask::text(&listing["indicator"]),
            ask::text(&listing["action"]),
            if listing["trial"] == true {
                ", on trial"
            } else {
                ""
            },
        ));
    }
    for exception in answer["exceptions"].as_array().into_iter().flatten() {
        let at = match exception["kind"] == "resolver" {
            true => " at ports 53 and 853",
            false => "",
        };
        lines.push(format!(
            "excepted{at}: {} ({})",
            ask::text(&exception["why"]),
            ask::text(&exception["prefix"])
        ));
    }
    lines.iter().map(|line| visible(line) + "\n").collect()
}

/// What becomes of flows, in words.
fn becomes(verdict: &Value) -> String {
    if verdict.is_null() {
        return "left alone".to_owned();
    }
    let denied = verdict["action"] == "deny";
    let what = match (verdict["quiet"] == true, denied) {
        (true, _) => "let pass",
        (_, true) => "denied",
        _ if verdict["exception"].is_string() => "let pass, with an alert once a day",
        _ => "let pass with an alert",
    };
    let what = match depends(verdict) {
        Some(on) => {
            format!("denied or let pass, which depends on {on} ({what} while that is not known)")
        }
        None => what.to_owned(),
    };
    let by = match (verdict["policy"].as_str(), verdict["rule"].as_u64()) {
        (Some(policy), Some(rule)) => format!(" by policy {policy}, rule {rule}"),
        (Some(policy), None) => format!(" by policy {policy}, at the end of its tier"),
        _ => String::new(),
    };
    let trial = verdict["trial"].as_str();
    let trial = trial.map(|words| format!("; {words}")).unwrap_or_default();
    format!(
        "{what}{by}: {} in {} (class {}, severity {}){trial}",
        ask::text(&verdict["indicator"]),
        ask::list(&verdict["feeds"]),
        ask::text(&verdict["class"]),
        ask::text(&verdict["severity"]),
    )
}

/// `the source (the label unit)`, or what else it depends on.
fn depends(verdict: &Value) -> Option<String> {
    let on = verdict["depends_on"].as_array()?;
    let words = ask::list(&verdict["depends_on"]);
    let is_of_source = |word: &Value| {
        let word = ask::text(word);
        word.starts_with("the label ") || word.contains("endpoint") || word == "the source port"
    };
    match on.iter().all(is_of_source) {
        true => Some(format!("the source ({words})")),
        false => Some(words),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_decides_and_why() {
        let answer = json!({
            "address": "203.0.113.9",
            "endpoint": { "unit": "nginx\u{1b}.service" },
            "egress": {
                "action": "deny", "class": "watch", "indicator": "203.0.113.0/24",
                "feeds": ["ipsum"], "severity": "medium", "tier": "default", "policy": "default.web",
                "rule": 2, "explanation": ["tier default", "result: denied"],
            },
            "ingress": {
                "action": "alert", "class": "watch", "indicator": "203.0.113.0/24",
                "feeds": ["ipsum"], "severity": "medium", "depends_on": ["the label unit"],
            },
            "network_sets": ["threatfeed.ipsum"],
            "listings": [{ "feed": "ipsum", "indicator": "203.0.113.0/24", "action": "alert" }],
        });
        assert_eq!(
            render(&answer),
            "as unit=nginx?.service\n\
             egress: flows to 203.0.113.9 are denied by policy default.web, rule 2: 203.0.113.0/24 in ipsum \
             (class watch, severity medium)\n  \
             tier default\n  \
             result: denied\n\
             ingress: flows from 203.0.113.9 are denied or let pass, which depends on the source \
             (the label unit) (let pass with an alert while that is not known): 203.0.113.0/24 in ipsum \
             (class watch, severity medium)\n\
             in network sets: threatfeed.ipsum\n\
             listed by ipsum: 203.0.113.0/24 (alert)\n"
        );
    }

    #[test]
    fn a_label_is_given_once() {
        let pair = |value: &str| ("unit".to_owned(), value.to_owned());
        assert_eq!(endpoint(vec![]).unwrap(), None);
        let failure = endpoint(vec![pair("a"), pair("b")]).unwrap_err();
        assert_eq!(failure.code, 2);
    }
}
