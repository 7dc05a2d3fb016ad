//! The fields of journald's native protocol: `NAME=value`, one a line.
//!
//! See systemd's "Native Journal Protocol". Values have no control characters, so none needs the
//! protocol's binary form.

use std::fmt::Write;

use syslog::{Facility, Severity};

use super::{
    element::{Rfc3339, pairs},
    line::{Event, Identity, loss_message, message},
    text::push_word,
};

/// The kind of entry that an alert is, for catalogs and `journalctl MESSAGE_ID=`.
pub(crate) const MESSAGE_ID: &str = "7f6d0c51a4f84c0b9c53d3a17fb3a2c6";

/// The datagram of `event`.
pub(crate) fn push(
    out: &mut String,
    event: Event<'_>,
    severity: Severity,
    facility: Facility,
    identity: &Identity,
) {
    let (text, time, msgid) = match event {
        Event::Alert(alert) => (message(alert), alert.time, "THREATFEED"),
        Event::Lost(loss) => (loss_message(loss), loss.time, loss.kind.msgid()),
    };
    field(out, "MESSAGE", &text);
    let _ = writeln!(out, "PRIORITY={}", severity as u8); // writing to a String cannot fail
    let _ = writeln!(out, "SYSLOG_FACILITY={}", facility as u8 >> 3);
    let mut app = String::new();
    push_word(&mut app, &identity.app, 48);
    field(out, "SYSLOG_IDENTIFIER", &app);
    let _ = writeln!(out, "SYSLOG_PID={}", identity.pid);
    field(out, "FEEDGATE_MSGID", msgid);
    let _ = writeln!(out, "FEEDGATE_TIME={}", Rfc3339(time));
    match event {
        Event::Alert(alert) => {
            field(out, "MESSAGE_ID", MESSAGE_ID);
            for (key, value) in pairs(alert) {
                field(
                    out,
                    &format!("FEEDGATE_{}", key.to_ascii_uppercase()),
                    &value,
                );
            }
        }
        Event::Lost(loss) => {
            let _ = writeln!(out, "FEEDGATE_COUNT={}", loss.count);
            field(out, "FEEDGATE_CAUSE", &loss.cause);
        }
    }
}

fn field(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push('=');
    out.extend(value.chars().map(|c| if c == '\n' { '?' } else { c }));
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        alert::{Alert, example, line::severity},
        visible::is_hidden,
    };

    fn fields(alert: &Alert) -> BTreeMap<String, String> {
        let identity = Identity {
            hostname: "gw".into(),
            pid: 42,
            app: "feedgate".into(),
        };
        let event = Event::Alert(alert);
        let mut out = String::new();
        push(
            &mut out,
            event,
            severity(event),
            Facility::LOG_AUTHPRIV,
            &identity,
        );
        let mut map = BTreeMap::new();
        for line in out.strip_suffix('\n').unwrap().split('\n') {
            let (name, value) = line.split_once('=').unwrap();
            let good = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            assert!(name.chars().all(good) && !name.starts_with('_'), "{line}");
            assert_eq!(map.insert(name.to_owned(), value.to_owned()), None);
        }
        map
    }

    #[test]
    fn keys_of_the_line_are_fields() {
        let map = fields(&example::alert());
        for (name, value) in [
            ("PRIORITY", "5"),
            ("SYSLOG_FACILITY", "10"),
            ("SYSLOG_IDENTIFIER", "feedgate"),
            ("FEEDGATE_MSGID", "THREATFEED"),
            ("FEEDGATE_TIME", "2026-08-06T07:06:40.123456Z"),
            ("FEEDGATE_FEED", "ipsum"),
            ("FEEDGATE_PID", "1234"),
            ("FEEDGATE_HELD_US", "312"),
        ] {
            assert_eq!(map[name], value);
        }
        assert!(map["MESSAGE"].starts_with("denied egress tcp 10.0.0.1:4711 -> "));
    }

    proptest! {
        #[test]
        fn nothing_forges_a_field(alert in example::any_alert()) {
            let map = fields(&alert);
            prop_assert_eq!(&map["FEEDGATE_ID"], &alert.id.to_string());
            prop_assert_eq!(&map["FEEDGATE_ACTION"], alert.action.as_str());
            prop_assert!(!map.values().any(|value| value.chars().any(is_hidden)));
            if let Some(comm) = &alert.source.comm {
                let clean: String = comm.chars().map(|c| if is_hidden(c) { '?' } else { c }).collect();
                let read = &map["FEEDGATE_COMM"];
                prop_assert!(*read == clean || clean.starts_with(read.strip_suffix("...").unwrap()));
            }
        }
    }
}
