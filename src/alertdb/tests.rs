use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use super::*;
use crate::{
    alert::{
        example,
        filter::{State, Verdict},
    },
    feed::Action,
};

const SOON: Duration = Duration::from_secs(60);

fn observer() -> Observer {
    Observer {
        hostname: "gw".into(),
        version: "0.1.0".into(),
    }
}

fn bounds() -> AlertStore {
    AlertStore {
        file: Some("alerts.db".into()),
        max_age: Duration::from_secs(30 * 86_400),
        max_size: 256 << 20,
    }
}

fn alert() -> Alert {
    Alert {
        id: uuid::Uuid::now_v7(),
        time: SystemTime::now(),
        ..example::alert()
    }
}

/// A store in a folder of its own.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("alerts.db")
    }

    fn start(&self) -> AlertDb {
        self.start_with(&bounds())
    }

    fn start_with(&self, bounds: &AlertStore) -> AlertDb {
        AlertDb::start(&self.path(), bounds, observer()).unwrap()
    }

    /// A closed store with so many alerts.
    fn filled(count: usize) -> Self {
        let place = Self::new();
        let db = place.start();
        for _ in 0..count {
            db.submit(&alert());
        }
        assert!(db.sync(SOON, 0), "{:?}", db.status());
        db.close(SOON);
        place
    }

    fn reader(&self) -> Reader {
        Reader::open(&self.path()).unwrap()
    }

    fn verify(&self) -> Report {
        self.reader().verify(&Known::default()).unwrap()
    }

    /// Changes the file with SQLite's own tool, as an intruder would.
    fn sql(&self, text: &str) {
        let done = Command::new("sqlite3")
            .arg(self.path())
            .arg(text)
            .output()
            .expect("sqlite3 is installed (make test-deps)");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

fn list(reader: &Reader, filter: &Filter) -> Vec<Value> {
    reader
        .list(filter, Part::Before(i64::MAX), 1000)
        .unwrap()
        .alerts
}

fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    let start = Instant::now();
    while !look() {
        assert!(start.elapsed() < SOON, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_submitted_is_read_back_newest_first() {
    let place = Place::new();
    let db = place.start();
    let mut first = alert();
    first.source.comm = Some("Wget".into());
    first.action = Action::Alert;
    let second = alert();
    db.submit(&first);
    db.submit(&second);
    assert!(db.sync(SOON, 1));
    let reader = db.reader().unwrap();
    let all = list(&reader, &Filter::default());
    let ids: Vec<_> = all
        .iter()
        .map(|item| &item["alert"]["event"]["id"])
        .collect();
    assert_eq!(ids, [&second.id.to_string(), &first.id.to_string()]);
    // The first record says that the store begins.
    assert_eq!(all[1]["seq"], 2);
    assert_eq!(all[0]["state"], "open");
    for (filter, found) in [
        (
            Filter {
                source: Some("wGET".into()),
                ..Filter::default()
            },
            1,
        ),
        (
            Filter {
                source: Some("cron.serv".into()),
                ..Filter::default()
            },
            2,
        ),
        (
            Filter {
                source: Some("10.0.0.1".into()),
                ..Filter::default()
            },
            2,
        ),
        (
            Filter {
                source: Some("0.0.0.1".into()),
                ..Filter::default()
            },
            0,
        ),
        (
            Filter {
                feed: Some("ipsum".into()),
                ..Filter::default()
            },
            2,
        ),
        (
            Filter {
                feed: Some("ips".into()),
                ..Filter::default()
            },
            0,
        ),
        (
            Filter {
                action: Some(Verdict::Alert),
                ..Filter::default()
            },
            1,
        ),
        (
            Filter {
                state: State::Dismissed,
                ..Filter::default()
            },
            0,
        ),
        (
            Filter {
                since: Some(micros(second.time) + 1),
                ..Filter::default()
            },
            0,
        ),
        (
            Filter {
                since: Some(micros(first.time)),
                ..Filter::default()
            },
            2,
        ),
    ] {
        assert_eq!(list(&reader, &filter).len(), found, "{filter:?}");
    }
    let status = db.close(SOON);
    assert_eq!((status.stored, status.queued, status.dropped), (2, 0, 0));
    assert_eq!((status.records, status.repaired), (3, None));
    assert!(place.verify().ok);
}

#[test]
fn any_alert_can_be_stored_found_and_verified() {
    use proptest::{
        strategy::{Strategy, ValueTree},
        test_runner::TestRunner,
    };
    let place = Place::new();
    // Their times are anything: none of them is old.
    let db = place.start_with(&AlertStore {
        max_age: Duration::from_secs(4_000_000_000_000),
        ..bounds()
    });
    let mut runner = TestRunner::deterministic();
    let alerts: Vec<Alert> = (0..200)
        .map(|_| {
            example::any_alert()
                .new_tree(&mut runner)
                .unwrap()
                .current()
        })
        .collect();
    for alert in &alerts {
        db.submit(alert);
    }
    assert!(db.sync(SOON, 0), "{:?}", db.status());
    let reader = db.reader().unwrap();
    let report = reader.verify(&Known::default()).unwrap();
    assert!(report.ok, "{:?}", report.findings);
    for alert in &alerts {
        let shown = reader.show(&alert.id.to_string()).unwrap();
        assert_eq!(shown["alert"], crate::alert::ecs::ecs(alert, &observer()));
        let named = Filter {
            source: alert.source.exe.clone().filter(|exe| !exe.is_empty()),
            feed: Some(alert.feeds[0].to_string()),
            ..Filter::default()
        };
        assert!(!list(&reader, &named).is_empty(), "{named:?}");
    }
    assert!(!reader.graph(&Filter::default()).unwrap().0.is_empty());
}

#[test]
fn pages_hold_together() {
    let place = Place::filled(1_234);
    let reader = place.reader();
    let (mut before, mut seen) = (i64::MAX, Vec::new());
    loop {
        let page = reader
            .list(&Filter::default(), Part::Before(before), 100)
            .unwrap();
        seen.extend(page.alerts.iter().map(|item| item["seq"].as_i64().unwrap()));
        before = *seen.last().unwrap();
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, (2..=1_235).rev().collect::<Vec<_>>());
    let page = reader
        .list(&Filter::default(), Part::After(1_233), 100)
        .unwrap();
    let seqs: Vec<_> = page
        .alerts
        .iter()
        .map(|item| item["seq"].as_i64().unwrap())
        .collect();
    assert_eq!(seqs, [1_234, 1_235]);
}

#[test]
fn an_id_may_be_short_and_must_be_unique() {
    let place = Place::new();
    let db = place.start();
    let mut one = alert();
    one.id = uuid::Uuid::from_u128(0xaaaa_0000 << 96);
    let mut two = alert();
    two.id = uuid::Uuid::from_u128(0xaaaa_1000 << 96);
    db.submit(&one);
    db.submit(&two);
    assert!(db.sync(SOON, 0));
    let reader = db.reader().unwrap();
    assert_eq!(reader.show("AAAA0").unwrap()["seq"], 2);
    assert_eq!(reader.show(&two.id.to_string()).unwrap()["seq"], 3);
    let several = reader.show("aaaa").unwrap_err().to_string();
    assert!(
        several.contains(&one.id.to_string()) && several.contains(&two.id.to_string()),
        "{several}"
    );
    assert!(
        reader
            .show("bbbb")
            .unwrap_err()
            .to_string()
            .contains("no stored alert")
    );
    for bad in ["", "x", "%", "aaaa_", &"a".repeat(37)] {
        assert!(
            reader
                .show(bad)
                .unwrap_err()
                .to_string()
                .contains("not the beginning"),
            "{bad}"
        );
    }
}

fn me() -> Person {
    Person {
        uid: 1001,
        user: Some("red".into()),
    }
}

#[test]
fn a_dismissal_is_in_the_chain() {
    let place = Place::new();
    let db = place.start();
    let alerts: Vec<Alert> = (0..20).map(|_| alert()).collect();
    for alert in &alerts {
        db.submit(alert);
    }
    assert!(db.sync(SOON, 0));
    let one = Which::Ids(vec![alerts[3].id.to_string()]);
    for count in [1, 0] {
        let done = db
            .dismiss(one.clone(), me(), "our own scanner".into())
            .unwrap();
        assert_eq!(
            done.dismissed, count,
            "a second time there is nothing to do"
        );
    }
    let unknown = Which::Ids(vec![alerts[4].id.to_string(), "ffff".into()]);
    let error = db.dismiss(unknown, me(), String::new()).unwrap_err();
    assert!(error.contains("ffff"), "{error}");
    let reader = db.reader().unwrap();
    let open = Filter {
        state: State::Open,
        ..Filter::default()
    };
    assert_eq!(list(&reader, &open).len(), 19, "all or nothing");
    let shown = reader.show(&alerts[3].id.to_string()).unwrap();
    assert_eq!(shown["state"], "dismissed");
    assert_eq!(shown["dismissed"]["by"]["user"], "red");
    assert_eq!(shown["dismissed"]["note"], "our own scanner");
    let none = Filter {
        feed: Some("other".into()),
        ..Filter::default()
    };
    assert_eq!(
        db.dismiss(Which::All(none), me(), String::new())
            .unwrap()
            .dismissed,
        0
    );
    let all = Which::All(Filter::default());
    assert_eq!(
        db.dismiss(all, me(), "false alarm".into())
            .unwrap()
            .dismissed,
        19
    );
    assert!(list(&reader, &open).is_empty());
    db.close(SOON);
    assert!(place.verify().ok, "{:?}", place.verify());
    for (sql, kind) in [
        ("UPDATE alert SET dismissed = NULL WHERE seq = 5", "column"),
        ("UPDATE alert SET dismissed = 1 WHERE seq = 6", "column"),
    ] {
        place.sql(sql);
        assert!(
            place.verify().findings.iter().any(|f| f.kind == kind),
            "{sql}"
        );
    }
}

#[test]
fn a_graph_sums_the_flows() {
    let place = Place::new();
    let db = place.start();
    let mut summary = alert();
    summary.count = 41;
    summary.window = Some((summary.time, summary.time));
    let mut other = alert();
    other.source.comm = Some("wget".into());
    other.source.container = Some("red".into());
    for alert in [&alert(), &summary, &other] {
        db.submit(alert);
    }
    assert!(db.sync(SOON, 0));
    let (edges, more) = db.reader().unwrap().graph(&Filter::default()).unwrap();
    assert!(!more);
    assert_eq!(edges.len(), 2);
    assert_eq!((edges[0].flows, edges[0].alerts), (42, 2));
    assert_eq!(edges[0].source, "curl, unit cron.service, user red");
    assert_eq!(edges[0].feeds, ["ipsum"]);
    assert_eq!(edges[0].node, edges[0].source);
    assert_eq!((edges[1].flows, edges[1].action.as_str()), (1, "deny"));
    assert_eq!(edges[1].node, "red");
    let mut edge = edges[0].clone();
    edge.feeds.push("by-hand".into());
    edge.name_sets(|feed| feed == "ipsum");
    assert_eq!(edge.network_sets, ["threatfeed.ipsum", "by-hand"]);
}

/// The files of a store together.
fn size_of(path: &Path) -> u64 {
    open::Paths::new(path).size()
}

#[test]
fn it_stays_below_its_size_also_in_mid_flood() {
    for (max_size, mixed) in [
        (1 << 20, false),
        (8 << 20, false),
        (1 << 20, true),
        (8 << 20, true),
    ] {
        let place = Place::new();
        let bounds = AlertStore {
            max_size,
            ..bounds()
        };
        let db = place.start_with(&bounds);
        let (path, stop) = (place.path(), AtomicBool::new(false));
        let most = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut most = 0;
                while !stop.load(Ordering::Relaxed) {
                    most = most.max(size_of(&path));
                    std::thread::sleep(Duration::from_micros(200));
                }
                most
            });
            for _ in 0..12 {
                for n in 0..max_size / (8 << 10) {
                    let came_in = mixed && n % 2 == 0;
                    db.submit(&if came_in { from_outside() } else { alert() });
                }
                assert!(db.sync(SOON, 0), "{:?}", db.status());
            }
            stop.store(true, Ordering::Relaxed);
            watch.join().unwrap()
        });
        assert!(most <= max_size, "{most} of {max_size}");
        assert!(
            most > max_size / 2,
            "most of the room is used: {most} of {max_size}"
        );
        let status = db.close(SOON);
        assert_eq!((status.dropped, status.last_error), (0, None));
        let report = place.verify();
        assert!(report.ok, "{:?}", report.findings);
        assert!(
            report.first > 100 && !report.checkpoint.starts_with("0:"),
            "{report:?}"
        );
        assert_eq!(report.records, status.records);
        // A smaller bound takes effect at the next start, and in a running store.
        let smaller = AlertStore {
            max_size: 1 << 20,
            ..bounds
        };
        let db = place.start_with(&smaller);
        db.submit(&alert());
        assert!(db.sync(SOON, 0), "{:?}", db.status());
        assert!(size_of(&place.path()) <= 1 << 20);
        db.close(SOON);
        let report = place.verify();
        assert!(report.ok, "{:?}", report.findings);
    }
}

