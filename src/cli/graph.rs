//! `feedgate graph`: who talked to which feed, as text, JSON or for Graphviz.
#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::{Failure, alerts, args::Filters, ask, table::visible};
use crate::alert::filter::{Query, State};

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

/// The sources with most flows first, and below each what it touched.
fn to_text(edges: &[&Value]) -> String {
    let mut order: Vec<&str> = Vec::new();
    let mut by_source: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for edge in edges {
        let source = ask::text(&edge["source"]);
        let of = by_source.entry(source).or_insert_with(|| {
            order.push(source);
            Vec::new()
        });
        of.push(edge);
    }
    let mut text = String::new();
    for source in order {
        text.push_str(&visible(source));
        text.push('\n');
        for edge in by_source.get(source).into_iter().flatten() {
            let line = format!(
                "  {} x {} {} {} ({}), {} to {}",
                edge["flows"],
                verdict(edge),
                ask::text(&edge["direction"]),
                ask::text(&edge["indicator"]),
                ask::list(&edge["feeds"]),
                ask::text(&edge["first"]),
                ask::text(&edge["last"]),
            );
            text.push_str(&visible(&line));
            text.push('\n');
        }
    }
    text
}

/// A digraph: sources at the left, indicators, the feeds that list them at the right.
fn to_dot(edges: &[&Value]) -> String {
    let mut lines: Vec<String> = ["digraph feedgate {", "  rankdir=LR;", "  node [shape=box];"]
        .map(str::to_owned)
        .to_vec();
    let mut lists = std::collections::BTreeSet::new();
    for edge in edges {
        let (source, indicator) = (&edge["source"], &edge["indicator"]);
        let denied = edge["action"] == "deny";
        lines.push(format!(
            "  {} -> {} [label={}, color={}, dir={}];",
            node("source", source),
            node("indicator", indicator),
            quoted(&format!("{} {}", edge["flows"], verdict(edge))),
            if denied { "red" } else { "orange" },
            if edge["direction"] == "ingress" {
                "back"
            } else {
                "forward"
            },
        ));
        for (kind, name) in [("source", source), ("indicator", indicator)] {
            lists.insert(label(kind, name));
        }
        for feed in edge["feeds"].as_array().into_iter().flatten() {
            lists.insert(label("feed", feed));
            lists.insert(format!(
                "  {} -> {} [style=dashed, arrowhead=none];",
                node("indicator", indicator),
                node("feed", feed)
            ));
        }
    }
    lines.extend(lists);
    lines.push("}".into());
    lines.join("\n") + "\n"
}

/// Nodes of different kinds may have the same name.
fn node(kind: &str, name: &Value) -> String {
    quoted(&format!("{kind} {}", ask::text(name)))
}

fn label(kind: &str, name: &Value) -> String {
    let shape = match kind {
        "indicator" => "ellipse",
        "feed" => "folder",
        _ => "box",
    };
    let text = quoted(ask::text(name));
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
        "alerted"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn edges() -> [Value; 2] {
        let edge = |source: &str, action: &str, flows: u64| {
            json!({
                "source": source, "feeds": ["a", "b"], "indicator": "203.0.113.2", "action": action,
                "direction": "egress", "flows": flows, "alerts": 1, "first": "F", "last": "L",
            })
        };
        [
            edge("cu\"rl\\n\n, user red", "deny", 42),
            edge("wget", "alert", 1),
        ]
    }

    #[test]
    fn as_text() {
        let edges = edges();
        let edges: Vec<&Value> = edges.iter().collect();
        assert_eq!(
            to_text(&edges),
            "cu\"rl\\n?, user red\n  42 x denied egress 203.0.113.2 (a, b), F to L\n\
             wget\n  1 x alerted egress 203.0.113.2 (a, b), F to L\n"
        );
    }

    #[test]
    fn for_graphviz_with_names_escaped() {
        let edges = edges();
        let edges: Vec<&Value> = edges.iter().collect();
        let dot = to_dot(&edges);
        let edge = r#"  "source cu\"rl\\n?, user red" -> "indicator 203.0.113.2" [label="42 denied", color=red, dir=forward];"#;
        assert!(dot.contains(edge), "{dot}");
        assert!(dot.contains("  \"indicator 203.0.113.2\" -> \"feed b\" [style=dashed"));
        assert_eq!(dot.matches("shape=folder").count(), 2);
    }
}
