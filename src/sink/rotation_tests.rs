//! The JSON file under the real logrotate (package logrotate).

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{
    tests::{LIMIT, alert, json, open, wait_for},
    *,
};

/// A folder with a JSON file and a configuration of logrotate for it.
struct Rotated {
    dir: tempfile::TempDir,
    /// Old files are copies, and the file is truncated.
    copies: bool,
}

impl Rotated {
    /// `None` where logrotate is not installed; in CI that is a failure.
    fn new(directives: &str) -> Option<Self> {
        if Command::new("logrotate").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "logrotate is missing");
            eprintln!("skipped: there is no logrotate");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let copies = directives.contains("copytruncate");
        let this = Self { dir, copies };
        let text = format!(
            "{} {{\n rotate 1000\n nocompress\n missingok\n {directives}\n}}\n",
            this.file().display()
        );
        fs::write(this.dir.path().join("conf"), text).unwrap();
        Some(this)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("alerts.json")
    }

    fn rotate(&self) {
        let output = Command::new("logrotate")
            .args(["--force", "--state"])
            .args(["state", "conf"].map(|name| self.dir.path().join(name)))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }

    /// The numbers of the alerts in all files, oldest first; each line must be whole.
    fn numbers(&self) -> Vec<u64> {
        let mut files: Vec<(u32, PathBuf)> = Vec::new();
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if let Some(rest) = name.strip_prefix("alerts.json") {
                let age = rest.strip_prefix('.').map_or(0, |n| n.parse().unwrap());
                files.push((age, path));
            }
        }
        files.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
        let is_copy = |age: u32| age > 0 && self.copies;
        let numbers = files
            .iter()
            .flat_map(|(age, path)| numbers(path, is_copy(*age)));
        numbers.collect()
    }
}

/// A copy may end in the middle of a write: the kernel lets others read a file while it grows.
fn numbers(path: &Path, is_copy: bool) -> Vec<u64> {
    let mut text = fs::read_to_string(path).unwrap();
    if is_copy {
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    }
    assert!(text.is_empty() || text.ends_with('\n'), "a torn end");
    let numbers = text.lines().map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).expect(line);
        let id: uuid::Uuid = event["event"]["id"].as_str().unwrap().parse().unwrap();
        u64::try_from(id.as_u128()).unwrap()
    });
    numbers.collect()
}

/// Rotates again and again while alerts come without a pause; how many there were.
fn rotate_under_load(rotated: &Rotated, after: impl Fn(&Sinks)) -> u64 {
    let sinks = Arc::new(open(&json(&rotated.file()), 100_000));
    let stop = Arc::new(AtomicBool::new(false));
    let (submitting, stopped) = (Arc::clone(&sinks), Arc::clone(&stop));
    let source = thread::spawn(move || {
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            // The file's thread gets little of a busy machine, and its queue is bounded.
            if submitting.stats()[0].queued < 4_000 {
                submitting.submit(&alert(count));
                count += 1;
            }
            thread::sleep(Duration::from_micros(100));
        }
        u64::from(count)
    });
    for round in 1..=10 {
        // Each rotation finds a file with lines that are new since the last.
        let file = rotated.file();
        wait_for(&sinks, |stats| {
            stats.sent > round * 20 && fs::metadata(&file).is_ok_and(|file| file.len() > 0)
        });
        rotated.rotate();
        after(&sinks);
    }
    stop.store(true, Ordering::Relaxed);
    let count = source.join().unwrap();
    let stats = &sinks.close(LIMIT)[0];
    assert_eq!((stats.sent, stats.dropped), (count, 0));
    count
}

#[test]
fn a_rotation_by_rename_needs_no_signal() {
    for directives in ["nocreate", "create 0640"] {
        let Some(rotated) = Rotated::new(directives) else {
            return;
        };
        let count = rotate_under_load(&rotated, |_| {});
        // A file that logrotate finds where it wants to make one becomes `.backup`, which has no age.
        let mut numbers = rotated.numbers();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        assert!(rotated.dir.path().join("alerts.json.10").exists());
    }
}

#[test]
fn a_rotation_by_rename_with_a_signal() {
    let Some(rotated) = Rotated::new("create 0640") else {
        return;
    };
    let count = rotate_under_load(&rotated, Sinks::reopen);
    let mut numbers = rotated.numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
}

#[test]
fn copytruncate_between_alerts_loses_none() {
    let Some(rotated) = Rotated::new("copytruncate") else {
        return;
    };
    let sinks = open(&json(&rotated.file()), 1000);
    for n in 0..50 {
        sinks.submit(&alert(n));
        if n % 10 == 9 {
            wait_for(&sinks, |stats| stats.sent == u64::from(n) + 1);
            rotated.rotate();
        }
    }
    sinks.close(LIMIT);
    assert_eq!(rotated.numbers(), (0..50).collect::<Vec<_>>());
}

#[test]
fn copytruncate_under_load_doubles_no_line_and_tears_only_the_end_of_a_copy() {
    let Some(rotated) = Rotated::new("copytruncate") else {
        return;
    };
    let count = rotate_under_load(&rotated, |_| {});
    let numbers = rotated.numbers();
    // What logrotate truncates and did not copy is lost: its manual says so. The rest is there once.
    let once: BTreeSet<_> = numbers.iter().collect();
    assert_eq!(once.len(), numbers.len());
    assert!(numbers.is_sorted() && numbers.iter().all(|n| *n < count));
}
