//! Well-known feeds by name: where they are, how they are read, what may be done with them.
//!
//! A preset only fills in defaults: every key that is written wins. Addresses, formats and terms are
//! the publishers' own, as far as known in 2026; a licence is a note for people, not a check.

use std::time::Duration;

use super::{
    FeedName, Scope, Severity,
    formats::{Column, CsvOptions, JsonOptions},
};
use crate::config::{Feed, Format};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A well-known feed.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Preset {
    /// Its name, as in `preset = "..."`.
    pub name: &'static str,
    /// What it lists.
    pub about: &'static str,
    /// Where it is.
    pub url: &'static str,
    /// What its publisher allows.
    pub licence: &'static str,
    /// What to know before denying by it; may be empty.
    pub note: &'static str,
    /// Who gathers it: feeds that re-ship each other have one origin.
    pub origin: &'static str,
    #[serde(skip)]
    shape: Shape,
    #[serde(skip)]
    scope: Scope,
    /// Seconds between two pulls.
    pub period: u64,
    #[serde(skip)]
    severity: Severity,
    /// Entries with a lower score are left out.
    pub min_score: Option<u32>,
    /// It is empty on a good day.
    pub allow_empty: bool,
}

/// How its text is read.
#[derive(Debug, PartialEq, Eq)]
enum Shape {
    Plain,
    /// Columns of the address, the port and the tag, and the one value of one column that is wanted.
    Csv(
        &'static str,
        &'static str,
        Option<&'static str>,
        Option<(&'static str, &'static str)>,
    ),
    /// Members of the address and the tag, an object a line.
    Jsonl(&'static str, &'static str),
}

const USUAL: Preset = Preset {
    name: "",
    about: "",
    url: "",
    licence: "not stated",
    note: "",
    origin: "",
    shape: Shape::Plain,
    scope: Scope::Both,
    period: DAY,
    severity: Severity::Medium,
    min_score: None,
    allow_empty: false,
};

/// Both lists of Spamhaus.
const SPAMHAUS: Preset = Preset {
    licence: "free with credit to Spamhaus",
    note: "do not pull it more often than once an hour",
    origin: "spamhaus",
    shape: Shape::Jsonl("cidr", "sblid"),
    period: 12 * HOUR,
    severity: Severity::High,
    ..USUAL
};

const PRESETS: &[Preset] = &[
    Preset {
        name: "feodo",
        about: "abuse.ch Feodo Tracker: botnet command and control servers that are online, by port",
        url: "https://feodotracker.abuse.ch/downloads/ipblocklist.csv",
        licence: "CC0",
        note: "often empty: the list shrinks as servers are taken down",
        origin: "abuse.ch",
        shape: Shape::Csv(
            "dst_ip",
            "dst_port",
            Some("malware"),
            Some(("c2_status", "online")),
        ),
        scope: Scope::Out,
        period: HOUR,
        severity: Severity::High,
        allow_empty: true,
        ..USUAL
    },
    Preset {
        name: "sslbl",
        about: "abuse.ch SSLBL: botnet command and control servers by their certificates, by port",
        url: "https://sslbl.abuse.ch/blacklist/sslipblacklist.csv",
        licence: "CC0",
        note: "given up by its publisher on 2025-01-03: expect an empty list",
        origin: "abuse.ch",
        shape: Shape::Csv("DstIP", "DstPort", None, None),
        scope: Scope::Out,
        severity: Severity::High,
        allow_empty: true,
        ..USUAL
    },
    Preset {
        name: "spamhaus-drop",
        about: "Spamhaus DROP, IPv4: networks that are hijacked or run by criminals",
        url: "https://www.spamhaus.org/drop/drop_v4.json",
        ..SPAMHAUS
    },
    Preset {
        name: "spamhaus-drop6",
        about: "Spamhaus DROP, IPv6: networks that are hijacked or run by criminals",
        url: "https://www.spamhaus.org/drop/drop_v6.json",
        ..SPAMHAUS
    },
    Preset {
        name: "firehol-level1",
        about: "FireHOL level 1: DROP, DShield, malware lists and unrouted space in one",
        url: "https://iplists.firehol.org/files/firehol_level1.netset",
        licence: "that of each list inside",
        note: "contains private and multicast networks; keep private-networks = \"refuse\"",
        origin: "spamhaus",
        ..USUAL
    },
    Preset {
        name: "dshield",
        about: "SANS DShield: the 20 networks that attack most",
        url: "https://feeds.dshield.org/block.txt",
        licence: "CC BY-NC-SA",
        note: "contains research scanners; not for commercial use",
        origin: "dshield",
        scope: Scope::In,
        ..USUAL
    },
    Preset {
        name: "et-block",
        about: "Emerging Threats block list: Spamhaus DROP, DShield and Feodo in one",
        url: "https://rules.emergingthreats.net/fwrules/emerging-Block-IPs.txt",
        licence: "that of each list inside; DShield's is CC BY-NC-SA",
        note: "nearly all of it is Spamhaus DROP; updated on weekdays only",
        origin: "spamhaus",
        ..USUAL
    },
    Preset {
        name: "cins",
        about: "CINS Army: addresses with a bad record at Sentinel's sensors",
        url: "https://cinsscore.com/list/ci-badguys.txt",
        note: "capped at 15,000 lines; has been served empty for days",
        origin: "cins",
        scope: Scope::In,
        ..USUAL
    },
    Preset {
        name: "blocklist-de",
        about: "blocklist.de: addresses that attacked servers in the last 48 hours",
        url: "https://lists.blocklist.de/lists/all.txt",
        note: "IPv4 and IPv6; half of it changes in a day",
        origin: "blocklist.de",
        scope: Scope::In,
        period: HOUR,
        ..USUAL
    },
    Preset {
        name: "tor-exit",
        about: "Tor: addresses of exit nodes",
        url: "https://check.torproject.org/exit-addresses",
        licence: "CC0",
        note: "a policy, not malware: people use Tor for good reasons; alert rather than deny",
        origin: "torproject",
        scope: Scope::In,
        period: HOUR,
        severity: Severity::Low,
        ..USUAL
    },
    Preset {
        name: "ipsum",
        about: "IPsum: addresses by the number of public lists they are on",
        url: "https://raw.githubusercontent.com/stamparm/ipsum/master/ipsum.txt",
        licence: "public domain",
        note: "made from other lists, perhaps yours; most entries are on one list only, hence min-score 3",
        origin: "ipsum",
        min_score: Some(3),
        ..USUAL
    },
    Preset {
        name: "greensnow",
        about: "GreenSnow: addresses that attacked or scanned their sensors",
        url: "https://blocklist.greensnow.co/greensnow.txt",
        licence: "no redistribution",
        origin: "greensnow",
        scope: Scope::In,
        period: HOUR,
        ..USUAL
    },
];

