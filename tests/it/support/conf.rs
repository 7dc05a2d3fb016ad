//! Configurations for the tests.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use feedgate::config;

use super::{Alerts, FeedServer, Lab, Rsyslog};

/// Who it was is what the tests ask, not how busy the machine is.
const ATTRIBUTION: &str = "[attribution]\ntimeout = \"5s\"\n";

/// A configuration being written; `suppress` is zero unless set, and attribution may take seconds.
#[derive(Clone)]
pub(crate) struct Conf {
    dir: PathBuf,
    daemon: String,
    nftables: String,
    feeds: String,
    alerting: String,
    syslog: String,
    sections: String,
}

impl Conf {
    /// No feed, no syslog target.
    pub(crate) fn new(lab: &Lab) -> Self {
        Self {
            dir: lab.dir.clone(),
            daemon: String::new(),
            nftables: String::new(),
            feeds: String::new(),
            alerting: String::new(),
            syslog: String::new(),
            sections: String::new(),
        }
    }

    /// A feed in a file of the lab's folder, `NAME.txt`, with these lines.
    pub(crate) fn feed(self, name: &str, action: &str, lines: &[&str]) -> Self {
        let path = self.dir.join(format!("{name}.txt"));
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        self.feed_from(name, action, &format!("file://{}", path.display()))
    }

    /// The feed of the [`FeedServer`].
    pub(crate) fn feed_over_http(self, name: &str, action: &str) -> Self {
        self.feed_from(name, action, FeedServer::URL)
    }

    /// A feed from any URL.
    pub(crate) fn feed_from(mut self, name: &str, action: &str, url: &str) -> Self {
        write!(
            self.feeds,
            "[[feed]]\nname = \"{name}\"\nurl = \"{url}\"\naction = \"{action}\"\n"
        )
        .unwrap();
        self
    }

    /// A further key of the last feed.
    pub(crate) fn key(mut self, line: &str) -> Self {
        writeln!(self.feeds, "{line}").unwrap();
        self
    }

    /// A key of `[nftables]`.
    pub(crate) fn nftables(mut self, line: &str) -> Self {
        writeln!(self.nftables, "{line}").unwrap();
        self
    }

    /// A key of `[daemon]`.
    pub(crate) fn daemon(mut self, line: &str) -> Self {
        writeln!(self.daemon, "{line}").unwrap();
        self
    }

    /// A section of its own, such as `[exceptions]` with its keys.
    pub(crate) fn section(mut self, text: &str) -> Self {
        writeln!(self.sections, "{text}\n").unwrap();
        self
    }

    /// A file for the JSON events.
    pub(crate) fn json_file(mut self, path: &Path) -> Self {
        writeln!(self.alerting, "json-file = \"{}\"", path.display()).unwrap();
        self
    }

    /// A key of `[alerts]`.
    pub(crate) fn alerting(mut self, line: &str) -> Self {
        writeln!(self.alerting, "{line}").unwrap();
        self
    }

    /// The test's own socket as syslog target.
    pub(crate) fn alerts(self, alerts: &Alerts) -> Self {
        self.syslog(&alerts.address(), "")
    }

    /// A syslog target, with further keys.
    pub(crate) fn syslog(mut self, address: &str, keys: &str) -> Self {
        writeln!(
            self.syslog,
            "[[alerts.syslog]]\naddress = \"{address}\"\n{keys}"
        )
        .unwrap();
        self
    }

    /// The TOML text. A mistake in it is the test's, and fails it here.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        let Self {
            daemon,
            nftables,
            feeds,
            alerting,
            syslog,
            sections,
            ..
        } = self;
        let dir = self.dir.display();
        let own = sections.contains("[attribution]");
        let attribution = if own { "" } else { ATTRIBUTION };
        let each = if alerting.contains("suppress = ") {
            ""
        } else {
            "suppress = \"0s\"\n"
        };
        let manifests = if sections.contains("[manifests]") {
            String::new()
        } else {
            format!("[manifests]\ndir = \"{dir}/manifests.d\"\n")
        };
        let text = format!(
            "[daemon]\nstate-dir = \"{dir}/state\"\ncontrol-socket = \"{dir}/control.sock\"\n{daemon}\n\
             [nftables]\n{nftables}\n{attribution}{manifests}{sections}{feeds}\n[alerts]\n{each}{alerting}{syslog}"
        );
        let found = config::parse(&text, "test").diagnostics;
        assert!(
            found.is_empty(),
            "{}",
            config::render(&found, &text, "test", false)
        );
        text
    }
}

#[test]
fn what_the_tests_write_is_a_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let conf = Conf {
        dir: dir.path().to_owned(),
        daemon: String::new(),
        nftables: String::new(),
        feeds: String::new(),
        alerting: String::new(),
        syslog: String::new(),
        sections: String::new(),
    };
    conf.daemon("on-daemon-down = \"deny\"")
        .nftables("deny-with = \"reject\"")
        .feed("in", "deny", &["203.0.113.1"])
        .key("directions = [\"ingress\"]")
        .feed_over_http("over-http", "alert")
        .section("[exceptions]\nprefixes = [\"203.0.113.3\"]")
        .json_file(Path::new("/run/alerts.json"))
        .syslog("unix:/run/x", "format = \"rfc5424\"")
        .syslog(Rsyslog::UDP, "facility = \"local3\"")
        .syslog(Rsyslog::TCP, "")
        .text();
}
