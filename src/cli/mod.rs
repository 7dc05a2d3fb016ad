//! The command line (DESIGN.md section 4): reads it, does it or asks the daemon, prints the result.
//!
//! Exit codes: 0 ok, 1 failed, 2 usage, 77 no permission, 78 configuration.

mod alerts;
mod args;
mod ask;
mod check;
mod deny;
mod describe;
mod down;
mod feeds;
mod graph;
mod import;
mod lookup;
mod man;
mod nft;
mod resource_args;
mod resources;
mod selftest;
mod status;
mod table;

use std::{fmt, io::IsTerminal, process::ExitCode};

use clap::Parser;

use args::{Args, Command, FeedsCommand};

/// A command that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Failed (exit code 1).
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self {
            code: 1,
            message: message.to_string(),
        }
    }

    /// Wrong usage (exit code 2).
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self {
            code: 2,
            message: message.to_string(),
        }
    }

    /// No permission (exit code 77, EX_NOPERM of sysexits.h).
    pub(crate) fn permission(message: impl fmt::Display) -> Self {
        Self {
            code: 77,
            message: message.to_string(),
        }
    }

    /// Configuration (exit code 78, EX_CONFIG of sysexits.h).
    pub(crate) fn config(message: impl fmt::Display) -> Self {
        Self {
            code: 78,
            message: message.to_string(),
        }
    }
}

/// Reads the command line of this process and does what it says.
pub fn main() -> ExitCode {
    // A closed pipe, as with `| head`, ends the command quietly instead of by a panic.
    restore_sigpipe();
    let args = Args::parse();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("feedgate: {}", failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(args: Args) -> Result<(), Failure> {
    let config = args.config_file();
    match args.command {
        Command::Run => {
            start_log();
            crate::daemon::run(&config).map_err(run_failure)
        }
        Command::Check { print, json } => check::check(&config, print, json.json),
        Command::Status { json } => status::status(&config, json.json),
        Command::Feeds {
            command: None,
            json,
        } => status::feeds(&config, json.json),
        Command::Feeds {
            command: Some(FeedsCommand::Presets { json: too }),
            json,
        } => feeds::presets(json.json || too.json),
        Command::Feeds {
            command: Some(FeedsCommand::Accept { feed }),
            ..
        } => feeds::accept(&config, feed),
        Command::Import {
            tool,
            file,
            lists,
            json,
        } => import::import(tool.tool(), &file, lists, json.json),
        Command::Push { feed, file } => feeds::push(&config, &feed, &file),
        Command::Lint {
            target,
            known,
            read_as,
            json,
        } => feeds::lint(&config, &target, &known, read_as.as_deref(), json.json),
        Command::Refresh {
            feed,
            dry_run: false,
            json,
        } => ask::refresh(&config, feed, json.json),
        Command::Refresh {
            feed,
            dry_run: true,
            json,
        } => feeds::preview(&config, feed, json.json),
        Command::Lookup {
            address,
            labels,
            port,
            direction,
            json,
        } => lookup::lookup(
            &config,
            address,
            labels,
            port,
            direction.map(Into::into),
            json.json,
        ),
        Command::Alerts { command } => alerts::run(&config, command),
        Command::Graph { filters, dot, json } => graph::graph(&config, filters, dot, json.json),
        Command::Nft {
            command:
                args::NftCommand::Print {
                    base,
                    inspect,
                    elements,
                    json,
                },
        } => match (base, inspect) {
            (true, _) => nft::base(&config, json.json),
            (_, true) => nft::inspect(&config, json.json),
            _ => nft::print(&config, elements, json.json),
        },
        Command::Apply(args) => resources::apply(&config, &args),
        Command::Get(args) => resources::get(&config, &args),
        Command::Describe(args) => resources::describe(&config, &args),
        Command::Delete(args) => resources::delete(&config, &args),
        Command::Nft {
            command: args::NftCommand::Load,
        } => {
            start_log();
            let loaded = crate::daemon::load(&config).map_err(run_failure)?;
            println!("{loaded}");
            Ok(())
        }
        Command::Deny {
            feed,
            confirm,
            keep,
            undo: _,
            json,
        } => {
            let step = deny::step(confirm, keep);
            deny::deny(&config, &feed, step, json.json)
        }
        Command::Selftest { json } => selftest::selftest(&config, json.json),
        Command::SelftestProbe { to, token } => {
            crate::daemon::selftest_probe(to, &token);
            Ok(())
        }
        Command::Down => down::down(&config),
        Command::Demo => demo(),
        Command::Completions { shell } => man::completions(shell),
        Command::Man { folder } => man::write(&folder),
    }
}

fn run_failure(error: crate::daemon::RunError) -> Failure {
    use crate::daemon::RunError;
    match error {
        RunError::Config(text) => Failure::config(text),
        RunError::Permission(text) => Failure::permission(text),
        other => Failure::failed(other),
    }
}

fn demo() -> Result<(), Failure> {
    let exe = std::env::current_exe()
        .map_err(|e| Failure::failed(format!("cannot find this program: {e}")))?;
    crate::demo::run(&exe, &mut std::io::stdout().lock()).map_err(|e| Failure {
        code: e.exit_code(),
        message: e.to_string(),
    })
}

/// The log goes to standard error, without times when systemd adds them.
fn start_log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("FEEDGATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    let log = log.with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
}

#[allow(unsafe_code)]
fn restore_sigpipe() {
    // SAFETY: called before any thread starts; the default action of SIGPIPE is a valid disposition.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}
