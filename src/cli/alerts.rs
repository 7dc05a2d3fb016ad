//! `feedgate alerts`: the stored alerts, from the daemon, or from the file while no daemon runs.
#![allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null

use std::{collections::BTreeSet, path::Path, time::Duration};

use serde_json::Value;

use super::{
    Failure,
    args::{AlertsCommand, Filters},
    ask, check,
    output::print_json_line,
    table::{Table, terminal_width, visible},
};
use crate::{
    alert::filter::{Filter, Query, State},
    alertdb::{PAGE_ALERTS, ReadError, Reader},
    control::{self, ClientError, Request},
};

/// From so many columns on ids are shown whole.
const WIDE: usize = 140;
/// How often `follow` asks.
const POLL: Duration = Duration::from_millis(300);

pub(super) fn run(config: &Path, command: AlertsCommand) -> Result<(), Failure> {
    match command {
        AlertsCommand::List {
            filters,
            state,
            limit,
            json,
        } => list(config, &filters.filter(state.state()), limit, json.json),
        AlertsCommand::Follow { filters, json } => follow(config, filters, json),
        AlertsCommand::Show { id, json } => show(config, id, json.json),
        AlertsCommand::Dismiss {
            ids,
            all,
            filters,
            note,
            json,
        } => dismiss(config, ids, all, filters, note, json.json),
        AlertsCommand::Verify { anchor, json } => verify(config, anchor, json.json),
    }
}

/// Asks the daemon, and without one the file.
pub(super) fn ask(config: &Path, query: Query) -> Result<Value, Failure> {
    let settings = check::read(config)?;
    let request = Request::Alerts {
        query: query.clone(),
    };
    let not_running = match control::call(&settings.daemon.control_socket, &request) {
        Ok(value) => return Ok(value),
        Err(error @ ClientError::NotRunning { .. }) => error,
        Err(error) => return Err(ask::failure(error)),
    };
    let Some(name) = settings.alerts.store.file else {
        return Err(ask::failure(not_running));
    };
    let path = settings.daemon.state_dir.join(name);
    // Feeds of the configuration keep a network set; of others that is not known here.
    let feeds = &settings.feeds;
    let keeps_set = |name: &str| feeds.iter().any(|feed| feed.name.as_str() == name);
    let read = Reader::open(&path).and_then(|reader| reader.answer(&query, None, keeps_set));
    read.map_err(|error| match error {
        ReadError::Open { ref source, .. }
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Failure::permission(error)
        }
        ReadError::Open { .. } => Failure::failed(format!("{not_running}\n{error}")),
        error => Failure::failed(error),
    })
}

fn list(config: &Path, filter: &Filter, limit: usize, json: bool) -> Result<(), Failure> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let (mut alerts, mut before, mut more) = (Vec::new(), None, true);
    while more && alerts.len() < limit {
        let page = ask(
            config,
            Query::List {
                filter: filter.clone(),
                before,
                after: None,
                limit: PAGE_ALERTS.min(limit - alerts.len()),
            },
        )?;
        alerts.extend(page["alerts"].as_array().into_iter().flatten().cloned());
        more = page["more"] == true;
        let last = alerts.last().and_then(|item: &Value| item["seq"].as_i64());
        before = last.or(Some(0));
    }
    if json {
        ask::print_json(&Value::from(alerts));
        return Ok(());
    }
    if alerts.is_empty() {
        println!("no stored alert fits");
        return Ok(());
    }
    print!("{}", table(&alerts, terminal_width()));
    if more {
        println!("there are more: --limit N, or narrower filters");
    }
    Ok(())
}

/// A table of alerts. Where it would be wider than the terminal, ids are cut to what tells these
/// alerts apart, and the sources give way.
fn table(alerts: &[Value], width: Option<usize>) -> String {
    const HEADS: [&str; 7] = [
        "TIME (UTC)",
        "VERDICT",
        "FLOWS",
        "FAR END",
        "FEEDS",
        "SOURCE",
        "ID",
    ];
    let rows: Vec<Vec<String>> = alerts.iter().map(row).collect();
    let ids: Vec<&str> = rows
        .iter()
        .filter_map(|row| Some(row.last()?.as_str()))
        .collect();
    let short = match width {
        Some(width) if width < WIDE => telling(&ids),
        _ => usize::MAX,
    };
    let mut table = Table::new(&HEADS, 5);
    for mut row in rows {
        if let Some(id) = row.last_mut()
            && let Some(cut) = id.get(..short)
        {
            *id = cut.to_owned();
        }
        table.add(row);
    }
    table.render(width)
}

