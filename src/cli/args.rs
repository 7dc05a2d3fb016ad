//! The words of the command line.

use std::{net::IpAddr, path::PathBuf};

use clap::{Parser, Subcommand};

use super::resource_args;
use crate::{
    alert::filter::{Filter, State, Verdict},
    config::LogLevel,
    feed::{Direction, PortMatch},
    import::Tool,
    policy::{MAX_KEY, RESERVED},
};

/// Where the configuration is without `--config`.
pub(super) const CONFIG: &str = "/etc/feedgate/feedgate.toml";

/// Threat feeds into nftables; the first packet of each matching flow is attributed before its verdict.
#[derive(Debug, Parser)]
#[command(name = "feedgate", version, propagate_version = true)]
#[command(after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 77 no permission, 78 configuration.")]
pub(super) struct Args {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Args {
    pub(super) fn config_file(&self) -> PathBuf {
        self.config.clone()
    }
}

/// `--json`
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the gateway in the foreground
    Run,
    /// Check the configuration and show every mistake in it
    Check {
        /// Print the effective configuration
        #[arg(long, conflicts_with = "json")]
        print: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show whether this host is protected, stale feeds, and who was denied in the last hour
    Status {
        #[command(flatten)]
        json: Json,
    },
    /// Show the feeds
    Feeds {
        #[command(subcommand)]
        command: Option<FeedsCommand>,
        #[command(flatten)]
        json: Json,
    },
    /// Pull feeds now; returns when the result is in the kernel
    Refresh {
        /// One feed; all of them without
        feed: Option<String>,
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Give a feed without url its text, plain or {"ips": [...]}
    Push {
        /// The feed
        feed: String,
        /// File with the text; `-`: standard input
        file: PathBuf,
    },
    /// Print the block lists and settings of another tool as feeds, and what cannot be taken over
    Import {
        /// What the file is
        #[arg(value_enum, value_name = "KIND")]
        tool: ToolWord,
        /// `ipset save`, a bouncer's YAML, /etc/config/banip or its list of feeds, Suricata rules or reputations; `-`: standard input
        file: PathBuf,
        /// Write the lists of the feeds into this folder
        #[arg(long, value_name = "DIR")]
        lists: Option<PathBuf>,
        #[command(flatten)]
        json: Json,
    },
    /// Look for what is odd about a feed before it blocks anything
    Lint {
        /// A configured feed, or a file
        target: String,
        /// MISP warninglists of addresses that are known to be good
        #[arg(long = "known", value_name = "FILE")]
        known: Vec<PathBuf>,
        /// Read a file as this feed or preset is read: for csv, json and other structured texts
        #[arg(long = "as", value_name = "FEED|PRESET")]
        read_as: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Show which feeds list an address, what becomes of flows to and from it, and which policy decides
    Lookup {
        /// IPv4 or IPv6 address
        address: IpAddr,
        /// Of an endpoint with this label, such as unit=nginx.service; again for further ones. Labels that
        /// are not given it does not have; without any: of every endpoint
        #[arg(long = "as", value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
        /// The receiver's port, such as TCP/443
        #[arg(long, value_name = "PROTOCOL/PORT", value_parser = port)]
        port: Option<PortMatch>,
        /// Only flows to (egress) or from (ingress) the address
        #[arg(long, value_enum)]
        direction: Option<DirectionWord>,
        #[command(flatten)]
        json: Json,
    },
    /// The alerts that are stored: list, follow, show, dismiss, verify
    Alerts {
        #[command(subcommand)]
        command: AlertsCommand,
    },
    /// Show which sources talked to which feeds and indicators, from the stored alerts
    Graph {
        #[command(flatten)]
        filters: Filters,
        /// Print a graph for Graphviz (`| dot -Tsvg`)
        #[arg(long, conflicts_with = "json")]
        dot: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Put Calico v3 manifests into force
    Apply(resource_args::Apply),
    /// Show resources: threat feeds, network sets, policies, tiers
    Get(resource_args::Get),
    /// Show resources in detail
    Describe(resource_args::Describe),
    /// Delete applied resources
    Delete(resource_args::Delete),
    /// Let a feed that only alerts deny: for a while, and for good once that is confirmed
    #[command(group = clap::ArgGroup::new("step").required(true).args(["confirm", "keep", "undo"]))]
    Deny {
        /// The feed
        feed: String,
        /// Deny now, and take it back after that time (5s to 24h) unless it is confirmed
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        confirm: Option<std::time::Duration>,
        /// Confirm it: it goes on denying
        #[arg(long)]
        keep: bool,
        /// Take it back
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        json: Json,
    },
    /// The kernel ruleset
    Nft {
        #[command(subcommand)]
        command: NftCommand,
    },
    /// Change what the running daemon logs, until its next reload or start; without LEVEL: show it
    Log {
        /// The least level to show
        #[arg(value_enum, value_name = "LEVEL")]
        level: Option<LevelWord>,
        #[command(flatten)]
        json: Json,
    },
    /// Send a packet to a canary address and follow it through set, queue, attribution, alert and verdict
    Selftest {
        #[command(flatten)]
        json: Json,
    },
    /// The child process of a self-test
    #[command(hide = true)]
    SelftestProbe {
        /// Where it sends to
        to: std::net::SocketAddr,
        /// What it sends
        token: String,
    },
    /// Remove the table from the kernel and stop the daemon
    Down,
    /// Run the lab in network namespaces: a listed server, alerts, then deny (needs root)
    Demo,
    /// Print the completions of a shell
    Completions {
        /// Which one
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, for packages
    #[command(hide = true)]
    Man {
        /// Folder that gets man5 and man8
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum FeedsCommand {
    /// List the well-known feeds that `preset` knows
    Presets {
        #[command(flatten)]
        json: Json,
    },
    /// Take an update that was held back because it differs much from the last good data
    Accept {
        /// The feed
        feed: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum AlertsCommand {
    /// Show stored alerts, newest first
    List {
        #[command(flatten)]
        filters: Filters,
        #[command(flatten)]
        state: StateFilter,
        /// At most so many; 0: all
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        json: Json,
    },
    /// Show new alerts as they come, until Ctrl-C; with --since earlier ones first
    Follow {
        #[command(flatten)]
        filters: Filters,
        /// Print JSON, an alert a line
        #[arg(long)]
        json: bool,
    },
    /// Show everything that is known of one alert
    Show {
        /// Its id, or the beginning of it
        id: String,
        #[command(flatten)]
        json: Json,
    },
    /// Mark alerts as dealt with; they stay in the store
    Dismiss {
        /// Their ids, or the beginnings
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// All open ones that fit the filters
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        filters: Filters,
        /// Why, for those who look later
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
        #[command(flatten)]
        json: Json,
    },
    /// Check that no stored record was changed, deleted or put in by other hands (exit code 1 if so)
    Verify {
        /// A head that an earlier `verify` or `status` printed
        #[arg(long, value_name = "SEQ:HASH")]
        anchor: Option<String>,
        #[command(flatten)]
        json: Json,
    },
}

/// Which alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Filters {
    /// Only since then: `1h`, `2days`, or a time such as 2026-01-31T08:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<i64>,
    /// Only of this feed
    #[arg(long)]
    feed: Option<String>,
    /// Only of this source: an address, or a part of the name of its program, unit, container, pod, client or user
    #[arg(long)]
    source: Option<String>,
    /// Only with this verdict
    #[arg(long, visible_alias = "verdict", value_enum)]
    action: Option<VerdictWord>,
}

impl Filters {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn has_since(&self) -> bool {
        self.since.is_some()
    }

    pub(super) fn filter(self, state: State) -> Filter {
        Filter {
            since: self.since,
            feed: self.feed,
            source: self.source,
            action: self.action.map(|word| match word {
                VerdictWord::Deny => Verdict::Deny,
                VerdictWord::Alert => Verdict::Alert,
            }),
            state,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum VerdictWord {
    /// Denied
    Deny,
    /// Let pass
    Alert,
}

/// Dismissed or not.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct StateFilter {
    /// Only open or dismissed ones
    #[arg(long, value_enum, default_value_t = StateWord::Open)]
    state: StateWord,
}

impl StateFilter {
    pub(super) fn state(self) -> State {
        match self.state {
            StateWord::Open => State::Open,
            StateWord::Dismissed => State::Dismissed,
            StateWord::All => State::All,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum StateWord {
    Open,
    Dismissed,
    All,
}

/// Whose file is imported.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum ToolWord {
    /// Rules with addresses in their headers, lists of IP reputation
    Suricata,
    /// The output of `ipset save`
    Ipset,
    /// The configuration of the firewall bouncer
    Crowdsec,
    /// /etc/config/banip, or a list of feeds as JSON
    Banip,
}

impl ToolWord {
    pub(super) fn tool(self) -> Tool {
        match self {
            Self::Suricata => Tool::Suricata,
            Self::Ipset => Tool::Ipset,
            Self::Crowdsec => Tool::Crowdsec,
            Self::Banip => Tool::Banip,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DirectionWord {
    /// To the address
    Egress,
    /// From the address
    Ingress,
}

impl From<DirectionWord> for Direction {
    fn from(word: DirectionWord) -> Self {
        match word {
            DirectionWord::Egress => Self::Egress,
            DirectionWord::Ingress => Self::Ingress,
        }
    }
}

/// A label of an endpoint, `KEY=VALUE`.
fn label(text: &str) -> Result<(String, String), String> {
    const FORM: &str = "write it as KEY=VALUE, such as unit=nginx.service";
    let (key, value) = text.split_once('=').ok_or(FORM)?;
    let is_key = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || key.len() > MAX_KEY || !key.chars().all(is_key) {
        return Err(format!("{key:?} is not the key of a label: {FORM}"));
    }
    let starts_another = |part: &str| {
        let key = part.trim_start().split_once('=').map(|(key, _)| key);
        key.is_some_and(|key| RESERVED.contains(&key))
    };
    if let Some(other) = value.split(',').skip(1).find(|part| starts_another(part)) {
        let other = other.trim_start();
        return Err(format!("one label only: write --as again for {other:?}"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// A port with its protocol, in either order; of TCP without one.
fn port(text: &str) -> Result<PortMatch, String> {
    let text = text.to_ascii_lowercase();
    let (proto, port) = match text.split_once('/') {
        Some((one, other)) if one.bytes().all(|b| b.is_ascii_digit()) => (other, one),
        Some((one, other)) => (one, other),
        None => ("tcp", text.as_str()),
    };
    format!("{port}/{proto}").parse().map_err(|_| {
        "write it as PROTOCOL/PORT, such as TCP/443; protocols: tcp, udp, sctp, udplite".to_owned()
    })
}

/// A time as microseconds since 1970: a duration before now, or RFC 3339.
fn since(text: &str) -> Result<i64, String> {
    use crate::alertdb::micros;
    use std::time::SystemTime;
    if let Ok(ago) = humantime::parse_duration(text) {
        let then = SystemTime::now().checked_sub(ago);
        return Ok(then.map_or(i64::MIN, micros));
    }
    let format = &time::format_description::well_known::Rfc3339;
    if let Ok(time) = time::OffsetDateTime::parse(text, format) {
        return Ok(micros(time.into()));
    }
    let weak = humantime::parse_rfc3339_weak(text).map(micros);
    weak.map_err(|_| "neither a duration such as 1h nor a time such as 2026-01-31T08:00:00Z".into())
}

#[derive(Debug, Subcommand)]
pub(super) enum NftCommand {
    /// Print the ruleset in nft syntax
    Print {
        /// What nft/base.nft holds, for this configuration: sets, counters, guard chains
        #[arg(long, conflicts_with_all = ["inspect", "elements"])]
        base: bool,
        /// What nft/inspect.nft holds, for this configuration: the chains that ask the daemon
        #[arg(long, conflicts_with = "elements")]
        inspect: bool,
        /// With the elements of the sets
        #[arg(long)]
        elements: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Load the last good data into the kernel without a daemon, as at boot
    Load,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn times_of_filters() {
        assert_eq!(since("1970-01-01T00:00:01Z"), Ok(1_000_000));
        assert_eq!(since("1970-01-01T01:00:01+01:00"), Ok(1_000_000));
        assert_eq!(since("1970-01-01 00:00:01"), Ok(1_000_000));
        let now = crate::alertdb::micros(std::time::SystemTime::now());
        let hour = now - since("1h").unwrap();
        assert!((3_599_000_000..=3_600_000_000).contains(&hour), "{hour}");
        for bad in ["", "yesterday", "1", "-1h"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_and_ports_of_a_lookup() {
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(label("exe=/usr/bin/a=b"), pair("exe", "/usr/bin/a=b"));
        assert_eq!(
            label("projectcalico.org/namespace="),
            pair("projectcalico.org/namespace", "")
        );
        for bad in ["", "unit", "=a", "a b=c", "k\u{e9}y=v"] {
            assert!(label(bad).is_err(), "{bad}");
        }
        // Two labels in one: which no value of a label means.
        for bad in ["container=c,namespace=shop", "unit=a, user=b"] {
            assert!(label(bad).unwrap_err().contains("--as again"), "{bad}");
        }
        assert!(label("exe=/opt/a,b=c").is_ok());
        for good in ["TCP/443", "tcp/443", "443", "443/TCP"] {
            assert_eq!(port(good).unwrap().to_string(), "443/tcp", "{good}");
        }
        assert_eq!(port("UDP/53").unwrap().to_string(), "53/udp");
        for bad in ["", "tcp", "tcp/0", "tcp/65536", "icmp/8", "53/53", "/53"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn config_stands_before_or_after_the_verb() {
        for line in [
            ["feedgate", "--config", "x", "status"],
            ["feedgate", "status", "--config", "x"],
        ] {
            assert_eq!(
                Args::try_parse_from(line).unwrap().config_file(),
                PathBuf::from("x")
            );
        }
        // Between a verb and its second word, too.
        for verb in ["feeds presets", "feeds accept f", "nft print"] {
            let (first, rest) = verb.split_once(' ').unwrap();
            let line = ["feedgate", first, "--config", "x"].into_iter();
            let args = Args::try_parse_from(line.chain(rest.split(' '))).unwrap();
            assert_eq!(args.config_file(), PathBuf::from("x"), "{verb}");
        }
        assert_eq!(
            Args::try_parse_from(["feedgate", "run"])
                .unwrap()
                .config_file(),
            PathBuf::from(CONFIG)
        );
    }
}

/// A level of the log, on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum LevelWord {
    /// Protection is off
    Error,
    /// Something is degraded
    Warn,
    /// Changes of state
    Info,
    /// Skipped lines of feeds, unreadable packets
    Debug,
    /// A line for each queued packet
    Trace,
}

impl From<LevelWord> for LogLevel {
    fn from(word: LevelWord) -> Self {
        match word {
            LevelWord::Error => Self::Error,
            LevelWord::Warn => Self::Warn,
            LevelWord::Info => Self::Info,
            LevelWord::Debug => Self::Debug,
            LevelWord::Trace => Self::Trace,
        }
    }
}
