//! Our lines through the syslog crate's [`LogFormat`], and configuration words to its types.

use std::{
    io::{self, Write},
    time::SystemTime,
};

use syslog::{Facility, LogFormat, Severity};
use time::{OffsetDateTime, UtcOffset};

use crate::{
    alert::line::{self, Event, Form, Layout},
    config::{self, SyslogAddress, SyslogFormat},
};

/// Facilities by code (RFC 5424 section 6.2.1).
const FACILITIES: [Facility; 24] = [
    Facility::LOG_KERN,
    Facility::LOG_USER,
    Facility::LOG_MAIL,
    Facility::LOG_DAEMON,
    Facility::LOG_AUTH,
    Facility::LOG_SYSLOG,
    Facility::LOG_LPR,
    Facility::LOG_NEWS,
    Facility::LOG_UUCP,
    Facility::LOG_CRON,
    Facility::LOG_AUTHPRIV,
    Facility::LOG_FTP,
    Facility::LOG_NTP,
    Facility::LOG_AUDIT,
    Facility::LOG_ALERT,
    Facility::LOG_CLOCK_DAEMON,
    Facility::LOG_LOCAL0,
    Facility::LOG_LOCAL1,
    Facility::LOG_LOCAL2,
    Facility::LOG_LOCAL3,
    Facility::LOG_LOCAL4,
    Facility::LOG_LOCAL5,
    Facility::LOG_LOCAL6,
    Facility::LOG_LOCAL7,
];

/// The crate's facility; `authpriv` for a code that does not exist.
pub(super) fn facility(facility: config::Facility) -> Facility {
    FACILITIES
        .get(usize::from(facility.code))
        .copied()
        .unwrap_or(Facility::LOG_AUTHPRIV)
}

/// The form of a target's lines: without the host's name on a local socket.
pub(super) fn form(format: SyslogFormat, address: &SyslogAddress) -> Form {
    match (format, address) {
        (SyslogFormat::Rfc5424, _) => Form::Rfc5424,
        (SyslogFormat::Rfc3164, SyslogAddress::Unix(_)) => Form::Local,
        (SyslogFormat::Rfc3164, _) => Form::Rfc3164,
        (SyslogFormat::Cef, SyslogAddress::Unix(_)) => Form::LocalCef,
        (SyslogFormat::Cef, _) => Form::Cef,
        (SyslogFormat::Journal, _) => Form::Journal,
    }
}

/// An event and the longest line it may become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draft<'a> {
    pub(super) event: Event<'a>,
    pub(super) limit: usize,
}

/// The formatter of our own that the crate's `Logger` takes.
#[derive(Clone, Debug)]
pub(super) struct Formatter(pub(super) Layout);

impl LogFormat<Draft<'_>> for Formatter {
    fn format<W: Write>(
        &self,
        w: &mut W,
        severity: Severity,
        draft: Draft<'_>,
    ) -> syslog::Result<()> {
        let offset = local_offset(self.0.form, draft.event);
        let line = self.0.render(severity, draft.event, offset, draft.limit);
        w.write_all(line.as_bytes()).map_err(syslog::Error::Write)
    }
}

impl Formatter {
    /// Writes the line of `event` in one piece.
    pub(super) fn write<W: Write>(
        &self,
        w: &mut W,
        event: Event<'_>,
        limit: usize,
    ) -> io::Result<()> {
        let draft = Draft { event, limit };
        match self.format(w, line::severity(event), draft) {
            Ok(()) => Ok(()),
            Err(syslog::Error::Write(error) | syslog::Error::Io(error)) => Err(error),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }
}

/// The offset of local time at the event, where the form has local time: it changes twice a year.
fn local_offset(form: Form, event: Event<'_>) -> UtcOffset {
    let time = match event {
        _ if matches!(form, Form::Rfc5424 | Form::Journal) => return UtcOffset::UTC,
        Event::Alert(alert) => alert.time,
        Event::Lost(loss) => loss.time,
    };
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| UtcOffset::local_offset_at(time).ok())
        .unwrap_or(UtcOffset::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_crates() {
        for (code, facility) in FACILITIES.into_iter().enumerate() {
            assert_eq!(facility as usize, code << 3);
        }
    }
}
