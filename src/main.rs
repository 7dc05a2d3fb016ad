//! The `feedgate` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    feedgate::cli::main()
}
