//! The short sentence behind the structured data, for people.
//!
//! It is printable ASCII only, so that RFC 5424 asks for no byte order mark (section 6.4: MSG-ANY)
//! and every syslog daemon shows it clean; the exact names are in the structured data.

use std::{fmt::Write, net::IpAddr};

use super::{Alert, text::push_word};
use crate::{
    attribution::{Grade, Source},
    feed::Action,
};

/// Longest name in the sentence, in characters.
const WORD: usize = 48;
/// Feeds that are named.
const FEEDS: usize = 2;

/// `denied egress tcp 10.0.0.1:4711 -> 10.48.255.194:80 listed by ipsum: curl[1234] user red unit cron.service`,
/// at most 640 bytes.
pub(crate) fn sentence(alert: &Alert) -> String {
    let mut out = String::with_capacity(160);
    out.push_str(match alert.action {
        Action::Alert => "allowed ",
        Action::Deny => "denied ",
    });
    let _ = write!(out, "{} {} ", alert.direction, alert.flow.proto);
    endpoint(&mut out, alert.flow.src, alert.flow.src_port());
    out.push_str(" -> ");
    endpoint(&mut out, alert.flow.dst, alert.flow.dst_port());
    out.push_str(" listed by ");
    feeds(&mut out, alert);
    out.push_str(": ");
    who(&mut out, &alert.source);
    if let Some(why) = &alert.exception {
        out.push_str(", not denied: exception ");
        push_word(&mut out, why, WORD);
    }
    if let Some(scan) = &alert.scan {
        let more = if scan.more { "more than " } else { "" };
        let (known, count) = (alert.indicators().count(), alert.count);
        let _ = write!(
            out,
            ", scan of {more}{known} further indicators, {count} flows"
        );
    } else if let Some(flood) = &alert.flood {
        let about = if flood.is_exact { "" } else { "about " };
        let (sources, count) = (flood.sources, alert.count);
        let _ = write!(
            out,
            ", flood from {about}{sources} further sources, {count} flows"
        );
    } else if alert.window.is_some() {
        let _ = write!(out, ", repeated {} times", alert.count);
    }
    out
}

/// The feeds as the sentence names them.
pub(crate) fn feed_words(alert: &Alert) -> String {
    let mut out = String::new();
    feeds(&mut out, alert);
    out
}

/// The source as the sentence names it, else its address.
pub(crate) fn source_words(alert: &Alert) -> String {
    let mut out = String::new();
    if !named(&mut out, &alert.source) {
        let _ = write!(out, "{}", alert.flow.src);
    }
    out
}

fn endpoint(out: &mut String, addr: IpAddr, port: Option<u16>) {
    let _ = match (addr, port) {
        (_, None) => write!(out, "{addr}"),
        (IpAddr::V4(addr), Some(port)) => write!(out, "{addr}:{port}"),
        (IpAddr::V6(addr), Some(port)) => write!(out, "[{addr}]:{port}"),
    };
}

fn feeds(out: &mut String, alert: &Alert) {
    for (n, feed) in alert.feeds.iter().take(FEEDS).enumerate() {
        if n > 0 {
            out.push_str(", ");
        }
        push_word(out, feed.as_str(), WORD);
    }
    if let Some(more @ 1..) = alert.feeds.len().checked_sub(FEEDS) {
        let _ = write!(out, " and {more} more");
    }
}

fn who(out: &mut String, source: &Source) {
    if !named(out, source) {
        out.push_str("source unknown");
        cause(out, source);
    }
}

/// Appends what is known of the source; false when nothing is.
fn named(out: &mut String, source: &Source) -> bool {
    let start = out.len();
    process(out, source);
    match (&source.user, source.uid) {
        (Some(user), _) => pair(out, "user", Some(user)),
        (None, Some(uid)) => pair(out, "uid", Some(&uid.to_string())),
        (None, None) => {}
    }
    pair(out, "unit", source.unit.as_deref());
    pair(out, "container", source.container.as_deref());
    pair(out, "pod", source.pod.as_deref());
    pair(out, "client", source.client.as_deref());
    pair(out, "mac", source.mac.as_deref());
    // No further back than to the start: a process may have an empty name.
    let named = out.get(start..).map_or(0, |who| who.trim_end().len());
    out.truncate(start + named);
    if named > 0 && source.grade == Grade::Likely {
        out.insert_str(start, "likely ");
    }
    named > 0
}

