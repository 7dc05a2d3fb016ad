//! `feedgate graph`: who talked to which feed, as text, JSON or for Graphviz.
#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;

use super::{Failure, alerts, args::Filters, ask, table::visible};
use crate::alert::filter::{Query, State};

/// Indicators named at an arrow of the drawing.
const NAMED: usize = 3;

pub(super) fn graph(config: &Path, filters: Filters, dot: bool, json: bool) -> Result<(), Failure> {
    let filter = filters.filter(State::All);
    let graph = alerts::ask(config, Query::Graph { filter })?;
    if json {
        ask::print_json(&graph);
        return Ok(());
    }
    let edges: Vec<&Value> = graph["edges"].as_array().into_iter().flatten().collect();
    if dot {
        print!("{}", to_dot(&edges));
        return Ok(());
    }
    if edges.is_empty() {
        println!("no stored alert fits");
    }
    print!("{}", to_text(&edges));
    if graph["more"] == true {
        println!(
            "the sources with fewest flows are left out; narrow it with --since, --feed or --source"
        );
    }
    Ok(())
}

/// Who talked to what, the busiest first, and below each with what.
fn to_text(edges: &[&Value]) -> String {
    let mut order: Vec<String> = Vec::new();
    let mut by_head: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for edge in edges {
        let (node, source) = (ask::text(&edge["node"]), ask::text(&edge["source"]));
        let sets = ask::list(&edge["network_sets"]);
        let head = visible(&format!("{node} {} {sets}", arrow(edge)));
        let by = match source == node {
            true => String::new(),
            false => format!(" by {source}"),
        };
        let line = format!(
            "  {} x {} {} {}{by}, {} to {}",
            edge["flows"],
            verdict(edge),
            ask::text(&edge["direction"]),
            ask::text(&edge["indicator"]),
            ask::text(&edge["first"]),
            ask::text(&edge["last"]),
        );
        let lines = by_head.entry(head.clone()).or_insert_with(|| {
            order.push(head);
            Vec::new()
        });
        lines.push(visible(&line));
    }
    let mut text = String::new();
    for head in order {
        text.push_str(&head);
        text.push('\n');
        for line in by_head.get(&head).into_iter().flatten() {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Which way the flows go.
fn arrow(edge: &Value) -> &'static str {
    match edge["direction"] == "ingress" {
        true => "<-",
        false => "->",
    }
}

/// What one arrow of the drawing stands for.
#[derive(Default)]
struct Arrow {
    flows: u64,
    indicators: BTreeSet<String>,
}

/// A digraph: sources at the left, the feeds and network sets that they talked to at the right; denied
/// flows in red.
fn to_dot(edges: &[&Value]) -> String {
    let mut arrows: BTreeMap<(String, String, bool, bool), Arrow> = BTreeMap::new();
    let mut nodes = BTreeSet::new();
    for edge in edges {
        let source = ask::text(&edge["node"]);
        nodes.insert(label("source", source));
        let sets = edge["network_sets"].as_array().into_iter().flatten();
        for set in sets.map(ask::text) {
            nodes.insert(label("feed", set));
            let denied = edge["action"] == "deny";
            let key = (
                node("source", source),
                node("feed", set),
                denied,
                edge["direction"] == "ingress",
            );
            let arrow = arrows.entry(key).or_default();
            let flows = edge["flows"].as_u64().unwrap_or(0);
            arrow.flows = arrow.flows.saturating_add(flows);
            let indicator = ask::text(&edge["indicator"]);
            arrow.indicators.insert(indicator.to_owned());
        }
    }
    let mut lines: Vec<String> = ["digraph feedgate {", "  rankdir=LR;", "  node [shape=box];"]
        .map(str::to_owned)
        .to_vec();
    for ((source, set, denied, ingress), arrow) in &arrows {
        let (word, color) = match denied {
            true => ("denied", "red"),
            false => ("allowed", "orange"),
        };
        lines.push(format!(
            "  {source} -> {set} [label={}, color={color}, dir={}];",
            quoted(&format!(
                "{} {word}: {}",
                arrow.flows,
                some(&arrow.indicators)
            )),
            if *ingress { "back" } else { "forward" },
        ));
    }
    lines.extend(nodes);
    lines.push("}".into());
    lines.join("\n") + "\n"
}

/// A few of them.
fn some(indicators: &BTreeSet<String>) -> String {
    let named: Vec<&str> = indicators.iter().take(NAMED).map(String::as_str).collect();
    match indicators.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Nodes of different kinds may have the same name.
fn node(kind: &str, name: &str) -> String {
    quoted(&format!("{kind} {name}"))
}

fn label(kind: &str, name: &str) -> String {
    let shape = match kind {
        "feed" => "folder",
        _ => "box",
    };
    let text = quoted(name);
    format!("  {} [label={text}, shape={shape}];", node(kind, name))
}

/// A quoted string of the DOT language. A backslash would begin an escape of Graphviz's own.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in visible(text).chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn verdict(edge: &Value) -> &'static str {
    if edge["action"] == "deny" {
        "denied"
    } else {
        "allowed"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn edges() -> [Value; 3] {
        let edge = |source: &str, node: &str, action: &str, flows: u64, indicator: &str| {
            json!({
                "source": source, "node": node, "feeds": ["a", "b"],
                "network_sets": ["threatfeed.a", "b"], "indicator": indicator, "action": action,
                "direction": "egress", "flows": flows, "alerts": 1, "first": "F", "last": "L",
            })
        };
        [
            edge(
                "cu\"rl\\n\n, user red",
                "cu\"rl\\n\n, user red",
                "deny",
                42,
                "203.0.113.2",
            ),
            edge("wget, container red", "red", "alert", 1, "203.0.113.2"),
            edge("curl, container red", "red", "alert", 2, "203.0.113.3"),
        ]
    }

    #[test]
    fn as_text() {
        let edges = edges();
        let edges: Vec<&Value> = edges.iter().collect();
        assert_eq!(
            to_text(&edges),
            "cu\"rl\\n?, user red -> threatfeed.a, b\n  42 x denied egress 203.0.113.2, F to L\n\
             red -> threatfeed.a, b\n  1 x allowed egress 203.0.113.2 by wget, container red, F to L\n  \
             2 x allowed egress 203.0.113.3 by curl, container red, F to L\n"
        );
    }

    #[test]
    fn for_graphviz_with_names_escaped() {
        let edges = edges();
        let edges: Vec<&Value> = edges.iter().collect();
        let dot = to_dot(&edges);
        let edge = r#"  "source cu\"rl\\n?, user red" -> "feed threatfeed.a" [label="42 denied: 203.0.113.2", color=red, dir=forward];"#;
        assert!(dot.contains(edge), "{dot}");
        let edge = r#"  "source red" -> "feed threatfeed.a" [label="3 allowed: 203.0.113.2, 203.0.113.3", color=orange, dir=forward];"#;
        assert!(dot.contains(edge), "{dot}");
        assert_eq!(dot.matches("shape=folder").count(), 2);
    }
}