/// An alert from outside, by a source that may be made up.
fn from_outside() -> Alert {
    Alert {
        direction: crate::feed::Direction::Ingress,
        ..alert()
    }
}

/// A closed store of 1 MiB that overflowed: 100 alerts of what goes out among thousands of what comes in.
fn flooded() -> (Place, DbStatus) {
    let place = Place::new();
    let db = place.start_with(&AlertStore {
        max_size: 1 << 20,
        ..bounds()
    });
    for n in 0..5_000 {
        if n % 50 == 0 {
            db.submit(&alert());
        }
        db.submit(&from_outside());
        if n % 500 == 0 {
            assert!(db.sync(SOON, 0), "{:?}", db.status());
        }
    }
    assert!(db.sync(SOON, 0), "{:?}", db.status());
    let status = db.close(SOON);
    (place, status)
}

fn directions(place: &Place) -> Vec<String> {
    let alerts = list(&place.reader(), &Filter::default());
    let direction = |item: &Value| {
        item["alert"]["network"]["direction"]
            .as_str()
            .unwrap()
            .into()
    };
    alerts.iter().map(direction).collect()
}

#[test]
fn what_comes_in_makes_room_first_and_the_chain_says_so() {
    let (place, status) = flooded();
    assert_eq!((status.dropped, status.last_error), (0, None));
    assert!(size_of(&place.path()) <= 1 << 20);
    let directions = directions(&place);
    let out = directions.iter().filter(|d| *d == "egress").count();
    assert_eq!(out, 100, "of {}", directions.len());
    let report = place.verify();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(report.first, 1, "nothing was deleted at the beginning");
    assert!(report.evicted > 3_000, "{report:?}");
    assert_eq!(
        report.evicted + u64::try_from(directions.len()).unwrap(),
        5_100
    );
    assert_eq!(report.records, status.records);
    // What goes out takes the room of what comes in, then that of its own oldest.
    let db = place.start_with(&AlertStore {
        max_size: 1 << 20,
        ..bounds()
    });
    for _ in 0..20 {
        for _ in 0..100 {
            db.submit(&alert());
        }
        assert!(db.sync(SOON, 0), "{:?}", db.status());
    }
    let status = db.close(SOON);
    assert!(self::directions(&place).iter().all(|d| d == "egress"));
    let report = place.verify();
    assert!(report.ok, "{:?}", report.findings);
    assert!(report.first > 1);
    assert_eq!(report.records, status.records);
}

