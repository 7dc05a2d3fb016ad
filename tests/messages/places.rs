//! Which texts of the code are messages: by the place where they stand.

use crate::code::Text;

/// What stands in these is said when something is wrong.
const SAYS: [&str; 14] = [
    "#error",
    "warn!",
    "error!",
    "eprintln!",
    "eprint!",
    "Err",
    ".map_err",
    ".ok_or",
    ".ok_or_else",
    ".bad",
    ".bad_lines",
    ".not_address",
    ".remark",
    "Class::Bad",
];

/// The same for calls of these types.
const SAYING_TYPES: [&str; 3] = ["Problem::", "Failure::", "io::Error::"];

/// What stands in these is not: answers, notes of what goes well, the help below a message.
const QUIET_MACROS: [&str; 8] = [
    "info!",
    "debug!",
    "trace!",
    "println!",
    "print!",
    "json!",
    "debug_assert!",
    "format_description!",
];

/// The same, if nothing else is around it: help below a message, SQL, and the ends of other texts.
const QUIET_CALLS: [&str; 24] = [
    ".help",
    ".execute",
    "Problem::expected",
    "expected",
    "fn expected",
    ".expected",
    ".expected_with",
    ".value",
    "DemoError::io",
    ".require",
    ".missing",
    "const HELP",
    "const SCHEMES",
    "const FORM",
    ".query_row",
    ".prepare",
    ".comment",
    ".note",
    ".starts_with",
    ".strip_prefix",
    ".split_once",
    ".ip",
    ".say",
    "good",
];

