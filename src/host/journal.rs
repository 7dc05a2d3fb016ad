//! How many lines of one service journald keeps: its rate limit.
//!
//! journald drops what is beyond it and tells nobody but itself, by `Suppressed … messages from UNIT`, which
//! only those may read who may read all logs. No answer comes back on its sockets, and it has no counter
//! for others to read. So all that a service can do is to know the limit and to count its own lines.
//!
//! Read from where journald reads it (systemd.exec(5), journald.conf(5)). With space left for the journal it
//! allows more, up to six times as many, and it counts a few severities apart: so beyond this limit lines
//! may be missing, and need not.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where journald's sockets are.
const SOCKETS: &str = "/run/systemd/journal";
/// What journald allows where nobody says anything.
const USUAL: Limit = Limit {
    lines: 10_000,
    interval: Duration::from_secs(30),
};
/// Bytes of a file that are looked at.
const LARGEST: u64 = 64 << 10;

/// So many lines in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Lines.
    pub lines: u64,
    /// The time.
    pub interval: Duration,
}

/// Where the system's files are.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Folders of configuration, the one that counts most first.
    pub config: Vec<PathBuf>,
    /// Where systemd tells journald of units.
    pub units: PathBuf,
    /// The control group of this process.
    pub cgroup: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        let config = ["/etc", "/run", "/usr/local/lib", "/usr/lib"];
        Self {
            config: config.map(|root| Path::new(root).join("systemd")).into(),
            units: "/run/systemd/units".into(),
            cgroup: "/proc/self/cgroup".into(),
        }
    }
}

/// True when lines that are sent to this socket go to journald.
pub fn is_journal(socket: &Path) -> bool {
    fs::canonicalize(socket).is_ok_and(|real| real.starts_with(SOCKETS))
}

/// The limit for lines of this process; `None` where there is none.
pub fn limit(roots: &Roots) -> Option<Limit> {
    let mut limit = configured(&roots.config);
    let cgroup = fs::read_to_string(&roots.cgroup).ok();
    if let Some(unit) = cgroup.as_deref().and_then(unit) {
        let told = |what: &str| {
            let link = roots.units.join(format!("log-rate-limit-{what}:{unit}"));
            fs::read_link(link).ok()?.to_str()?.parse::<u64>().ok()
        };
        if let Some(micros) = told("interval") {
            limit.interval = Duration::from_micros(micros);
        }
        limit.lines = told("burst").unwrap_or(limit.lines);
    }
    (limit.lines > 0 && !limit.interval.is_zero()).then_some(limit)
}

/// The unit in cgroup(7)'s `/proc/PID/cgroup`: the innermost service or scope.
fn unit(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        ["", "name=systemd"].contains(&controllers).then_some(path)
    })?;
    let is_unit = |name: &&str| name.ends_with(".service") || name.ends_with(".scope");
    path.rsplit('/').find(is_unit)
}

/// What the files of journald say, `journald.conf` first, then the parts in the order of their names.
fn configured(folders: &[PathBuf]) -> Limit {
    let mut limit = USUAL;
    let main = folders.iter().map(|folder| folder.join("journald.conf"));
    let main = main.into_iter().find(|file| file.exists());
    // Of parts with one name that of the first folder counts.
    let mut parts = BTreeMap::new();
    for folder in folders.iter().rev() {
        let listed = fs::read_dir(folder.join("journald.conf.d"));
        for part in listed.into_iter().flatten().flatten() {
            let path = part.path();
            if path.extension().is_some_and(|ending| ending == "conf") {
                parts.insert(part.file_name(), path);
            }
        }
    }
    for file in main.into_iter().chain(parts.into_values()) {
        let is_small = fs::metadata(&file).is_ok_and(|found| found.len() <= LARGEST);
        let text = is_small.then(|| fs::read_to_string(&file).ok()).flatten();
        take(&mut limit, text.as_deref().unwrap_or_default());
    }
    limit
}

fn take(limit: &mut Limit, text: &str) {
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match (key.trim(), value.trim()) {
            ("RateLimitIntervalSec" | "RateLimitInterval", value) => {
                limit.interval = time_span(value).unwrap_or(limit.interval);
            }
            ("RateLimitBurst", value) => limit.lines = value.parse().unwrap_or(limit.lines),
            _ => {}
        }
    }
}

