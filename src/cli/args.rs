//! The words of the command line.

use std::{net::IpAddr, path::PathBuf};

use clap::{Parser, Subcommand};

use crate::alert::filter::{Filter, State, Verdict};

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
    /// Show which feeds list an address, and what becomes of flows to and from it
    Lookup {
        /// IPv4 or IPv6 address
        address: IpAddr,
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
    /// The kernel ruleset
    Nft {
        #[command(subcommand)]
        command: NftCommand,
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