/// Other texts that are no messages: file, place in it (or all of it), why. What stands in [`SAYS`] there counts.
pub const ANSWERS: &[(&str, &str, &str)] = &[
    // Answers to questions.
    ("cli/alerts.rs", "", "alerts list, show"),
    ("cli/ask.rs", "", "refresh"),
    ("cli/check.rs", "fn check", "the count of resources"),
    ("cli/describe.rs", "", "describe"),
    ("cli/feeds.rs", "", "feeds, lint, presets"),
    ("cli/graph.rs", "", "graph"),
    ("cli/import.rs", "", "the closing line of import"),
    ("cli/lookup.rs", "", "lookup"),
    ("cli/man/", "", "manual pages"),
    ("cli/resources.rs", "", "apply, get, delete"),
    ("cli/selftest.rs", "", "selftest"),
    ("cli/status.rs", "", "status, feeds"),
    ("daemon/arming.rs", "fn of", "how far a trial is, in status"),
    (
        "daemon/arming.rs",
        "fn words",
        "what an alert on trial says",
    ),
    (
        "daemon/arming.rs",
        "const WOULD",
        "what an alert on trial says",
    ),
    ("daemon/boot.rs", "", "nft load"),
    ("daemon/core.rs", "fn one_line", "the status of systemd"),
    ("daemon/mod.rs", "fn one_line", "the status of systemd"),
    ("daemon/elements.rs", "fn print", "nft print"),
    ("daemon/exposition.rs", "", "metrics"),
    ("daemon/resources/get.rs", "", "get"),
    ("daemon/resources/object.rs", "", "get, describe"),
    ("feed/lint.rs", "", "lint"),
    (
        "policy/decide.rs",
        "",
        "what an alert says of staged policies",
    ),
    ("policy/explain.rs", "", "lookup --as"),
    ("policy/model.rs", "fn verb", "what both say"),
    ("snapshot/report.rs", "", "examples in feeds"),
    // Parts of alerts and events.
    ("alert/", "", "alert lines and events"),
    ("alertdb/record.rs", "", "the source of an alert"),
    ("daemon/engine.rs", "Fate", "the line of a packet at TRACE"),
    (
        "daemon/engine.rs",
        "fn in_words",
        "the line of a packet at TRACE",
    ),
    ("daemon/flows.rs", "", "a flow"),
    (
        "daemon/found.rs",
        "const CAUSE",
        "the cause of an alert without a packet",
    ),
    ("daemon/judge.rs", "fn annotate", "notes of policies"),
    (
        "daemon/notices.rs",
        "const NOTICES",
        "news of a version, which explain themselves",
    ),
    (
        "daemon/pressure.rs",
        "fn as_str",
        "the line of a packet at TRACE",
    ),
    ("daemon/tally.rs", "", "who is counted"),
    // Texts for others than people: SQL, nft, files, protocols, markers.
    ("alertdb/book.rs", ".unwrap_or", "a new store"),
    ("alertdb/read.rs", ".write_str", "the end of a list"),
    ("alertdb/head.rs", "", "a line of a file"),
    ("alertdb/open.rs", "", "SQL"),
    ("alertdb/read.rs", "fn checkpoint", "SQL"),
    ("alertdb/read.rs", "fn conditions", "SQL"),
    ("alertdb/read.rs", "fn head", "SQL"),
    ("alertdb/read.rs", "fn list", "SQL"),
    ("alertdb/read.rs", "fn show", "SQL"),
    ("config/identifier.rs", "", "the words of nft"),
    ("config/print.rs", "", "check --print"),
    ("daemon/lastgood.rs", "fn source", "what a feed is known by"),
    (
        "daemon/meters.rs",
        "",
        "beginnings of causes, which are told apart by them",
    ),
    ("daemon/transition.rs", "fn words", "forms, in the log"),
    ("feed/cover.rs", "", "lint, and the shares in messages"),
    ("feed/known.rs", "", "names of known services"),
    ("feed/presets.rs", "", "presets"),
    ("import/banip.rs", "", "the configuration that is printed"),
    ("import/block.rs", "", "the configuration that is printed"),
    (
        "import/crowdsec.rs",
        "fn import",
        "the configuration that is printed",
    ),
    (
        "import/mod.rs",
        "fn to_toml",
        "the configuration that is printed",
    ),
    (
        "import/suricata.rs",
        "fn rules",
        "the configuration that is printed",
    ),
    ("metrics/", "", "types of HTTP"),
    ("resources/sealed.rs", "const MARK", "a line of a file"),
    ("ruleset/", "", "nft"),
    // Names of things, for messages and answers that have an entry themselves.
    (
        "config/feeds.rs",
        "fn same_name",
        "the label of a second place",
    ),
    (
        "config/keys.rs",
        "fn suggest",
        "the help below `unknown key`",
    ),
    ("config/value.rs", "fn kind", "types of TOML"),
    ("conntrack/mod.rs", "fn list", "a request"),
    ("conntrack/mod.rs", "fn mark", "a request"),
    ("daemon/abilities.rs", "", "what the kernel can"),
    ("daemon/heal.rs", "fn describe", "who changed the table"),
    (
        "daemon/start.rs",
        "fn keep_what_needs_a_restart",
        "parts of the configuration",
    ),
    ("daemon/start.rs", "fn spawn", "a thread"),
    ("daemon/", ".begin", "loops"),
    ("daemon/flow_log.rs", "fn pulses", "loops"),
    ("daemon/mod.rs", "fn watch_helpers", "loops"),
    ("daemon/mod.rs", "fn watch_targets", "loops"),
    ("daemon/pulls.rs", "fn pull", "a loop"),
    ("sink/mod.rs", "fn pulses", "loops"),
    ("daemon/watchdog.rs", "fn late", "the watch over the loops"),
    (
        "daemon/watchdog.rs",
        "fn look_for_a_still",
        "why it stood still",
    ),
    (
        "daemon/watchdog.rs",
        "Self::fatal",
        "what waits while one hangs",
    ),
    (
        "daemon/watchdog.rs",
        "Self::problem",
        "what waits while one hangs",
    ),
    (
        "daemon/watchdog.rs",
        "fn new",
        "loops, and what waits while one hangs",
    ),
    ("demo/", "", "the demo's steps"),
    ("feed/formats/json.rs", "fn kind", "types of JSON"),
    (
        "feed/formats/warninglist.rs",
        "fn name",
        "a list without a name",
    ),
    ("feed/judge.rs", "fn before", "the end of a message"),
    ("feed/judge.rs", "fn describe", "the end of a message"),
    ("host/addresses/mod.rs", "", "kinds of addresses"),
    ("host/addresses/routes.rs", "", "kinds of addresses"),
    ("host/addresses/servers.rs", "", "kinds of addresses"),
    ("host/addresses/ssh.rs", "", "kinds of addresses"),
    ("host/modes.rs", "fn loose", "kinds of files"),
    (
        "manifest/cursor.rs",
        "fn known",
        "the help below `unknown field`",
    ),
    (
        "manifest/cursor.rs",
        "fn open",
        "the help below `unknown field`",
    ),
    ("manifest/log.rs", "fn fmt", "a place"),
    ("nft/include.rs", "", "objects of nf_tables"),
    ("nft/install.rs", "", "objects of nf_tables"),
    ("nft/layout.rs", "fn shape", "types of sets"),
    ("nft/mod.rs", "fn apply", "objects of nf_tables"),
    ("nft/mod.rs", "fn as_str", "kinds of queue rules"),
    ("nft/mod.rs", "fn create_set", "objects of nf_tables"),
    ("nft/mod.rs", "fn elements", "objects of nf_tables"),
    ("nft/mod.rs", "fn remove", "objects of nf_tables"),
    ("nft/mod.rs", "fn rules", "objects of nf_tables"),
    ("nft/probe.rs", "", "objects of nf_tables"),
    ("nft/query.rs", "", "objects of nf_tables"),
    ("nft/transaction.rs", "fn commit", "objects of nf_tables"),
    (
        "nft/transaction.rs",
        "fn into_result",
        "objects of nf_tables",
    ),
    ("nft/watch.rs", "fn fmt", "objects of nf_tables"),
    ("nft/watch.rs", "Damage::Added", "objects of nf_tables"),
    ("nft/watch.rs", "Damage::Deleted", "objects of nf_tables"),
    ("policy/selector/mod.rs", "", "selectors"),
    ("prefix/special.rs", "", "kinds of addresses"),
    ("queue/state.rs", "fn holder", "who holds a queue"),
    (
        "snapshot/exception.rs",
        "fn exemption",
        "a kind of exception",
    ),
    ("prefix/transition.rs", "", "names of forms"),
    (
        "policy/selector/parse.rs",
        "const CONDITION",
        "what was expected",
    ),
    (
        "policy/selector/parse.rs",
        "const OPERATORS",
        "what was expected",
    ),
    ("snapshot/index.rs", "", "a kind of exception"),
];

