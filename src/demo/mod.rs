//! `feedgate demo`: the seed lab on any Linux as root, without a network.
//!
//! Three hosts made of network namespaces; the daemon of the same binary on one of them; a shell
//! loop that talks to a listed address. Every step says what really came back, and the demo fails
//! at the first that is not as expected. Nothing is left behind, however it ends.

mod daemon;
mod error;
mod guard;
mod http;
mod lab;
mod need;
mod netns;
mod stop;

use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

pub use self::{
    daemon::{Daemon, DaemonError, TICK},
    error::DemoError,
    http::{Response, Server},
    netns::{Netns, NetnsError, owner, sweep},
};
use self::{
    lab::{BAD, FEED_NAME, Lab, feed_entries, ruleset},
    stop::Stop,
};

/// The longest a step waits for what it expects.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo with the feedgate binary `exe` and narrates it on `out`.
///
/// From then on SIGINT, SIGTERM and SIGHUP end the demo, not the process: the caller exits.
pub fn run(exe: &Path, out: &mut dyn Write) -> Result<(), DemoError> {
    need::privileged()?;
    need::tools()?;
    let stop = Stop::watch().map_err(DemoError::io("signals"))?;
    let lab = Lab::build()?;
    let mut demo = Demo { lab, stop, out };
    match demo.play(exe) {
        // Ctrl-C reaches the daemon and curl too, and what they did not do then is no surprise.
        Err(_) if demo.stop.asked() => Err(DemoError::Interrupted),
        Err(error) => Err(error),
        Ok(()) => demo.clean_up(),
    }
}

/// A demo in progress; dropping it takes the lab down.
struct Demo<'a> {
    lab: Lab,
    stop: Stop,
    out: &'a mut dyn Write,
}

impl Demo<'_> {
    fn play(&mut self, exe: &Path) -> Result<(), DemoError> {
        self.say("feedgate demo: the threat feed lab on this machine, without a network\n")?;
        let before = self.hosts()?;
        self.feed(exe)?;
        let red = self.allowed()?;
        self.named(red, "alert")?;
        self.denied()?;
        self.named(red, "deny")?;
        self.down(&before)
    }

    fn hosts(&mut self) -> Result<String, DemoError> {
        self.say("1. Hosts: red (192.0.2.2, with feedgate) -- gateway -- bad (10.48.255.194, a web server)")?;
        let text = format!("   network namespaces {}", self.lab.names().join(", "));
        self.say(&text)?;
        let before = ruleset(&self.lab.red)?;
        self.say(&format!(
            "   nft list ruleset on red: {}\n",
            quoted(&before)
        ))?;
        Ok(before)
    }

    fn feed(&mut self, exe: &Path) -> Result<(), DemoError> {
        self.say("2. feedgate starts on red, with the feed over HTTP and action = \"alert\"")?;
        let config = self.lab.configure("alert")?;
        let mut daemon = Daemon::spawn(exe, &self.lab.red, &self.lab.dir, &config)?;
        daemon.ready(PATIENCE, || !self.stop.asked())?;
        let pid = daemon.pid();
        self.lab.daemon = Some(daemon);
        let status = self.ctl(&["status", "--json"])?;
        let entries = entries(&status, FEED_NAME);
        expect(
            entries == u64::try_from(feed_entries()).ok(),
            format!(
                "{} entries of {FEED_NAME} in `feedgate status --json`",
                feed_entries()
            ),
            &status,
        )?;
        let text = format!(
            "   ready as process {pid}; feedgate status: {FEED_NAME} has {} entries\n",
            feed_entries()
        );
        self.say(&text)
    }

    fn allowed(&mut self) -> Result<u32, DemoError> {
        self.say(&format!(
            "3. red runs: curl -sI -m 2 http://{BAD}, again and again"
        ))?;
        let pid = self.lab.start_red()?;
        self.say(&format!("   red is process {pid}, a shell"))?;
        self.log_line("HTTP/1.1 200 OK", 0)?;
        Ok(pid)
    }

    fn named(&mut self, red: u32, action: &str) -> Result<(), DemoError> {
        let number = if action == "alert" { 4 } else { 6 };
        self.say(&format!(
            "{number}. The alert in syslog (action=\"{action}\") names who did it:"
        ))?;
        let line = self.alert(action)?;
        self.say(&format!("   {}", line.trim_end()))?;
        let wanted = [
            ("action", action.to_owned()),
            ("dst", BAD.to_owned()),
            ("feed", FEED_NAME.to_owned()),
            ("comm", "curl".to_owned()),
            ("ppid", red.to_string()),
            ("attribution", "exact".to_owned()),
        ];
        for (key, value) in wanted {
            expect(
                value_of(&line, key) == Some(&value),
                format!("{key}=\"{value}\" in the alert"),
                &line,
            )?;
        }
        let at = |key| value_of(&line, key).unwrap_or("?");
        let text = format!(
            "   read: process {} ({}, {}) of uid {}, started by red ({red}), {} by {}\n",
            at("pid"),
            at("comm"),
            at("exe"),
            at("uid"),
            at("attribution"),
            at("method"),
        );
        self.say(&text)
    }

    fn denied(&mut self) -> Result<(), DemoError> {
        self.say("5. action = \"deny\" in the configuration, then SIGHUP")?;
        self.lab.configure("deny")?;
        let seen = self.lab.red_log().len();
        if let Some(daemon) = &self.lab.daemon {
            daemon
                .signal(Signal::SIGHUP)
                .map_err(DemoError::io("SIGHUP to the daemon"))?;
        }
        self.log_line("Timeout", seen)
    }

    fn down(&mut self, before: &str) -> Result<(), DemoError> {
        self.say("7. feedgate down")?;
        self.lab.stop_red();
        self.ctl(&["down"])?;
        let after = ruleset(&self.lab.red)?;
        let text = format!("   nft list ruleset on red: {}", quoted(&after));
        expect(
            after == before,
            format!("the rules of before: {}", quoted(before)),
            &after,
        )?;
        self.say(&text)
    }

    /// Takes the lab down and looks whether anything is left.
    fn clean_up(self) -> Result<(), DemoError> {
        let Self { lab, stop, out } = self;
        let (dir, names) = (lab.dir.clone(), lab.names());
        drop(lab);
        let left = names.iter().map(|name| Path::new("/run/netns").join(name));
        let left: Vec<_> = left.chain([dir]).filter(|path| path.exists()).collect();
        expect(
            left.is_empty(),
            "nothing left behind".into(),
            &format!("{left:?}"),
        )?;
        if stop.asked() {
            return Err(DemoError::Interrupted);
        }
        let text = "   namespaces, processes and files are gone\n\nEvery step was as expected.";
        writeln!(out, "{text}").map_err(DemoError::io("output"))
    }

    /// Waits for `wanted` in red's log after its first `skip` lines, and says what is there.
    fn log_line(&mut self, wanted: &str, skip: usize) -> Result<(), DemoError> {
        let start = Instant::now();
        loop {
            let lines = self.lab.red_log();
            let new = lines.get(skip..).unwrap_or_default();
            if new.iter().any(|line| line == wanted) {
                return self.say(&format!("   red's log: {wanted}\n"));
            }
            let late = start.elapsed() >= PATIENCE;
            expect(!late, format!("{wanted} in red's log"), &new.join(", "))?;
            self.pause()?;
        }
    }

    /// Waits for the next alert with this action.
    fn alert(&mut self, action: &str) -> Result<String, DemoError> {
        let start = Instant::now();
        let mut last = "no alert".to_owned();
        while start.elapsed() < PATIENCE {
            self.go_on()?;
            let mut buffer = [0; 8192];
            if let Ok(length) = self.lab.alerts.recv(&mut buffer) {
                last =
                    String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
            }
            if value_of(&last, "action") == Some(action) {
                return Ok(last);
            }
        }
        expect(false, format!("an alert with action=\"{action}\""), &last)?;
        Ok(last)
    }

    /// Runs a client command that must succeed; gives its output.
    fn ctl(&mut self, arguments: &[&str]) -> Result<String, DemoError> {
        self.go_on()?;
        let Some(daemon) = &self.lab.daemon else {
            return Ok(String::new());
        };
        let output = daemon
            .ctl(&self.lab.red, arguments)
            .map_err(DemoError::io("feedgate"))?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let expected = format!("`feedgate {}` to succeed", arguments.join(" "));
        expect(
            output.status.success(),
            expected,
            &format!("{}: {said}", output.status),
        )?;
        Ok(said)
    }

    fn say(&mut self, text: &str) -> Result<(), DemoError> {
        self.go_on()?;
        writeln!(self.out, "{text}").map_err(DemoError::io("output"))
    }

    fn pause(&self) -> Result<(), DemoError> {
        std::thread::sleep(TICK);
        self.go_on()
    }

    fn go_on(&self) -> Result<(), DemoError> {
        if self.stop.asked() {
            return Err(DemoError::Interrupted);
        }
        Ok(())
    }
}

