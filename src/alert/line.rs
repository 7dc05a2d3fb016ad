//! One syslog line: header, structured data, sentence; in the form of RFC 5424 or the older local
//! form that RFC 3164 describes. Or a CEF event behind such a header, or fields for journald.
//!
//! No byte order mark: RFC 5424 asks for one before text that is UTF-8 (section 6.4), and the
//! sentence is ASCII. Names with other letters are in the structured data, which is always UTF-8.
//!
//! Syslog severity:
//!
//! | alert severity | flow passed | flow denied |
//! | --- | --- | --- |
//! | low | notice | notice |
//! | medium | warning | notice |
//! | high | error | warning |
//! | critical | critical | error |
//!
//! What was stopped is one step less urgent than what went through, but never below notice, so
//! that no usual filter hides it.

use std::{borrow::Cow, fmt::Write, time::SystemTime};

use syslog::{Facility, Severity};
use time::UtcOffset;

use super::{
    Alert, cef,
    element::{Rfc3339, element, loss_element, utc},
    journal,
    sentence::sentence,
};
use crate::feed::{self, Action};

/// Longest line in bytes, header included, framing not.
pub const MAX_LINE: usize = 2048;

/// Longest sentence in bytes.
const MAX_SENTENCE: usize = 512;

/// Who sends the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of this host.
    pub hostname: String,
    /// Process ID of the daemon.
    pub pid: u32,
    /// APP-NAME and tag: `feedgate`.
    pub app: String,
}

/// The shape of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `<PRI>1 TIMESTAMP HOST APP PID THREATFEED [sd] sentence`, UTC with microseconds.
    Rfc5424,
    /// `<PRI>Mmm dd hh:mm:ss app[PID]: [sd] sentence`, local time; what `syslog(3)` sends and
    /// stock rsyslog and journald read on a local socket.
    Local,
    /// [`Form::Local`] with the host's name before the tag, for the network (RFC 3164 section 4.1).
    Rfc3164,
    /// `<PRI>Mmm dd hh:mm:ss host CEF:0|...`, local time, no tag: as the format's document has it.
    Cef,
    /// [`Form::Cef`] without the host, for a local socket, whose reader adds it.
    LocalCef,
    /// Fields of journald's native protocol.
    Journal,
}

/// What a line tells.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// An alert.
    Alert(&'a Alert),
    /// A number of what had no alert of its own.
    Lost(&'a Loss),
}

/// Something that happened without an alert of its own, as a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What is counted.
    pub kind: LossKind,
    /// How many.
    pub count: u64,
    /// Which sink, as the configuration writes it.
    pub target: String,
    /// Why.
    pub cause: Cow<'static, str>,
    /// When this was written.
    pub time: SystemTime,
}

/// What a [`Loss`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LossKind {
    /// Alerts that a sink did not get.
    Undelivered,
    /// Packets that the kernel judged without the daemon; the cause says which.
    Unattributed,
    /// Milliseconds in which the kernel's table was not whole; the cause says who changed it.
    Unprotected,
    /// Flows without an alert because of the rate limit; the cause says of which feed and source.
    HeldBack,
}

impl LossKind {
    /// What it is, in words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Undelivered => "Alerts were not delivered",
            Self::Unattributed => "Packets without attribution",
            Self::Unprotected => "The table was not whole",
            Self::HeldBack => "Flows over the rate limit",
        }
    }

    /// MSGID of the line.
    pub(crate) fn msgid(self) -> &'static str {
        match self {
            Self::Undelivered => "LOST",
            Self::Unattributed => "UNATTRIBUTED",
            Self::Unprotected => "UNPROTECTED",
            Self::HeldBack => "HELD-BACK",
        }
    }
}

/// How one sink's lines are written.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The shape.
    pub form: Form,
    /// Facility of the priority value.
    pub facility: Facility,
    /// Sender.
    pub identity: Identity,
}

