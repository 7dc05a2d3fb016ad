//! The command line (DESIGN.md section 4): reads it, does it or asks the daemon, prints the result.
//!
//! Exit codes: 0 ok, 1 failed, 2 usage, 77 no permission, 78 configuration.

#[macro_use]
mod output; // first: its macros are those of the modules below

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
mod log;
mod lookup;
mod man;
mod nft;
mod resource_args;
mod resources;
mod selftest;
mod status;
mod stderr;
mod table;

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;

use args::{Args, Command, FeedsCommand};

/// The exit code of a daemon that `feedgate down` ended; set by the unit.
const DOWN_STATUS: &str = "FEEDGATE_DOWN_STATUS";

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
    let args = Args::parse();
    choose_signals(&args.command);
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
            start_log()?;
            let ended = crate::daemon::run(&config).map_err(run_failure)?;
            exit_code(ended)
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
            start_log()?;
            let loaded = crate::daemon::load(&config).map_err(run_failure)?;
            // The table is in the kernel, whether somebody reads this or not.
            let _ = writeln!(io::stdout(), "{loaded}");
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
        Command::Log { level, json } => log::log(&config, level.map(Into::into), json.json),
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

/// 0, whatever ended it; but a service manager that starts it again after every end needs to know `down`
/// from the others, and names the code for that.
fn exit_code(ended: crate::daemon::Ended) -> Result<(), Failure> {
    let asked = std::env::var(DOWN_STATUS).ok();
    match asked.and_then(|code| code.parse().ok()) {
        Some(code) if ended == crate::daemon::Ended::Down => Err(Failure {
            code,
            message: String::new(),
        }),
        _ => Ok(()),
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
    crate::demo::run(&exe, &mut io::stdout().lock()).map_err(|e| Failure {
        code: e.exit_code(),
        message: e.to_string(),
    })
}

fn start_log() -> Result<(), Failure> {
    crate::logging::start(stderr::Log::stderr()).map_err(Failure::config)
}

/// What writing to a reader that is gone does to this process, and writing beyond a limit of file sizes.
///
/// A client command ends quietly, as others do with `| head`. What protects the host, or has a host to
/// clean up, goes on with an error instead: whoever it writes to could otherwise end it.
#[allow(unsafe_code)]
fn choose_signals(command: &Command) {
    let (signal, action) = match command {
        Command::Run
        | Command::Demo
        | Command::Nft {
            command: args::NftCommand::Load,
        } => (libc::SIGXFSZ, libc::SIG_IGN),
        // Rust ignores it before main.
        _ => (libc::SIGPIPE, libc::SIG_DFL),
    };
    // SAFETY: called before any thread starts; to ignore either signal, or to take its default action, is
    // a valid disposition.
    unsafe {
        libc::signal(signal, action);
    }
}