#[test]
fn a_deletion_beside_an_eviction_is_found() {
    let (place, _) = flooded();
    // Runs of 50 with one of what goes out between them.
    let edge = "(SELECT min(seq) FROM alert WHERE direction = 'egress' AND seq > 100)";
    for table in ["record", "alert"] {
        place.sql(&format!(
            "CREATE TABLE IF NOT EXISTS gone AS SELECT {edge} AS seq"
        ));
        place.sql(&format!(
            "DELETE FROM {table} WHERE seq = (SELECT seq FROM gone)"
        ));
    }
    let report = place.verify();
    let kinds: Vec<_> = report.findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, ["gap"], "{:?}", report.findings);
    // A run that was made longer by hand, to hide that an alert of what goes out was deleted.
    let (place, _) = flooded();
    place.sql(
        "DELETE FROM record WHERE seq = 2; DELETE FROM alert WHERE seq = 2; \
         UPDATE record SET body = replace(body, '[[3,', '[[2,') \
         WHERE seq = (SELECT min(seq) FROM record WHERE kind = 'evicted')",
    );
    let kinds: Vec<_> = place.verify().findings.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, ["edited"]);
}

#[test]
fn a_head_that_was_evicted_is_no_damage() {
    let (place, _) = flooded();
    let head = open::head_path(&place.path());
    for seq in [7, 40] {
        let link = record::Link { seq, hash: [7; 32] };
        head::HeadFile::open(&head)
            .unwrap()
            .write(head::Head {
                link,
                closed: false,
            })
            .unwrap();
        let db = place.start_with(&AlertStore {
            max_size: 1 << 20,
            ..bounds()
        });
        assert!(db.sync(SOON, 0));
        eventually("it is open", || db.status().records > 0);
        let told = db.status().repaired.unwrap_or_default();
        db.close(SOON);
        assert!(told.contains("killed while"), "{told}");
    }
}