/// How many characters of these ids tell them apart.
fn telling(ids: &[&str]) -> usize {
    // As many as give the millisecond and a little more.
    (18..36)
        .find(|&length| {
            let cut: BTreeSet<&str> = ids.iter().filter_map(|id| id.get(..length)).collect();
            cut.len() == ids.len()
        })
        .unwrap_or(36)
}

fn row(item: &Value) -> Vec<String> {
    let alert = &item["alert"];
    let time = ask::text(&alert["@timestamp"]);
    let verdict = match (ask::text(&alert["event"]["action"]), &item["state"]) {
        ("deny", state) if state == "dismissed" => "denied (dismissed)",
        ("deny", _) => "denied",
        (_, state) if state == "dismissed" => "alerted (dismissed)",
        _ => "alerted",
    };
    let direction = ask::text(&alert["network"]["direction"]);
    let far = match direction {
        "ingress" => &alert["source"],
        _ => &alert["destination"],
    };
    let way = if direction == "ingress" { "from" } else { "to" };
    vec![
        time.get(..19).unwrap_or(time).replace('T', " "),
        verdict.to_owned(),
        alert["feedgate"]["count"].to_string(),
        format!("{way} {}", address(far)),
        names(&alert["threat"]["feed"]["name"]),
        source(alert),
        ask::text(&alert["event"]["id"]).to_owned(),
    ]
}

fn address(end: &Value) -> String {
    let ip = ask::text(&end["ip"]);
    match (end["port"].as_u64(), ip.contains(':')) {
        (Some(port), true) => format!("[{ip}]:{port}"),
        (Some(port), false) => format!("{ip}:{port}"),
        (None, _) => ip.to_owned(),
    }
}

fn names(value: &Value) -> String {
    match value {
        Value::String(name) => name.clone(),
        list => ask::list(list),
    }
}

/// `curl[1234], unit cron.service, user red`
fn source(alert: &Value) -> String {
    let process = &alert["process"];
    let mut words = Vec::new();
    match (process["name"].as_str(), process["pid"].as_u64()) {
        (Some(name), Some(pid)) => words.push(format!("{name}[{pid}]")),
        (Some(name), None) => words.push(name.to_owned()),
        (None, Some(pid)) => words.push(format!("pid {pid}")),
        (None, None) => {}
    }
    let labels = [
        ("pod", &alert["orchestrator"]["resource"]["name"]),
        ("container", &alert["container"]["name"]),
        ("container", &alert["container"]["id"]),
        ("unit", &alert["service"]["name"]),
        ("user", &alert["user"]["name"]),
        ("client", &alert["feedgate"]["client"]),
        ("mac", &alert["source"]["mac"]),
    ];
    let known = labels.iter().filter_map(|(label, value)| {
        let value = value.as_str()?;
        Some(format!("{label} {value}"))
    });
    words.extend(known);
    if words.is_empty() {
        words.push(ask::text(&alert["source"]["ip"]).to_owned());
    }
    words.join(", ")
}

fn follow(config: &Path, filters: Filters, json: bool) -> Result<(), Failure> {
    let socket = ask::socket(config)?;
    let earlier = filters.has_since();
    let filter = filters.filter(State::All);
    let mut after = if earlier { Some(0) } else { None };
    let mut away = false;
    loop {
        let query = Query::List {
            filter: filter.clone(),
            before: None,
            // The first question only tells where the end is.
            after: Some(after.unwrap_or(i64::MAX)),
            limit: PAGE_ALERTS,
        };
        let page = match control::call(&socket, &Request::Alerts { query }) {
            Ok(page) => page,
            Err(
                error @ (ClientError::NotRunning { .. }
                | ClientError::Broken { .. }
                | ClientError::Unanswered(_)),
            ) => {
                if !away {
                    eprintln!("feedgate: {error}; waiting for it");
                }
                away = true;
                std::thread::sleep(POLL);
                continue;
            }
            // While the daemon starts the file may not be there yet.
            Err(ClientError::Refused(_)) if away => {
                std::thread::sleep(POLL);
                continue;
            }
            Err(error) => return Err(ask::failure(error)),
        };
        if std::mem::take(&mut away) {
            eprintln!("feedgate: it answers again");
        }
        let newest = page["newest"].as_i64().unwrap_or(0);
        let mut last = after.unwrap_or(newest);
        if newest < last {
            eprintln!("feedgate: the store was begun anew");
            after = Some(0);
            continue;
        }
        for item in page["alerts"].as_array().into_iter().flatten() {
            print_new(item, json);
            last = last.max(item["seq"].as_i64().unwrap_or(0));
        }
        let more = page["more"] == true;
        after = Some(if more { last } else { last.max(newest) });
        if !more {
            std::thread::sleep(POLL);
        }
    }
}