impl Layout {
    /// The line of `event`: no control character, no line end, at most `limit` bytes
    /// ([`MAX_LINE`] for all but a socket that refused that much; below about 1,000 bytes the
    /// keys that always stay may need more).
    ///
    /// `offset` is that of local time at the event, used by the older forms only. [`Form::Journal`] is a
    /// line for each field, and knows no limit but that of a value.
    pub fn render(
        &self,
        severity: Severity,
        event: Event<'_>,
        offset: UtcOffset,
        limit: usize,
    ) -> String {
        let mut out = String::with_capacity(1024);
        if self.form != Form::Journal {
            let priority = self.facility as u8 | severity as u8;
            let _ = write!(out, "<{priority}>"); // writing to a String cannot fail
        }
        match self.form {
            Form::Rfc5424 => {
                self.header_5424(&mut out, event);
                body(&mut out, event, limit);
            }
            Form::Local | Form::Rfc3164 => {
                self.time_and_host(&mut out, event, offset);
                name(&mut out, &self.identity.app, 32);
                let _ = write!(out, "[{}]: ", self.identity.pid);
                body(&mut out, event, limit);
            }
            Form::Cef | Form::LocalCef => {
                self.time_and_host(&mut out, event, offset);
                cef::push(&mut out, event, &self.identity.hostname, limit);
            }
            Form::Journal => {
                journal::push(&mut out, event, severity, self.facility, &self.identity);
            }
        }
        out
    }

    fn header_5424(&self, out: &mut String, event: Event<'_>) {
        let (time, msgid) = match event {
            Event::Alert(alert) => (alert.time, "THREATFEED"),
            Event::Lost(loss) => (loss.time, loss.kind.msgid()),
        };
        let _ = write!(out, "1 {} ", Rfc3339(time));
        name(out, &self.identity.hostname, 255);
        out.push(' ');
        name(out, &self.identity.app, 48);
        let _ = write!(out, " {} {msgid} ", self.identity.pid);
    }

