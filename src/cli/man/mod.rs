//! The manual: a page for each command from the words of the command line, and
//! feedgate.toml(5) from the shipped configuration. Packages and `make install` ask for them.

mod config;
mod section;

use std::{fs, io, path::Path};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::{Man, roff::Roff};

use super::{Failure, args::Args};

/// The manual that all pages belong to.
const MANUAL: &str = "feedgate";

/// `feedgate man DIR`: writes all pages below `folder`, in man5 and man8.
pub(super) fn write(folder: &Path) -> Result<(), Failure> {
    for (name, text) in pages().map_err(|cause| failed(folder, cause))? {
        let section = name.rsplit('.').next().unwrap_or_default();
        let below = folder.join(format!("man{section}"));
        let file = below.join(&name);
        fs::create_dir_all(&below).map_err(|cause| failed(&below, cause))?;
        fs::write(&file, text).map_err(|cause| failed(&file, cause))?;
    }
    Ok(())
}

/// `feedgate completions SHELL`: prints them.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "feedgate", &mut text);
    io::Write::write_all(&mut io::stdout().lock(), &text)
        .map_err(|cause| Failure::failed(format!("cannot print completions: {cause}")))
}

fn failed(at: &Path, cause: io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {cause}", at.display()))
}

/// All pages: file name, with the section as its ending, and text.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    main_page(&command, &mut pages)?;
    for sub in shown(&command) {
        sub_page(sub, &command, &mut pages)?;
    }
    let mut text = Vec::new();
    config::page().to_writer(&mut text)?;
    pages.push(("feedgate.toml.5".to_owned(), text));
    Ok(pages)
}

fn main_page(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let (man, mut text) = begin(command)?;
    let mut about = Roff::new();
    section::about(&mut about);
    about.to_writer(&mut text)?;
    man.render_options_section(&mut text)?;
    man.render_subcommands_section(&mut text)?;
    let mut rest = Roff::new();
    section::exit_status(&mut rest);
    section::signals_and_environment(&mut rest);
    section::files(&mut rest);
    section::see_also(&mut rest, &["feedgate.toml(5)", "nft(8)", "systemctl(1)"]);
    rest.to_writer(&mut text)?;
    pages.push((man.get_filename(), text));
    Ok(())
}

/// The page of a subcommand, and those of its own subcommands.
fn sub_page(
    command: &Command,
    parent: &Command,
    pages: &mut Vec<(String, Vec<u8>)>,
) -> io::Result<()> {
    let (man, mut text) = begin(command)?;
    man.render_options_section(&mut text)?;
    if shown(command).next().is_some() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut rest = Roff::new();
    let above = format!("{}(8)", name(parent));
    section::see_also(&mut rest, &[&above, "feedgate.toml(5)"]);
    rest.to_writer(&mut text)?;
    pages.push((man.get_filename(), text));
    for sub in shown(command) {
        sub_page(sub, command, pages)?;
    }
    Ok(())
}

/// Title, name, synopsis and description.
fn begin(command: &Command) -> io::Result<(Man, Vec<u8>)> {
    let man = Man::new(command.clone())
        .title(name(command).to_uppercase())
        .section("8")
        .source(source())
        .manual(MANUAL);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    Ok((man, text))
}

/// Subcommands but the hidden ones.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set())
}

/// Such as `feedgate-alerts-list`.
fn name(command: &Command) -> &str {
    command
        .get_display_name()
        .unwrap_or_else(|| command.get_name())
}

fn source() -> String {
    format!("feedgate {}", env!("CARGO_PKG_VERSION"))
}
