//! The structured data element `[feedgate@32473 key="value" ...]` of DESIGN.md section 5.

use std::{
    borrow::Cow,
    fmt::{self, Write},
    time::SystemTime,
};

use time::OffsetDateTime;

use super::{Alert, community_id, text::push_value};
use crate::attribution::Source;

/// SD-ID (RFC 5424 section 7: a private one ends in an enterprise number; 32473 is the one of RFC 5612).
pub(crate) const SD_ID: &str = "feedgate@32473";

/// Longest value in bytes, as written, escapes included.
const MAX_VALUE: usize = 256;

/// At the end of a list that was cut.
const CUT: &str = ",...";

/// What gives way, first to last, when the element is too long. Free texts come first: they are
/// the only ones long enough to matter within 2,048 bytes. The rest of the list is needed only
/// for a socket that takes less. The keys not named here stay: id, action, direction,
/// attribution, feed, indicator, src, dst.
const DROP: [&str; 29] = [
    "image",
    "client",
    "policy",
    "cause",
    "exception",
    "user",
    "namespace",
    "iface",
    "pod",
    "container",
    "unit",
    "comm",
    "exe",
    "mac",
    "held_us",
    "ppid",
    "natdpt",
    "natdst",
    "first",
    "last",
    "sources",
    "community_id",
    "method",
    "severity",
    "uid",
    "pid",
    "proto",
    "spt",
    "dpt",
];

/// The element of `alert`, at most `room` bytes unless the keys that always stay need more
/// (up to about 780 bytes).
pub(crate) fn element(alert: &Alert, room: usize) -> String {
    let mut params = Params::default();
    what(&mut params, alert);
    flow(&mut params, alert);
    who(&mut params, alert);
    rest(&mut params, alert);
    params.close(room)
}

/// Keys and values of the element, unescaped; none is dropped.
pub(crate) fn pairs(alert: &Alert) -> Vec<(&'static str, String)> {
    let mut params = Params::default();
    what(&mut params, alert);
    flow(&mut params, alert);
    who(&mut params, alert);
    rest(&mut params, alert);
    let value = |span: &Span| {
        let text = params.text.get(span.start..span.end).unwrap_or_default();
        let text = text.split_once("=\"").map_or("", |(_, value)| value);
        unescape(text.strip_suffix('"').unwrap_or(text))
    };
    params
        .spans
        .iter()
        .map(|span| (span.key, value(span)))
        .collect()
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

/// The element of a loss report: how many alerts, and why.
pub(crate) fn loss_element(count: u64, cause: &str) -> String {
    let mut params = Params::default();
    params.add("count", count);
    params.add_text("cause", Some(cause));
    params.close(usize::MAX)
}

/// UTC, clamped to the years RFC 3339 can write.
pub(crate) fn utc(time: SystemTime) -> OffsetDateTime {
    let nanos = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i128::try_from(since.as_nanos()).unwrap_or(i128::MAX),
        Err(_) => 0,
    };
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(LAST)
}

const LAST: OffsetDateTime = time::macros::datetime!(9999-12-31 23:59:59 UTC);

/// RFC 3339 in UTC with six digits of the second, the most RFC 5424 allows.
pub(crate) struct Rfc3339(pub(crate) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = utc(self.0);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.microsecond()
        )
    }
}

fn what(params: &mut Params, alert: &Alert) {
    params.add("id", alert.id.hyphenated());
    params.add("action", alert.action);
    params.add("direction", alert.direction);
    params.add("attribution", alert.source.grade);
    params.add_text("method", alert.source.method);
    params.add("feed", Feeds(alert));
    params.add_text("indicator", Some(&indicators(alert)));
    params.add("severity", alert.severity);
    params.add_text("policy", alert.policy.as_deref());
    params.add_text("exception", alert.exception.as_deref());
}

fn flow(params: &mut Params, alert: &Alert) {
    params.add("proto", alert.flow.proto);
    params.add("src", alert.flow.src);
    params.add_some("spt", alert.flow.src_port());
    params.add("dst", alert.flow.dst);
    params.add_some("dpt", alert.flow.dst_port());
    params.add_text("iface", alert.iface.as_deref());
}