fn print_new(item: &Value, json: bool) {
    if json {
        print_json_line(item);
    } else {
        println!("{}", visible(&row(item).join("  ")));
    }
}

fn show(config: &Path, id: String, json: bool) -> Result<(), Failure> {
    let item = ask(config, Query::Show { id })?;
    if json {
        ask::print_json(&item);
    } else {
        print!("{}", render(&item));
    }
    Ok(())
}

/// The sentence, the state, and every field under its name.
fn render(item: &Value) -> String {
    let alert = &item["alert"];
    let mut lines = vec![ask::text(&alert["message"]).to_owned(), decided(alert)];
    let dismissed = &item["dismissed"];
    lines.push(match dismissed.is_object() {
        false => "open".to_owned(),
        true => format!(
            "dismissed at {} by {} (uid {}): {}",
            ask::text(&dismissed["at"]),
            ask::text(&dismissed["by"]["user"]),
            dismissed["by"]["uid"],
            match ask::text(&dismissed["note"]) {
                "" => "no note",
                note => note,
            }
        ),
    });
    let mut fields = vec![("record".to_owned(), item["seq"].to_string())];
    leaves("", alert, &mut fields);
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let fields = fields.iter().filter(|(name, _)| name != "message");
    lines.extend(fields.map(|(name, value)| format!("  {name:<width$}  {value}")));
    lines.iter().map(|line| visible(line) + "\n").collect()
}

/// What was decided, and by whom.
fn decided(alert: &Value) -> String {
    let verdict = match alert["event"]["action"] == "deny" {
        true => "denied",
        false => "let pass",
    };
    if let Some(why) = alert["feedgate"]["exception"].as_str() {
        return format!("{verdict} whatever feeds and policies deny: exception {why}");
    }
    match alert["rule"]["name"].as_str() {
        Some(policy) => format!("{verdict} by policy {policy}"),
        None => format!("{verdict} by the feeds' own action"),
    }
}