    fn time_and_host(&self, out: &mut String, event: Event<'_>, offset: UtcOffset) {
        let time = match event {
            Event::Alert(alert) => alert.time,
            Event::Lost(loss) => loss.time,
        };
        let t = utc(time);
        let t = t.checked_to_offset(offset).unwrap_or(t);
        let _ = write!(
            out,
            "{} {:>2} {:02}:{:02}:{:02} ",
            month(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second()
        );
        if matches!(self.form, Form::Rfc3164 | Form::Cef) {
            name(out, &self.identity.hostname, 255);
            out.push(' ');
        }
    }
}

/// Syslog severity of an event; the table is in this module's header.
pub fn severity(event: Event<'_>) -> Severity {
    let alert = match event {
        Event::Alert(alert) => alert,
        Event::Lost(_) => return Severity::LOG_WARNING,
    };
    match (alert.action, alert.severity) {
        (_, feed::Severity::Low) | (Action::Deny, feed::Severity::Medium) => Severity::LOG_NOTICE,
        (Action::Alert, feed::Severity::Medium) | (Action::Deny, feed::Severity::High) => {
            Severity::LOG_WARNING
        }
        (Action::Alert, feed::Severity::High) | (Action::Deny, feed::Severity::Critical) => {
            Severity::LOG_ERR
        }
        (Action::Alert, feed::Severity::Critical) => Severity::LOG_CRIT,
    }
}

/// The element `[feedgate@32473 key="value" ...]` of an alert, at most [`MAX_LINE`] bytes.
pub fn structured_data(alert: &Alert) -> String {
    element(alert, MAX_LINE)
}

/// The sentence of an alert: printable ASCII, at most 512 bytes.
pub fn message(alert: &Alert) -> String {
    let mut text = sentence(alert);
    text.truncate(MAX_SENTENCE);
    text
}

/// `N alerts were not delivered to TARGET`, with the cause; printable ASCII.
pub(crate) fn loss_message(loss: &Loss) -> String {
    if loss.kind != LossKind::Undelivered {
        return format!("feedgate: {} {}", loss.count, loss.cause);
    }
    let mut out = format!("feedgate: {} alerts were not delivered to ", loss.count);
    super::text::push_word(&mut out, &loss.target, 200);
    let _ = write!(out, ": {}", loss.cause);
    out
}

/// Appends element and sentence; where both do not fit, the sentence goes.
fn body(out: &mut String, event: Event<'_>, limit: usize) {
    match event {
        Event::Lost(loss) => {
            out.push_str(&loss_element(loss.count, &loss.cause));
            out.push(' ');
            out.push_str(&loss_message(loss));
        }
        Event::Alert(alert) => {
            let text = message(alert);
            let room = limit.saturating_sub(out.len());
            out.push_str(&element(alert, room.saturating_sub(text.len() + 1)));
            if out.len() + text.len() < limit {
                out.push(' ');
                out.push_str(&text);
            }
        }
    }
}

/// A header field: printable ASCII without spaces, `-` when empty (RFC 5424 section 6).
fn name(out: &mut String, text: &str, max: usize) {
    if text.is_empty() {
        out.push('-');
    }
    out.extend(
        text.chars()
            .take(max)
            .map(|c| if c.is_ascii_graphic() { c } else { '?' }),
    );
}

fn month(month: time::Month) -> &'static str {
    use time::Month::*;
    match month {
        January => "Jan",
        February => "Feb",
        March => "Mar",
        April => "Apr",
        May => "May",
        June => "Jun",
        July => "Jul",
        August => "Aug",
        September => "Sep",
        October => "Oct",
        November => "Nov",
        December => "Dec",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use syslog_rfc5424::parse_message;

    use super::*;
    use crate::{alert::example, visible::is_hidden};

    fn layout(form: Form) -> Layout {
        Layout {
            form,
            facility: Facility::LOG_AUTHPRIV,
            identity: Identity {
                hostname: "gw.example".into(),
                pid: 42,
                app: "feedgate".into(),
            },
        }
    }

    fn render(form: Form, alert: &Alert) -> String {
        let event = Event::Alert(alert);
        layout(form).render(severity(event), event, UtcOffset::UTC, MAX_LINE)
    }

    #[test]
    fn the_three_forms() {
        let mut alert = example::alert();
        alert.time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_785_888_000_000_007);
        let sd = structured_data(&alert);
        let text = message(&alert);
        assert_eq!(
            render(Form::Rfc5424, &alert),
            format!(
                "<85>1 2026-08-05T00:00:00.000007Z gw.example feedgate 42 THREATFEED {sd} {text}"
            )
        );
        assert_eq!(
            render(Form::Local, &alert),
            format!("<85>Aug  5 00:00:00 feedgate[42]: {sd} {text}"),
            "no host, the day padded with a space"
        );
        let event = Event::Alert(&alert);
        let local = layout(Form::Rfc3164).render(
            severity(event),
            event,
            time::macros::offset!(-2:30),
            MAX_LINE,
        );
        assert_eq!(
            local,
            format!("<85>Aug  4 21:30:00 gw.example feedgate[42]: {sd} {text}")
        );
    }

    #[test]
    fn a_loss_is_told() {
        let loss = Loss {
            kind: LossKind::Undelivered,
            count: 3,
            target: "udp:log.example:514".into(),
            cause: "queue full".into(),
            time: SystemTime::UNIX_EPOCH,
        };
        let event = Event::Lost(&loss);
        assert_eq!(
            layout(Form::Rfc5424).render(severity(event), event, UtcOffset::UTC, MAX_LINE),
            "<84>1 1970-01-01T00:00:00.000000Z gw.example feedgate 42 LOST \
             [feedgate@32473 count=\"3\" cause=\"queue full\"] \
             feedgate: 3 alerts were not delivered to udp:log.example:514: queue full"
        );
    }

    #[test]
    fn a_denied_flow_is_one_step_less_urgent() {
        let mut alert = example::alert();
        let mut seen = Vec::new();
        for action in [Action::Alert, Action::Deny] {
            use feed::Severity::*;
            for level in [Low, Medium, High, Critical] {
                (alert.action, alert.severity) = (action, level);
                seen.push(severity(Event::Alert(&alert)) as u8);
            }
        }
        assert_eq!(seen, [5, 4, 3, 2, 5, 5, 4, 3]);
    }