/// A version that knows of no evictions knows the store by the number in its header.
#[test]
fn only_an_eviction_makes_a_store_that_older_versions_set_aside() {
    let id = |place: &Place| -> i64 {
        let db = rusqlite::Connection::open(place.path()).unwrap();
        db.pragma_query_value(None, "application_id", |row| row.get(0))
            .unwrap()
    };
    assert_eq!(id(&Place::filled(3)), 0x6667_616c);
    assert_eq!(id(&flooded().0), 0x6667_6132);
}

#[test]
fn what_is_old_goes_and_the_rest_can_be_verified() {
    let place = Place::new();
    let db = place.start();
    for age in (0..40u64).rev() {
        let time = SystemTime::now() - Duration::from_secs(age * 3600);
        db.submit(&Alert { time, ..alert() });
    }
    assert!(db.sync(SOON, 0));
    let ten_hours = AlertStore {
        max_age: Duration::from_secs(36_000 - 60),
        ..bounds()
    };
    db.set_bounds(&ten_hours);
    let reader = db.reader().unwrap();
    // Of the last chunk a part may be younger: only whole records before the first young one go.
    eventually("the old ones are deleted", || {
        list(&reader, &Filter::default()).len() == 10
    });
    db.close(SOON);
    let report = place.verify();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(report.alerts, 10);
    // The same by hand is found.
    place.sql(
        "DELETE FROM record WHERE seq <= 35; DELETE FROM alert WHERE seq <= 35; \
               UPDATE checkpoint SET seq = 35",
    );
    let kinds: Vec<_> = place.verify().findings.iter().map(|f| f.kind).collect();
    assert!(kinds.contains(&"start"), "{kinds:?}");
}