/// All presets, the most precise first.
pub fn presets() -> &'static [Preset] {
    PRESETS
}

impl Preset {
    /// The preset of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// A feed with what the preset says, and defaults for the rest.
    pub fn feed(&'static self, name: FeedName) -> Feed {
        let period = Duration::from_secs(self.period);
        let usual = Feed::new(name);
        let (csv, json) = (self.csv(), self.json());
        Feed {
            preset: Some(self),
            url: self.url.parse().ok(),
            format: match self.shape {
                Shape::Plain => Format::Plain,
                Shape::Csv(..) => Format::Csv,
                Shape::Jsonl(..) => Format::Jsonl,
            },
            csv: csv.unwrap_or_default(),
            json: json.unwrap_or_default(),
            scope: self.scope,
            period,
            stale_after: self.stale_after(),
            severity: self.severity,
            min_score: self.min_score,
            allow_empty: self.allow_empty,
            origin: Some(self.origin.to_owned()),
            ..usual
        }
    }

    /// The word of its `format`.
    pub fn format(&self) -> &'static str {
        match self.shape {
            Shape::Plain => "plain",
            Shape::Csv(..) => "csv",
            Shape::Jsonl(..) => "jsonl",
        }
    }

    /// Directions it is meant for.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Three missed pulls, and a weekend for those that have one.
    pub(crate) fn stale_after(&self) -> Duration {
        let period = Duration::from_secs(self.period);
        if self.name == "et-block" {
            Duration::from_secs(5 * DAY)
        } else {
            period.saturating_mul(3)
        }
    }

    fn csv(&self) -> Option<CsvOptions> {
        let Shape::Csv(address, port, tag, only) = &self.shape else {
            return None;
        };
        Some(CsvOptions {
            column: Column::from(*address),
            header: true,
            port: Some(Column::from(*port)),
            tag: tag.map(Column::from),
            only: only
                .iter()
                .map(|(column, value)| ((*column).to_owned(), (*value).to_owned()))
                .collect(),
            ..CsvOptions::default()
        })
    }

    fn json(&self) -> Option<JsonOptions> {
        let Shape::Jsonl(address, tag) = &self.shape else {
            return None;
        };
        Some(JsonOptions {
            path: "$".parse().ok(),
            address: Some((*address).to_owned()),
            tag: Some((*tag).to_owned()),
            ..JsonOptions::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_a_feed_of_its_own() {
        for preset in presets() {
            let feed = preset.feed(preset.name.parse().unwrap());
            let url = feed.url.unwrap();
            assert_eq!(url.scheme(), "https", "{}", preset.name);
            assert_eq!(Preset::find(preset.name), Some(preset));
            assert!(feed.period.as_secs() >= HOUR, "{}", preset.name);
            assert!(feed.format != Format::Jsonl || feed.json.path.is_some());
            for text in [preset.about, preset.licence, preset.origin] {
                assert!(!text.is_empty(), "{}", preset.name);
            }
        }
        assert_eq!(Preset::find("nobody"), None);
    }
}
