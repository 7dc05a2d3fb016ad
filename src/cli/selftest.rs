//! `feedgate selftest`: asks the daemon for a canary, sends to it from a child process, prints each step.

#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::path::Path;

use serde_json::Value;

use super::{Failure, ask};
use crate::{
    control::Request,
    daemon::{SelftestOrder, SelftestProbe},
};

pub(super) fn selftest(config: &Path, json: bool) -> Result<(), Failure> {
    let begun = ask::daemon(config, &Request::SelftestBegin)?;
    let report = match begun.get("report") {
        Some(report) => report.clone(),
        None => {
            let order: SelftestOrder =
                serde_json::from_value(begun["order"].clone()).map_err(Failure::failed)?;
            // That nothing came is in the report.
            let seen = || ask::daemon(config, &Request::SelftestSeen).is_ok();
            let probed = SelftestProbe::run(&order, seen);
            ask::daemon(config, &Request::SelftestEnd { probed })?
        }
    };
    if json {
        ask::print_json(&report);
    } else {
        print!("{}", render(&report));
    }
    match report["passed"] == true {
        true => Ok(()),
        // What is wrong has been printed.
        false => Err(Failure::failed("")),
    }
}

fn render(report: &Value) -> String {
    if let Some(why) = report["why"].as_str() {
        return format!("not testable: {why}\n");
    }
    let mut out = String::new();
    for step in report["steps"].as_array().into_iter().flatten() {
        let ok = step["ok"] == true;
        let time = step["us"].as_u64().map(took).unwrap_or_default();
        out.push_str(&format!(
            "{:<7}{:<12}{time:>10}  {}\n",
            if ok { "ok" } else { "FAILED" },
            ask::text(&step["name"]),
            ask::text(&step["text"])
        ));
        if let Some(help) = step["help"].as_str() {
            out.push_str(&format!("{:31}{help}\n", ""));
        }
    }
    let total = report["total_us"].as_u64().map(took).unwrap_or_default();
    let result = if report["passed"] == true {
        "passed"
    } else {
        "FAILED"
    };
    out.push_str(&format!("{result} in {total}\n"));
    out
}

fn took(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        _ => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_in_columns() {
        let report = serde_json::json!({ "passed": false, "total_us": 12_345, "steps": [
            { "name": "set", "ok": true, "us": 999, "text": "in" },
            { "name": "queue", "ok": false, "text": "nothing came", "help": "look" },
        ] });
        assert_eq!(
            render(&report),
            "\
ok     set             999 us  in
FAILED queue                   nothing came
                               look
FAILED in 12.3 ms
"
        );
        let report = serde_json::json!({ "passed": false, "why": "no hook" });
        assert_eq!(render(&report), "not testable: no hook\n");
    }
}