#[test]
fn killed_before_the_first_record_it_begins_anew_without_alarm() {
    let place = Place::new();
    let path = open::head_path(&place.path());
    let file = head::HeadFile::open(&path).unwrap();
    let nothing = head::Head {
        link: record::Link::START,
        closed: false,
    };
    file.write(nothing).unwrap();
    drop(file);
    for with_tables in [false, true] {
        if with_tables {
            let db = open::connect(&place.path()).unwrap();
            assert!(open::make_tables(&db).unwrap());
        }
        let db = place.start();
        db.submit(&alert());
        assert!(db.sync(SOON, 0), "{:?}", db.status());
        db.close(SOON);
        let report = place.verify();
        assert!(report.ok, "{:?}", report.findings);
        fs::remove_file(place.path()).unwrap();
        let file = head::HeadFile::open(&path).unwrap();
        file.write(nothing).unwrap();
    }
}

#[test]
fn the_state_folder_may_be_behind_a_link() {
    let place = Place::new();
    let link = place.folder.path().join("link");
    let real = place.folder.path().join("real");
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let path = link.join("alerts.db");
    let db = AlertDb::start(&path, &bounds(), observer()).unwrap();
    db.submit(&alert());
    assert!(db.sync(SOON, 0), "{:?}", db.status());
    assert_eq!(
        list(&Reader::open(&path).unwrap(), &Filter::default()).len(),
        1
    );
    for name in ["alerts.db", "alerts.db-wal", "alerts.db.head"] {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(real.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// Kinds and numbers of what is found after `sql`.
fn after(sql: &str) -> (Place, Vec<(&'static str, i64)>) {
    let place = Place::filled(50);
    assert!(place.verify().ok);
    place.sql(sql);
    let report = place.verify();
    assert!(!report.ok && report.found >= report.findings.len());
    let found = report.findings.iter().map(|f| (f.kind, f.seq)).collect();
    (place, found)
}

#[test]
fn an_edit_is_found() {
    let sql = "UPDATE record SET body = replace(body, 'curl', 'good') WHERE seq = 20; \
               UPDATE alert SET source = replace(source, 'curl', 'good'), names = replace(names, 'curl', 'good') \
               WHERE seq = 20";
    let (place, found) = after(sql);
    assert_eq!(found, [("edited", 20)]);
    let finding = &place.verify().findings[0];
    let shown = list(&place.reader(), &Filter::default());
    let edited = shown.iter().find(|item| item["seq"] == 20).unwrap();
    assert_eq!(
        finding.id.as_deref(),
        edited["alert"]["event"]["id"].as_str()
    );
    let (_, found) = after("UPDATE record SET time = time - 1 WHERE seq = 20");
    assert!(found.contains(&("edited", 20)), "{found:?}");
    let (_, found) = after("UPDATE record SET hash = zeroblob(32) WHERE seq = 20");
    assert_eq!(found, [("edited", 20), ("edited", 21)]);
    let (_, found) = after("UPDATE alert SET action = 'alert' WHERE seq = 20");
    assert_eq!(found, [("column", 20)]);
}

#[test]
fn a_deletion_in_the_middle_is_found() {
    let (_, found) = after("DELETE FROM record WHERE seq BETWEEN 20 AND 22");
    assert_eq!(
        found,
        [("gap", 20), ("added", 20), ("added", 21), ("added", 22)]
    );
    let both = "DELETE FROM record WHERE seq = 20; DELETE FROM alert WHERE seq = 20";
    assert_eq!(after(both).1, [("gap", 20)]);
    // The gap closed again by new numbers.
    let renumbered =
        "DELETE FROM record WHERE seq = 20; UPDATE record SET seq = seq - 1 WHERE seq > 20";
    let (_, found) = after(renumbered);
    assert!(
        found.contains(&("edited", 20)) && found.contains(&("tail", 51)),
        "{found:?}"
    );
    let (_, found) = after("DELETE FROM alert WHERE seq = 20");
    assert_eq!(found, [("column", 20)]);
}

#[test]
fn an_insertion_is_found() {
    let at_the_end = "INSERT INTO record SELECT 52, time, kind, body, hash FROM record WHERE seq = 51; \
                      INSERT INTO alert SELECT 52, id, time, action, direction, feeds, indicator, source, names, \
                      flows, NULL FROM alert WHERE seq = 51";
    let (place, found) = after(at_the_end);
    assert_eq!(found, [("edited", 52), ("added", 52)]);
    // The daemon goes on behind it, and says so.
    let db = place.start();
    db.submit(&alert());
    assert!(db.sync(SOON, 0));
    let told = db.close(SOON).repaired.unwrap();
    assert!(told.contains("record") && told.contains("added"), "{told}");
    let kinds: Vec<_> = place
        .verify()
        .findings
        .iter()
        .map(|f| (f.kind, f.seq))
        .collect();
    assert!(
        kinds.contains(&("edited", 52)) && kinds.contains(&("damage", 53)),
        "{kinds:?}"
    );
    let in_the_middle = "UPDATE record SET seq = -seq WHERE seq >= 30; UPDATE record SET seq = 1 - seq WHERE seq < 0; \
                         INSERT INTO record SELECT 30, time, kind, body, hash FROM record WHERE seq = 29";
    let (_, found) = after(in_the_middle);
    assert!(
        found.contains(&("edited", 30)) && found.contains(&("edited", 31)),
        "{found:?}"
    );
}

#[test]
fn another_order_is_found() {
    for columns in ["body, time", "body, time, hash"] {
        let sets: Vec<String> = columns
            .split(", ")
            .map(|column| {
                format!("{column} = (SELECT {column} FROM other WHERE other.seq = 61 - record.seq)")
            })
            .collect();
        let sql = format!(
            "CREATE TEMP TABLE other AS SELECT * FROM record; UPDATE record SET {} WHERE seq IN (30, 31)",
            sets.join(", ")
        );
        let (_, found) = after(&sql);
        assert!(
            found.contains(&("edited", 30)) && found.contains(&("edited", 31)),
            "{found:?}"
        );
    }
}

#[test]
fn a_cut_tail_is_found() {
    let cut = "DELETE FROM record WHERE seq > 40; DELETE FROM alert WHERE seq > 40";
    let (place, found) = after(cut);
    assert_eq!(found, [("tail", 41)]);
    let text = &place.verify().findings[0].text;
    assert!(
        text.contains("records 41 to 51 are missing at the end"),
        "{text}"
    );
    // It stays known after the daemon has gone on.
    let db = place.start();
    assert!(db.sync(SOON, 0));
    db.close(SOON);
    let report = place.verify();
    assert_eq!(report.findings[0].kind, "damage");
    assert!(
        report.findings[0].text.contains("records 41 to 51"),
        "{report:?}"
    );
    // All of it gone, or the file beside it.
    let place = Place::filled(5);
    fs::remove_file(place.path()).unwrap();
    let db = place.start();
    assert!(db.sync(SOON, 0));
    eventually("it is open", || db.status().repaired.is_some());
    let told = db.close(SOON).repaired.unwrap();
    assert!(
        told.contains("the database is gone; it had records up to 6"),
        "{told}"
    );
    let place = Place::filled(5);
    fs::remove_file(open::head_path(&place.path())).unwrap();
    assert_eq!(place.verify().findings[0].kind, "tail");
}

#[test]
fn a_chain_made_anew_is_found_by_a_head_noted_elsewhere() {
    let place = Place::filled(10);
    let noted: Anchor = place.verify().head.parse().unwrap();
    let known = Known {
        anchor: Some(noted),
        memory: None,
    };
    assert!(place.reader().verify(&known).unwrap().ok);
    let other = Place::filled(10);
    for name in ["alerts.db", "alerts.db.head"] {
        fs::copy(
            other.folder.path().join(name),
            place.folder.path().join(name),
        )
        .unwrap();
    }
    assert!(place.verify().ok, "what the documents say it cannot find");
    let report = place.reader().verify(&known).unwrap();
    assert_eq!(report.findings[0].kind, "order", "{report:?}");
    assert!("1:xyz".parse::<Anchor>().is_err());
}

#[test]
fn damage_is_set_aside_and_told() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 4] = [
        ("nonsense", |path| {
            fs::write(path, vec![b'x'; 100_000]).unwrap()
        }),
        ("cut", |path| {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(20_000).unwrap();
        }),
        ("zeros", |path| {
            use std::os::unix::fs::FileExt;
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            let length = file.metadata().unwrap().len();
            file.write_all_at(&vec![0; usize::try_from(length - 4096).unwrap()], 4096)
                .unwrap();
        }),
        ("another database", |path| {
            fs::remove_file(path).unwrap();
            let made = rusqlite::Connection::open(path).unwrap();
            made.execute_batch("CREATE TABLE t (a)").unwrap();
        }),
    ];
    for (what, spoil) in spoils {
        let place = Place::filled(200);
        // As after a kill, so that the whole file is looked through.
        let head = open::head_path(&place.path());
        let text = fs::read_to_string(&head).unwrap();
        fs::write(&head, text.replace("closed", "open  ")).unwrap();
        spoil(&place.path());
        let db = place.start();
        db.submit(&alert());
        assert!(db.sync(SOON, 0), "{what}: {:?}", db.status());
        let status = db.close(SOON);
        let told = status.repaired.unwrap_or_default();
        assert!(told.contains(".corrupt-"), "{what}: {told}");
        let aside = fs::read_dir(place.folder.path())
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().starts_with("alerts.db.corrupt-")
            })
            .count();
        assert!(aside >= 2, "{what}: the database and its head");
        let report = place.verify();
        assert!(report.ok, "{what}: {:?}", report.findings);
        assert_eq!(report.alerts, 1, "{what}");
    }
}