fn who(params: &mut Params, alert: &Alert) {
    let source = &alert.source;
    params.add_some("uid", source.uid);
    params.add_text("user", source.user.as_deref());
    params.add_some("pid", source.pid);
    params.add_some("ppid", source.ppid);
    params.add_text("exe", exe(source).as_deref());
    params.add_text("comm", source.comm.as_deref());
    params.add_text("unit", source.unit.as_deref());
    params.add_text("container", source.container.as_deref());
    params.add_text("image", source.image.as_deref());
    params.add_text("pod", source.pod.as_deref());
    params.add_text("namespace", source.namespace.as_deref());
    params.add_text("mac", source.mac.as_deref());
    params.add_text("client", source.client.as_deref());
}

/// With the kernel's own word behind a file that is gone.
pub(crate) fn exe(source: &Source) -> Option<Cow<'_, str>> {
    let exe = source.exe.as_deref()?;
    Some(if source.exe_deleted {
        format!("{exe} (deleted)").into()
    } else {
        exe.into()
    })
}

fn rest(params: &mut Params, alert: &Alert) {
    params.add_some("natdst", alert.nat_dst.map(|(addr, _)| addr));
    params.add_some("natdpt", alert.nat_dst.and_then(|(_, port)| port));
    params.add_some("community_id", community_id(&alert.flow));
    params.add("count", alert.count);
    params.add_some("sources", alert.flood.as_ref().map(|flood| flood.sources));
    params.add_some("first", alert.window.map(|(first, _)| Rfc3339(first)));
    params.add_some("last", alert.window.map(|(_, last)| Rfc3339(last)));
    if alert.window.is_none() {
        params.add("held_us", alert.held.as_micros());
    }
    params.add_text("cause", alert.source.cause.as_deref());
}

/// Feed names with commas between; cut between two names, a cut ends in `,...`.
pub(crate) struct Feeds<'a>(pub(crate) &'a Alert);

impl fmt::Display for Feeds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut used = 0;
        for feed in &self.0.feeds {
            let name = feed.as_str();
            if used + name.len() + 5 > MAX_VALUE {
                return f.write_str(CUT);
            }
            if used > 0 {
                f.write_str(",")?;
            }
            f.write_str(name)?;
            used += name.len() + 1;
        }
        Ok(())
    }
}

/// The indicator; of a scan all with commas between, cut between two; a cut ends in `,...`.
pub(super) fn indicators(alert: &Alert) -> String {
    let mut out = alert.indicator.to_string();
    let Some(scan) = &alert.scan else { return out };
    let mut more = scan.more;
    let mut used = escaped(&out);
    for indicator in &scan.further {
        let text = indicator.to_string();
        used += 1 + escaped(&text);
        if used + CUT.len() > MAX_VALUE {
            more = true;
            break;
        }
        out.push(',');
        out.push_str(&text);
    }
    if more {
        out.push_str(CUT);
    }
    out
}

/// Length as written: an IPv6 address with a port stands in brackets, one of which is escaped.
fn escaped(indicator: &str) -> usize {
    indicator.len() + indicator.matches(']').count()
}

/// ` key="value"` after ` key="value"`, and where each ends.
#[derive(Default)]
struct Params {
    text: String,
    spans: Vec<Span>,
}

struct Span {
    key: &'static str,
    start: usize,
    end: usize,
}

impl Params {
    /// A value of our own making: a number, an address, a word; nothing in it needs an escape.
    fn add(&mut self, key: &'static str, value: impl fmt::Display) {
        self.span(key, |text| {
            let _ = write!(text, "{value}"); // writing to a String cannot fail
        });
    }