/// What the place of a text says of it.
#[derive(Clone, Copy, PartialEq)]
pub enum Place {
    Says,
    Quiet,
    /// A message, unless [`ANSWERS`] has it.
    Unknown,
}

/// Whether a text is said when something is wrong.
pub fn is_message(text: &Text) -> bool {
    let left_out = || {
        ANSWERS
            .iter()
            .any(|(file, place, _)| is_at(text, file, place))
    };
    match place(text) {
        Place::Says => true,
        Place::Quiet => false,
        Place::Unknown => !left_out(),
    }
}

/// One word alone is a message only where it is the whole of one.
pub fn place(text: &Text) -> Place {
    let Some(innermost) = text.place.iter().rfind(|place| *place != "format!") else {
        return Place::Quiet;
    };
    let within = |places: &[&str]| text.place.iter().any(|it| places.contains(&it.as_str()));
    let of_type = |place: &String| SAYING_TYPES.iter().any(|kind| place.starts_with(kind));
    let is_word = text.text.split_whitespace().count() < 2;
    if within(&["#error"]) || (is_word && innermost == "Problem::new") {
        Place::Says
    } else if is_word || within(&QUIET_MACROS) || QUIET_CALLS.contains(&innermost.as_str()) {
        Place::Quiet
    } else if within(&SAYS) || text.place.iter().any(of_type) {
        Place::Says
    } else {
        Place::Unknown
    }
}

/// Whether a text stands in a file, or a folder, and there in a place; the empty place is everywhere.
pub fn is_at(text: &Text, file: &str, place: &str) -> bool {
    text.file.starts_with(file) && (place.is_empty() || text.place.iter().any(|it| it == place))
}
