//! Sections of the manual that the words of the command line do not hold.

use clap_mangen::roff::{Roff, bold, italic, roman};

/// What feedgate(8) says beyond its first sentence.
pub(super) fn about(roff: &mut Roff) {
    for text in [
        "feedgate puts threat feeds (lists of bad addresses) into nftables sets. The kernel checks \
         every new flow against them; unlisted traffic never reaches userspace. The first packet of \
         a matching flow is held while its source is found: process, user, unit, container, pod or \
         LAN client. The alert is logged, and only then the packet passes or is dropped.",
        "What a feed denies stays denied when the daemon is stopped, killed or overloaded.",
    ] {
        roff.control("PP", []);
        roff.text([roman(text)]);
    }
    roff.control("PP", []);
    roff.text([
        roman("Emergency exit: "),
        bold("feedgate down"),
        roman(". Without feedgate: "),
        bold("systemctl stop feedgate"),
        roman(", then "),
        bold("nft delete table inet feedgate"),
        roman("."),
    ]);
}

/// The exit codes of all commands.
pub(super) fn exit_status(roff: &mut Roff) {
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in [
        ("0", "It was done."),
        ("1", "It failed."),
        ("2", "The command line is wrong."),
        ("77", "Permission is missing."),
        ("78", "The configuration is wrong."),
    ] {
        item(roff, code, meaning);
    }
}

/// What the daemon heeds.
pub(super) fn signals_and_environment(roff: &mut Roff) {
    roff.control("SH", ["SIGNALS"]);
    item(
        roff,
        "SIGHUP",
        "Read the configuration again, and open the files that are written anew. A configuration \
         with a mistake is refused, and the old one stays in force.",
    );
    item(
        roff,
        "SIGTERM, SIGINT",
        "Stop. The table stays in the kernel, and denied addresses stay denied.",
    );
    roff.control("SH", ["ENVIRONMENT"]);
    item(
        roff,
        "FEEDGATE_LOG",
        "What the daemon's own log shows: error, warn, info, debug, trace or off, or levels for modules, such as \
         info,feedgate::fetch=debug. It wins over log-level of the configuration; another word is a mistake.",
    );
    item(
        roff,
        "FEEDGATE_DOWN_STATUS",
        "The exit code of a daemon that `feedgate down` ended; 0 unless set. The unit sets it, so that \
         systemd starts the daemon again after every other end.",
    );
    item(
        roff,
        "FEEDGATE_KEEP_ROOT",
        "Set to anything: a daemon that is started as root stays root.",
    );
    item(
        roff,
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY",
        "The way to the feeds, unless the configuration names one.",
    );
}

/// The files of a usual configuration.
pub(super) fn files(roff: &mut Roff) {
    roff.control("SH", ["FILES"]);
    for (path, meaning) in [
        ("/etc/feedgate/feedgate.toml", "The configuration."),
        (
            "/run/feedgate/control.sock",
            "Where commands reach the daemon: for root and group feedgate.",
        ),
        (
            "/var/lib/feedgate",
            "State: the last good text of every feed, the store of alerts, alerts that wait for a \
             log server.",
        ),
        (
            "/var/log/feedgate",
            "The JSON file of alerts and the flow log, where the configuration puts them there.",
        ),
    ] {
        roff.control("TP", []);
        roff.text([italic(path)]);
        roff.text([roman(meaning)]);
    }
}

/// Pages with their section, such as `nft(8)`.
pub(super) fn see_also(roff: &mut Roff, pages: &[&str]) {
    roff.control("SH", ["SEE ALSO"]);
    let mut line = Vec::new();
    for page in pages {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        let (name, section) = page.split_once('(').unwrap_or((page, ""));
        line.push(bold(name));
        line.push(roman(format!("({section}")));
    }
    roff.text(line);
}

/// A term and what it means.
fn item(roff: &mut Roff, term: &str, meaning: &str) {
    roff.control("TP", []);
    roff.text([bold(term)]);
    roff.text([roman(meaning)]);
}