#[test]
fn damaged_databases_do_not_pile_up() {
    let place = Place::new();
    for _ in 0..6 {
        fs::write(place.path(), vec![b'x'; 10_000]).unwrap();
        let db = place.start();
        eventually("it is open", || db.status().head.is_some());
        db.close(SOON);
    }
    let kept = fs::read_dir(place.folder.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        let name = name.to_string_lossy();
        name.contains(".corrupt-") && !name.ends_with(".head")
    });
    assert_eq!(kept.count(), 3);
}

#[test]
fn what_a_full_queue_drops_is_counted_and_in_the_chain() {
    let place = Place::new();
    // Nothing is written while somebody else has the lock.
    let lock = head::HeadFile::open(&open::head_path(&place.path())).unwrap();
    let db = AlertDb::with_capacity(&place.path(), &bounds(), observer(), 10).unwrap();
    eventually("it cannot be opened", || db.status().last_error.is_some());
    for _ in 0..35 {
        db.submit(&alert());
    }
    assert!(!db.sync(Duration::from_millis(1), 7));
    assert!(!db.sync(SOON, 1), "nothing waits while it is behind");
    let status = db.status();
    assert_eq!(
        (status.queued, status.dropped, status.late_verdicts),
        (10, 25, 8)
    );
    assert!(status.last_error.unwrap().contains("another feedgate"));
    let refused = db.dismiss(Which::All(Filter::default()), me(), String::new());
    assert!(refused.unwrap_err().contains("does not work now"));
    drop(lock);
    eventually("they are stored", || db.status().stored == 10);
    eventually("and the number of the lost", || db.sync(SOON, 0));
    db.close(SOON);
    let report = place.verify();
    assert!(report.ok, "{report:?}");
    assert_eq!((report.alerts, report.lost), (10, 25));
}