/// The value of `key` in an alert's structured data (no unescaping).
fn value_of<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let start = format!(" {key}=\"");
    let (_, rest) = line.split_once(&start)?;
    rest.split_once('"').map(|(value, _)| value)
}

/// The entry count of a feed in the status: `entries` of the object named `feed`, wherever it is.
fn entries(status: &str, feed: &str) -> Option<u64> {
    fn find(value: &serde_json::Value, feed: &str) -> Option<u64> {
        if value.get("name").and_then(|name| name.as_str()) == Some(feed) {
            return value.get("entries")?.as_u64();
        }
        let object = value
            .as_object()
            .into_iter()
            .flat_map(|object| object.values());
        let array = value.as_array().into_iter().flatten();
        object.chain(array).find_map(|inner| find(inner, feed))
    }
    find(&serde_json::from_str(status).ok()?, feed)
}

fn expect(fine: bool, expected: String, got: &str) -> Result<(), DemoError> {
    if fine {
        return Ok(());
    }
    let got = if got.trim().is_empty() {
        "nothing"
    } else {
        got.trim()
    };
    Err(DemoError::Unexpected {
        expected,
        got: got.to_owned(),
    })
}

fn quoted(rules: &str) -> String {
    if rules.is_empty() {
        "empty".into()
    } else {
        format!("\n{rules}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_an_alert_line() {
        let line = r#"<85>x feedgate[1]: [feedgate@32473 id="a" ppid="7" pid="8"] red"#;
        assert_eq!(value_of(line, "pid"), Some("8"));
        assert_eq!(value_of(line, "ppid"), Some("7"));
        assert_eq!(value_of(line, "uid"), None);
    }

    #[test]
    fn entries_of_a_feed_are_found_in_the_status() {
        let status = r#"{"feeds":[{"name":"a","entries":1},{"name":"b","entries":2}]}"#;
        assert_eq!(entries(status, "b"), Some(2));
        assert_eq!(entries(status, "c"), None);
        assert_eq!(entries("no json", "b"), None);
    }
}