    /// What a value may look like at the reader: the whole sanitised text, or its beginning and a mark.
    fn check_text(read: Option<&String>, written: Option<&String>, dropped: bool) {
        let Some(written) = written else {
            assert_eq!(read, None);
            return;
        };
        let clean: String = written
            .chars()
            .map(|c| if is_hidden(c) { '?' } else { c })
            .collect();
        match read {
            Some(read) if *read == clean => {}
            Some(read) => {
                let cut = read.strip_suffix("...").unwrap();
                let escapes = clean.matches(['"', '\\', ']']).count();
                assert!(clean.starts_with(cut), "{read:?} of {clean:?}");
                assert!(clean.len() + escapes > 256, "{clean:?} would fit");
            }
            None => assert!(dropped, "{written:?} is missing"),
        }
    }

    proptest! {
        #[test]
        fn another_parser_reads_the_same(alert in example::any_alert()) {
            let line = render(Form::Rfc5424, &alert);
            prop_assert!(line.len() <= MAX_LINE, "{}", line.len());
            let read = parse_message(&line).unwrap();
            prop_assert_eq!(read.msgid.as_deref(), Some("THREATFEED"));
            prop_assert_eq!(read.appname.as_deref(), Some("feedgate"));
            let sd = read.sd.find_sdid("feedgate@32473").unwrap();
            let dropped = line.len() > MAX_LINE - 600;
            let s = &alert.source;
            let deleted = if s.exe_deleted { " (deleted)" } else { "" };
            let exe = s.exe.as_ref().map(|exe| format!("{exe}{deleted}"));
            let policy = alert.policy.as_deref().map(str::to_owned);
            let exception = alert.exception.as_deref().map(str::to_owned);
            for (key, want) in [
                ("exe", &exe), ("comm", &s.comm), ("unit", &s.unit), ("container", &s.container), ("image", &s.image),
                ("pod", &s.pod), ("namespace", &s.namespace), ("mac", &s.mac), ("client", &s.client), ("user", &s.user),
                ("cause", &s.cause), ("policy", &policy), ("exception", &exception), ("iface", &alert.iface),
            ] {
                check_text(sd.get(key), want.as_ref(), dropped);
            }
            prop_assert_eq!(&sd["id"], &alert.id.to_string());
            prop_assert_eq!(&sd["src"], &alert.flow.src.to_string());
            prop_assert_eq!(&sd["dst"], &alert.flow.dst.to_string());
            let known: Vec<_> = alert.indicators().map(ToString::to_string).collect();
            let read: Vec<_> = sd["indicator"].split(',').collect();
            let whole = !alert.scan.as_ref().is_some_and(|scan| scan.more) && known == read;
            prop_assert!(whole || (read.last() == Some(&"...") && known.starts_with(&read[..read.len() - 1].iter().map(ToString::to_string).collect::<Vec<_>>())));
            prop_assert_eq!(&sd["count"], &alert.count.to_string());
            prop_assert_eq!(&sd["action"], alert.action.as_str());
            let feeds: Vec<_> = alert.feeds.iter().map(|feed| feed.as_str()).collect();
            let read: Vec<_> = sd["feed"].split(',').collect();
            prop_assert!(feeds == read || (read.last() == Some(&"...") && feeds.starts_with(&read[..read.len() - 1])));
        }

        #[test]
        fn one_short_visible_line(alert in example::any_alert(), limit in 1100usize..=MAX_LINE) {
            for form in [Form::Rfc5424, Form::Local, Form::Rfc3164] {
                let event = Event::Alert(&alert);
                let line = layout(form).render(severity(event), event, UtcOffset::UTC, limit);
                prop_assert!(line.len() <= limit);
                prop_assert!(!line.chars().any(is_hidden));
                prop_assert!(line.contains(" [feedgate@32473 id="));
            }
            for form in [Form::Cef, Form::LocalCef] {
                let event = Event::Alert(&alert);
                let line = layout(form).render(severity(event), event, UtcOffset::UTC, MAX_LINE);
                prop_assert!(line.len() <= MAX_LINE);
                prop_assert!(!line.chars().any(is_hidden));
                prop_assert!(line.contains(" CEF:0|feedgate|feedgate|"));
            }
        }
    }
}