/// Every value with its path.
fn leaves(path: &str, value: &Value, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(&format!("{path}{dot}{name}"), value, out);
            }
        }
        Value::Array(items)
            if items
                .iter()
                .all(|item| item.is_string() || item.is_number()) =>
        {
            let words: Vec<String> = items.iter().map(plain).collect();
            out.push((path.to_owned(), words.join(", ")));
        }
        other => out.push((path.to_owned(), plain(other))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn dismiss(
    config: &Path,
    ids: Vec<String>,
    all: bool,
    filters: Filters,
    note: String,
    json: bool,
) -> Result<(), Failure> {
    if !all && !filters.is_empty() {
        return Err(Failure::usage("filters go with --all, not with ids"));
    }
    let all = all.then(|| filters.filter(State::Open));
    let value = ask::daemon(config, &Request::Dismiss { ids, all, note })?;
    if json {
        ask::print_json(&value);
    } else {
        println!(
            "{} {} dismissed",
            value["dismissed"],
            if value["dismissed"] == 1 {
                "alert is"
            } else {
                "alerts are"
            }
        );
    }
    Ok(())
}

fn verify(config: &Path, anchor: Option<String>, json: bool) -> Result<(), Failure> {
    let report = ask(config, Query::Verify { anchor })?;
    if json {
        ask::print_json(&report);
    } else {
        print!("{}", visible_lines(&verdict(&report)));
    }
    if report["ok"] == true {
        Ok(())
    } else {
        Err(Failure::failed(""))
    }
}

fn verdict(report: &Value) -> String {
    let good = report["ok"] == true;
    let mut text = format!(
        "{}: {} records from {} on, {} alerts; head {}\n",
        if good { "good" } else { "CHANGED" },
        report["records"],
        report["first"],
        report["alerts"],
        ask::text(&report["head"]),
    );
    if report["evicted"].as_u64().unwrap_or(0) > 0 {
        text.push_str(&format!(
            "{} alerts of what comes in were deleted from between them: no room below store-max-size\n",
            report["evicted"]
        ));
    }
    if report["lost"].as_u64().unwrap_or(0) > 0 {
        text.push_str(&format!(
            "{} alerts did not get into the store: its queue was full\n",
            report["lost"]
        ));
    }
    for finding in report["findings"].as_array().into_iter().flatten() {
        let id = finding["id"].as_str();
        text.push_str(&format!(
            "  {:<7} record {}{}: {}\n",
            ask::text(&finding["kind"]),
            finding["seq"],
            id.map(|id| format!(", alert {id}")).unwrap_or_default(),
            ask::text(&finding["text"]),
        ));
    }
    let shown = report["findings"].as_array().map_or(0, Vec::len);
    let all = report["found"].as_u64().unwrap_or(0);
    if all > u64::try_from(shown).unwrap_or(u64::MAX) {
        text.push_str(&format!("  and more, {all} in all\n"));
    }
    text
}

fn visible_lines(text: &str) -> String {
    text.lines().map(|line| visible(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item() -> Value {
        json!({
            "seq": 7,
            "state": "open",
            "alert": {
                "@timestamp": "2026-11-25T02:01:25.123456Z",
                "message": "a sentence",
                "event": { "action": "deny", "id": "0190a5c8-7c1e-7000-8000-000000000001" },
                "network": { "direction": "egress" },
                "source": { "ip": "10.0.0.1", "port": 4711 },
                "destination": { "ip": "2001:db8::1", "port": 80 },
                "threat": { "feed": { "name": ["a", "b"] } },
                "process": { "name": "cu\u{1b}rl", "pid": 12 },
                "feedgate": { "count": 3 },
            },
        })
    }

    #[test]
    fn a_row_for_people() {
        assert_eq!(
            table(&[item()], None).lines().nth(1).unwrap(),
            "2026-11-25 02:01:25  denied   3      to [2001:db8::1]:80  a, b   cu?rl[12]  \
             0190a5c8-7c1e-7000-8000-000000000001"
        );
        let mut other = item();
        other["alert"]["event"]["id"] = "0190a5c8-7c1e-7000-8001-000000000001".into();
        let narrow = table(&[item(), other], Some(100));
        assert!(narrow.contains("  0190a5c8-7c1e-7000-8001\n"), "{narrow}");
        assert!(
            narrow.lines().all(|line| line.chars().count() <= 100),
            "{narrow}"
        );
    }

    #[test]
    fn everything_known_is_shown() {
        let mut item = item();
        item["dismissed"] = json!({
            "at": "2026-11-25T03:00:00Z", "by": { "uid": 0, "user": "root" }, "note": "a\nb",
        });
        let text = render(&item);
        assert!(text.starts_with(
            "a sentence\ndenied by the feeds' own action\n\
                 dismissed at 2026-11-25T03:00:00Z by root (uid 0): a?b\n"
        ));
        assert!(text.contains("threat.feed.name   a, b\n"), "{text}");
        assert!(text.contains("process.name       cu?rl\n"), "{text}");
    }

    #[test]
    fn findings_are_named() {
        let report = json!({
            "ok": false, "records": 9, "alerts": 8, "first": 1, "head": "9:ab", "lost": 4, "found": 120,
            "findings": [{ "kind": "edited", "seq": 5, "id": "x", "text": "record 5 is not what was written" }],
        });
        assert_eq!(
            verdict(&report),
            "CHANGED: 9 records from 1 on, 8 alerts; head 9:ab\n\
             4 alerts did not get into the store: its queue was full\n  \
             edited  record 5, alert x: record 5 is not what was written\n  and more, 120 in all\n"
        );
    }
}