#[test]
fn a_full_disk_loses_nothing_that_fits_into_the_queue() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root to mount a small disk");
        assert!(std::env::var_os("CI").is_none());
        return;
    }
    let place = Place::new();
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).status().unwrap();
        assert!(done.success(), "{program} {arguments:?}");
    };
    let at = place.folder.path().to_str().unwrap().to_owned();
    run("mount", &["-t", "tmpfs", "-o", "size=2m", "tmpfs", &at]);
    struct Unmount(String);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = Command::new("umount").args(["-l", &self.0]).status();
        }
    }
    let _unmount = Unmount(at);
    let db = place.start();
    let filler = place.folder.path().join("filler");
    db.submit(&alert());
    assert!(db.sync(SOON, 0));
    // The rest of the disk.
    let _ = fs::write(&filler, vec![0; 4 << 20]);
    for _ in 0..500 {
        db.submit(&alert());
    }
    eventually("it is told", || {
        db.status().last_error.is_some_and(|e| e.contains("full"))
    });
    fs::remove_file(&filler).unwrap();
    assert!(
        db.sync(SOON, 0) || db.sync(SOON, 0) || {
            eventually("it goes on", || db.status().stored == 501);
            true
        }
    );
    let status = db.close(SOON);
    assert_eq!(
        (status.stored, status.dropped, status.last_error),
        (501, 0, None)
    );
    let report = place.verify();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(report.alerts, 501);
}

#[test]
fn a_reader_that_stays_does_not_let_it_grow() {
    let place = Place::new();
    let bounds = AlertStore {
        max_size: 1 << 20,
        ..bounds()
    };
    let db = place.start_with(&bounds);
    db.submit(&alert());
    assert!(db.sync(SOON, 0));
    let reader = rusqlite::Connection::open(place.path()).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM record")
        .unwrap();
    for _ in 0..2_000 {
        db.submit(&alert());
    }
    eventually("it is told", || {
        db.status()
            .last_error
            .is_some_and(|e| e.contains("another program has been reading"))
    });
    assert!(size_of(&place.path()) <= 1 << 20);
    reader.execute_batch("COMMIT").unwrap();
    eventually("it goes on", || db.status().stored == 2_001);
    db.close(SOON);
    assert!(place.verify().ok);
}
