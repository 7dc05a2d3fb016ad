//! The words of the command line.

use std::{net::IpAddr, path::PathBuf};

use clap::{Parser, Subcommand};

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
    /// The kernel ruleset
    Nft {
        #[command(subcommand)]
        command: NftCommand,
    },
    /// Remove the table from the kernel and stop the daemon
    Down,
    /// Run the lab in network namespaces: a listed server, alerts, then deny (needs root)
    Demo,
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
