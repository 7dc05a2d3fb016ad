//! The words of the configuration and what they mean: one table for reading and printing.

use super::{
    DenyWith, Facility, Format, Hook, JsonFormat, LogLevel, Mode, OnDaemonDown, OnQueueFull,
    PrivateNetworks, SyslogFormat,
};
use crate::feed::{Action, Direction, Severity};

/// Words and their values.
pub(super) type Words<T> = &'static [(&'static str, T)];

/// The word of `value`; every value has one (a test holds that for each table).
pub(super) fn print<T: PartialEq>(words: Words<T>, value: T) -> &'static str {
    words
        .iter()
        .find(|(_, known)| *known == value)
        .map_or("", |(word, _)| word)
}

pub(super) const ON_DAEMON_DOWN: Words<OnDaemonDown> =
    &[("allow", OnDaemonDown::Allow), ("deny", OnDaemonDown::Deny)];

pub(super) const LOG_LEVELS: Words<LogLevel> = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

impl LogLevel {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        print(LOG_LEVELS, self)
    }

    /// Every level, the one with the fewest lines first.
    pub fn all() -> impl Iterator<Item = Self> {
        LOG_LEVELS.iter().map(|(_, level)| *level)
    }
}

pub(super) const MODES: Words<Mode> = &[("own", Mode::Own), ("include", Mode::Include)];

pub(super) const FAMILIES: Words<&'static str> = &[("inet", "inet"), ("ip", "ip"), ("ip6", "ip6")];

pub(super) const HOOKS: Words<Hook> = &[
    ("output", Hook::Output),
    ("input", Hook::Input),
    ("forward", Hook::Forward),
];

pub(super) const DENY_WITH: Words<DenyWith> =
    &[("drop", DenyWith::Drop), ("reject", DenyWith::Reject)];

pub(super) const ON_QUEUE_FULL: Words<OnQueueFull> =
    &[("pass", OnQueueFull::Pass), ("drop", OnQueueFull::Drop)];

pub(super) const PRIVATE_NETWORKS: Words<PrivateNetworks> = &[
    ("refuse", PrivateNetworks::Refuse),
    ("alert-only", PrivateNetworks::AlertOnly),
    ("keep", PrivateNetworks::Keep),
];

pub(super) const ACTIONS: Words<Action> = &[("alert", Action::Alert), ("deny", Action::Deny)];

pub(super) const DIRECTIONS: Words<Direction> = &[
    ("egress", Direction::Egress),
    ("ingress", Direction::Ingress),
];

pub(super) const SEVERITIES: Words<Severity> = &[
    ("low", Severity::Low),
    ("medium", Severity::Medium),
    ("high", Severity::High),
    ("critical", Severity::Critical),
];

pub(super) const FORMATS: Words<Format> = &[
    ("plain", Format::Plain),
    ("csv", Format::Csv),
    ("json", Format::Json),
    ("jsonl", Format::Jsonl),
    ("stix", Format::Stix),
    ("crowdsec", Format::Crowdsec),
];

impl Format {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        print(FORMATS, self)
    }
}

pub(super) const JSON_FORMATS: Words<JsonFormat> = &[
    ("ecs", JsonFormat::Ecs),
    ("eve", JsonFormat::Eve),
    ("ocsf", JsonFormat::Ocsf),
];

pub(super) const SYSLOG_FORMATS: Words<SyslogFormat> = &[
    ("rfc5424", SyslogFormat::Rfc5424),
    ("rfc3164", SyslogFormat::Rfc3164),
    ("cef", SyslogFormat::Cef),
    ("journal", SyslogFormat::Journal),
];

impl SyslogFormat {
    /// Its word.
    pub fn name(self) -> &'static str {
        print(SYSLOG_FORMATS, self)
    }
}

/// RFC 5424 section 6.2.1, by the keywords of syslog(3); 13 to 15 have none there.
pub(super) const FACILITIES: Words<u8> = &[
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("ntp", 12),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

impl Facility {
    /// `authpriv`, for security messages that not everyone may read.
    pub const AUTHPRIV: Self = Self {
        name: "authpriv",
        code: 10,
    };

    /// The facility with that code, if it has a keyword.
    pub fn from_code(code: u8) -> Option<Self> {
        FACILITIES
            .iter()
            .find(|(_, known)| *known == code)
            .map(|&(name, code)| Self { name, code })
    }
}