/// `curl[1234] `: the name, else the last part of the path.
fn process(out: &mut String, source: &Source) {
    let exe = source.exe.as_deref().and_then(|exe| exe.rsplit('/').next());
    match (source.comm.as_deref().or(exe), source.pid) {
        (Some(name), pid) => {
            push_word(out, name, WORD);
            if let Some(pid) = pid {
                let _ = write!(out, "[{pid}]");
            }
            out.push(' ');
        }
        (None, Some(pid)) => {
            let _ = write!(out, "pid {pid} ");
        }
        (None, None) => {}
    }
}

fn pair(out: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        out.push_str(name);
        out.push(' ');
        push_word(out, value, WORD);
        out.push(' ');
    }
}

fn cause(out: &mut String, source: &Source) {
    let Some(cause) = &source.cause else { return };
    out.push_str(" (");
    for (n, word) in cause.split(' ').take(12).enumerate() {
        if n > 0 {
            out.push(' ');
        }
        push_word(out, word, 20);
    }
    out.push(')');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::alert::{Flood, Scan, example};

    #[test]
    fn plain() {
        let mut alert = example::alert();
        assert_eq!(
            sentence(&alert),
            "denied egress tcp 10.0.0.1:4711 -> 10.48.255.194:80 listed by ipsum: curl[1234] user red unit cron.service"
        );
        alert.action = Action::Alert;
        alert.flow.dst = "2001:db8::7".parse().unwrap();
        alert.source = Source {
            cause: Some("socket closed before it was asked for".into()),
            ..Source::default()
        };
        alert.count = 7;
        alert.window = Some((alert.time, alert.time));
        assert_eq!(
            sentence(&alert),
            "allowed egress tcp 10.0.0.1:4711 -> [2001:db8::7]:80 listed by ipsum: source unknown \
             (socket closed before it was asked for), repeated 7 times"
        );
        alert.source = Source {
            grade: Grade::Likely,
            comm: Some("Web Content\n".into()),
            ..Source::default()
        };
        assert!(sentence(&alert).contains(": likely Web_Content?, repeated"));
    }

    #[test]
    fn a_scan() {
        let mut alert = example::alert();
        alert.window = Some((alert.time, alert.time));
        alert.count = 900;
        let further = vec!["192.0.2.1".parse().unwrap(); 2];
        alert.scan = Some(Scan {
            further,
            more: false,
        });
        let text = sentence(&alert);
        assert!(
            text.ends_with(", scan of 3 further indicators, 900 flows"),
            "{text}"
        );
        alert.scan.as_mut().unwrap().more = true;
        assert!(sentence(&alert).contains("more than 3 further"));
    }

    #[test]
    fn a_flood() {
        let mut alert = example::alert();
        alert.window = Some((alert.time, alert.time));
        alert.count = 900;
        alert.flood = Some(Flood {
            sources: 800,
            is_exact: true,
            further: Vec::new(),
        });
        let text = sentence(&alert);
        let end = ", flood from 800 further sources, 900 flows";
        assert!(text.ends_with(end), "{text}");
        alert.flood.as_mut().unwrap().is_exact = false;
        assert!(sentence(&alert).contains("from about 800 further"));
    }

    #[test]
    fn an_empty_name_is_no_source() {
        let source = Source {
            grade: Grade::Likely,
            comm: Some(String::new()),
            cause: Some("it has ended".into()),
            ..Source::default()
        };
        let text = sentence(&Alert {
            source,
            ..example::alert()
        });
        assert!(text.ends_with(": source unknown (it has ended)"), "{text}");
    }

    proptest! {
        #[test]
        fn printable_and_bounded(alert in example::any_alert()) {
            let text = sentence(&alert);
            prop_assert!(text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{text}");
            prop_assert!(text.len() <= 800, "{} {text}", text.len());
        }
    }
}