    fn add_some(&mut self, key: &'static str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    /// A value of anyone's making.
    fn add_text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.span(key, |text| push_value(text, value, MAX_VALUE));
        }
    }

    fn span(&mut self, key: &'static str, write: impl FnOnce(&mut String)) {
        if self.spans.is_empty() {
            self.text.reserve(1024);
        }
        let start = self.text.len();
        self.text.push(' ');
        self.text.push_str(key);
        self.text.push_str("=\"");
        write(&mut self.text);
        self.text.push('"');
        let end = self.text.len();
        self.spans.push(Span { key, start, end });
    }

    /// The element, with as many keys dropped as `room` asks for.
    fn close(mut self, room: usize) -> String {
        let frame = SD_ID.len() + 2;
        let mut len = self.text.len() + frame;
        for key in DROP {
            if len <= room {
                break;
            }
            self.spans.retain(|span| {
                let drop = span.key == key;
                len -= if drop { span.end - span.start } else { 0 };
                !drop
            });
        }
        let mut out = String::with_capacity(len);
        out.push('[');
        out.push_str(SD_ID);
        for span in &self.spans {
            out.push_str(self.text.get(span.start..span.end).unwrap_or_default());
        }
        out.push(']');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{Scan, example};

    #[test]
    fn the_keys_of_the_contract_in_order() {
        let mut alert = example::alert();
        alert.nat_dst = Some(("192.0.2.1".parse().unwrap(), Some(8080)));
        alert.policy = Some("default.deny".into());
        alert.source.image = Some("busybox".into());
        assert_eq!(
            element(&alert, 2048),
            concat!(
                r#"[feedgate@32473 id="0190a5c8-7c1e-7000-8000-000000000001" action="deny" direction="egress" attribution="exact""#,
                r#" method="sock-diag" feed="ipsum" indicator="10.48.255.194" severity="medium" policy="default.deny" proto="tcp""#,
                r#" src="10.0.0.1" spt="4711" dst="10.48.255.194" dpt="80" iface="eth0" uid="1001" user="red" pid="1234" ppid="1""#,
                r#" exe="/usr/bin/curl" comm="curl" unit="cron.service" image="busybox" natdst="192.0.2.1" natdpt="8080""#,
                r#" community_id="1:OHtovGbttPq2UT6l3DTkAdYbV1E=" count="1" held_us="312"]"#
            )
        );
    }

    #[test]
    fn an_executable_that_is_gone_says_so() {
        let mut alert = example::alert();
        alert.source.exe_deleted = true;
        let element = element(&alert, 2048);
        assert!(
            element.contains(r#" exe="/usr/bin/curl (deleted)""#),
            "{element}"
        );
    }

    #[test]
    fn least_important_texts_go_first() {
        let mut alert = example::alert();
        let long = Some("y".repeat(300));
        alert.source.image = long.clone();
        alert.source.unit = long.clone();
        alert.source.user = long.clone();
        alert.source.exe = long;
        let full = element(&alert, 4096);
        let less = element(&alert, full.len() - 1);
        assert!(!less.contains(" image=") && less.contains(" user=") && less.contains(" exe="));
        let least = element(&alert, 0);
        for key in [
            "id",
            "action",
            "direction",
            "attribution",
            "feed",
            "indicator",
            "src",
            "dst",
            "count",
        ] {
            assert!(
                least.contains(&format!(" {key}=\"")),
                "{key} stays: {least}"
            );
        }
        assert!(!least.contains(" exe=") && least.ends_with("\"]"));
    }

    #[test]
    fn many_feeds_are_cut_between_names() {
        let mut alert = example::alert();
        alert.feeds = (0..60)
            .map(|n| format!("feed-{n:02}").parse().unwrap())
            .collect();
        let text = Feeds(&alert).to_string();
        assert!(
            text.len() <= MAX_VALUE
                && text.starts_with("feed-00,feed-01,")
                && text.ends_with(",...")
        );
        alert.feeds = vec![
            "x".repeat(128).parse().unwrap(),
            "y".repeat(128).parse().unwrap(),
        ];
        let text = Feeds(&alert).to_string();
        assert_eq!(text, format!("{},...", "x".repeat(128)));
    }

    #[test]
    fn the_indicators_of_a_scan_are_cut_between_two() {
        let mut alert = example::alert();
        let mut scan = Scan::default();
        scan.further.push("[2001:db8::1]:443".parse().unwrap());
        alert.scan = Some(scan.clone());
        let text = element(&alert, 2048);
        let wanted = r#" indicator="10.48.255.194,[2001:db8::1\]:443" "#;
        assert!(text.contains(wanted), "{text}");
        scan.more = true;
        alert.scan = Some(scan.clone());
        assert_eq!(indicators(&alert), "10.48.255.194,[2001:db8::1]:443,...");
        scan.further = vec!["[2001:db8:1:2:3:4:5:6]:12345".parse().unwrap(); 63];
        alert.scan = Some(scan);
        let text = indicators(&alert);
        assert!(text.ends_with(":12345,..."), "{text}");
        assert!(escaped(&text) <= MAX_VALUE && escaped(&text) > MAX_VALUE - 40);
    }

    #[test]
    fn times_are_clamped() {
        let day = std::time::Duration::from_secs(86_400);
        assert_eq!(
            Rfc3339(SystemTime::UNIX_EPOCH - day).to_string(),
            "1970-01-01T00:00:00.000000Z"
        );
        assert_eq!(
            Rfc3339(SystemTime::UNIX_EPOCH + day * 36_500_000).to_string(),
            "9999-12-31T23:59:59.000000Z"
        );
    }
}
