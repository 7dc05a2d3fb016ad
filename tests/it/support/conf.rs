//! Configurations for the tests.

use std::{fmt::Write as _, fs, path::PathBuf};

use super::{Alerts, FeedServer, Lab};

/// A configuration being written; `suppress` is zero.
#[derive(Clone)]
pub(crate) struct Conf {
    dir: PathBuf,
    nftables: String,
    feeds: String,
    syslog: String,
    sections: String,
}

impl Conf {
    /// No feed, no syslog target.
    pub(crate) fn new(lab: &Lab) -> Self {
        Self {
            dir: lab.dir.clone(),
            nftables: String::new(),
            feeds: String::new(),
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

    /// A section of its own, such as `[exceptions]` with its keys.
    pub(crate) fn section(mut self, text: &str) -> Self {
        writeln!(self.sections, "{text}\n").unwrap();
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

    /// The TOML text.
    pub(crate) fn text(&self) -> String {
        let Self {
            nftables,
            feeds,
            syslog,
            sections,
            ..
        } = self;
        let dir = self.dir.display();
        format!(
            "[daemon]\nstate-dir = \"{dir}/state\"\ncontrol-socket = \"{dir}/control.sock\"\n\n\
             [nftables]\n{nftables}\n{sections}{feeds}\n[alerts]\nsuppress = \"0s\"\n{syslog}"
        )
    }
}
