//! What commands print: nothing of it steers the terminal, whatever a process, a feed or a file is called.
//!
//! The macros take the place of those of std in all modules of `cli`. What a program reads, such as JSON,
//! escapes such characters by its own rules instead, and is printed as it is.

use std::{
    fmt,
    io::{self, Write},
};

use serde_json::Value;

use crate::visible::{escape_json, visible_lines};

macro_rules! print {
    ($($text:tt)*) => { $crate::cli::output::out(format_args!($($text)*)) };
}

macro_rules! println {
    ($($text:tt)*) => { $crate::cli::output::out(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::cli::output::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// To standard output; a character that could steer a terminal is a `?`.
pub(super) fn out(text: fmt::Arguments<'_>) {
    std::print!("{}", visible_lines(&text.to_string()));
}

/// The same to standard error. Where nobody reads that, the exit code still counts: this does not panic.
pub(super) fn err(text: fmt::Arguments<'_>) {
    let _ = io::stderr().write_all(visible_lines(&text.to_string()).as_bytes());
}

/// A JSON value for a program.
pub(super) fn print_json(value: &Value) {
    std::println!("{}", escape_json(format!("{value:#}")));
}

/// The same in one line.
pub(super) fn print_json_line(value: &Value) {
    std::println!("{}", escape_json(value.to_string()));
}