/// A time span of systemd.time(7), such as `30s`, `1min 30s` or `5`, which means seconds.
fn time_span(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, after) = rest.split_at(digits.unwrap_or(rest.len()));
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic());
        let (name, after) = after.split_at(letters.unwrap_or(after.len()));
        let unit = match name {
            "us" | "usec" => Duration::from_micros(1),
            "ms" | "msec" => Duration::from_millis(1),
            "" | "s" | "sec" | "second" | "seconds" => Duration::from_secs(1),
            "m" | "min" | "minute" | "minutes" => Duration::from_secs(60),
            "h" | "hr" | "hour" | "hours" => Duration::from_secs(3_600),
            "d" | "day" | "days" => Duration::from_secs(86_400),
            _ => return None,
        };
        let times: f64 = number.parse().ok()?;
        let part = Duration::try_from_secs_f64(unit.as_secs_f64() * times).ok()?;
        sum = sum.checked_add(part)?;
        rest = after.trim_start();
    }
    (!text.trim().is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    fn seconds(lines: u64, seconds: u64) -> Option<Limit> {
        let interval = Duration::from_secs(seconds);
        Some(Limit { lines, interval })
    }

    #[test]
    fn the_limit_is_that_of_journald_or_of_the_unit() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        let write = |path: &str, text: &str| {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), text).unwrap();
        };
        let roots = Roots {
            config: vec![at("etc"), at("lib")],
            units: at("units"),
            cgroup: at("cgroup"),
        };
        assert_eq!(limit(&roots), seconds(10_000, 30));
        write("lib/journald.conf", "[Journal]\n#RateLimitBurst=1\n");
        write(
            "lib/journald.conf.d/20.conf",
            "[Journal]\nRateLimitBurst=7\n",
        );
        write(
            "etc/journald.conf.d/30.conf",
            "[Journal]\nRateLimitIntervalSec = 1min 30s\n",
        );
        write("etc/journald.conf.d/none", "RateLimitBurst=9\n");
        assert_eq!(limit(&roots), seconds(7, 90));
        // A part of the same name takes the other's place.
        write("etc/journald.conf.d/20.conf", "RateLimitBurst=8\n");
        assert_eq!(limit(&roots), seconds(8, 90));

        write("cgroup", "0::/system.slice/feedgate.service\n");
        fs::create_dir(at("units")).unwrap();
        let tell = |what: &str, value: &str| {
            symlink(
                value,
                at(&format!("units/log-rate-limit-{what}:feedgate.service")),
            )
            .unwrap();
        };
        tell("interval", "1000000");
        assert_eq!(limit(&roots), seconds(8, 1));
        tell("burst", "1000000");
        assert_eq!(limit(&roots), seconds(1_000_000, 1));
        write("cgroup", "0::/system.slice/other.service\n");
        write("etc/journald.conf.d/40.conf", "RateLimitBurst=0\n");
        assert_eq!(limit(&roots), None, "switched off");
    }

    #[test]
    fn units_are_services_and_scopes() {
        for (text, wanted) in [
            ("0::/system.slice/a.service\n", Some("a.service")),
            ("0::/x.slice/a.service/inner\n", Some("a.service")),
            (
                "1:name=systemd:/kube.slice/cri-1.scope\n",
                Some("cri-1.scope"),
            ),
            ("12:memory:/a.service\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit(text), wanted, "{text}");
        }
    }

    #[test]
    fn time_spans_are_those_of_systemd() {
        let ms = Duration::from_millis;
        for (text, wanted) in [
            ("30s", Some(ms(30_000))),
            ("5", Some(ms(5_000))),
            ("0", Some(ms(0))),
            ("1min 30s", Some(ms(90_000))),
            ("500ms", Some(ms(500))),
            ("1.5 h", Some(ms(5_400_000))),
            ("infinity", None),
            ("", None),
            ("1 fortnight", None),
        ] {
            assert_eq!(time_span(text), wanted, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_ends(text: String) {
            let _ = time_span(&text);
            let _ = unit(&text);
            take(&mut USUAL.clone(), &text);
        }
    }
}
