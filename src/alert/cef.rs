//! ArcSight's Common Event Format, version 0: `CEF:0|vendor|product|version|id|name|severity|extension`.
//!
//! Keys are those of the format's dictionary ("Implementing ArcSight CEF", revision 25); what it has
//! no key for stands in labelled custom strings, and in `feedgate...` keys of our own.

use std::{
    fmt::{self, Write},
    net::IpAddr,
    time::SystemTime,
};

use super::{
    Alert, community_id,
    element::{Feeds, exe, indicators},
    line::{Event, Loss, loss_message, message},
};
use crate::{
    feed::{Action, Direction, Severity},
    packet::Flow,
    visible::is_hidden,
};

/// Longest value in bytes, as written, escapes included.
const MAX_VALUE: usize = 256;

/// What gives way, first to last, when a line is too long. The rest is bounded: addresses, numbers,
/// words, the feeds and the indicator.
const DROP: [&str; 18] = [
    "feedgateImage",
    "feedgateClient",
    "feedgatePolicy",
    "feedgateException",
    "msg",
    "reason",
    "feedgateNamespace",
    "suser",
    "duser",
    "deviceOutboundInterface",
    "deviceInboundInterface",
    "cs5",
    "cs4",
    "cs3",
    "filePath",
    "sproc",
    "dproc",
    "flexString1",
];

/// Appends the event, so that `out` has at most `limit` bytes (1,400 are always enough).
pub(crate) fn push(out: &mut String, event: Event<'_>, host: &str, limit: usize) {
    let version = env!("CARGO_PKG_VERSION");
    let _ = write!(out, "CEF:0|feedgate|feedgate|{version}|"); // writing to a String cannot fail
    let mut fields = Fields::default();
    match event {
        Event::Alert(alert) => {
            let (id, name, severity) = class(alert);
            let _ = write!(out, "{id}|{name}|{severity}|");
            fields.alert(alert, host);
        }
        Event::Lost(loss) => {
            let id = loss.kind.msgid().to_ascii_lowercase();
            let _ = write!(out, "{id}|{}|5|", loss.kind.title());
            fields.loss(loss, host);
        }
    }
    fields.close(out, limit);
}

/// Signature id, name and severity. The ids are a contract: rules of a SIEM name them.
fn class(alert: &Alert) -> (&'static str, &'static str, u8) {
    let severity = match alert.severity {
        Severity::Low => 3,
        Severity::Medium => 5,
        Severity::High => 8,
        Severity::Critical => 10,
    };
    let (id, name) = match (alert.direction, alert.action) {
        (Direction::Egress, Action::Alert) => {
            ("threatfeed-egress-alert", "Connection to a listed address")
        }
        (Direction::Egress, Action::Deny) => (
            "threatfeed-egress-deny",
            "Connection to a listed address denied",
        ),
        (Direction::Ingress, Action::Alert) => (
            "threatfeed-ingress-alert",
            "Connection from a listed address",
        ),
        (Direction::Ingress, Action::Deny) => (
            "threatfeed-ingress-deny",
            "Connection from a listed address denied",
        ),
    };
    (id, name, severity)
}

/// `key=value` after `key=value`, and what each is called.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn alert(&mut self, alert: &Alert, host: &str) {
        self.add("rt", Millis(alert.time));
        self.text("dvchost", Some(host));
        self.add("externalId", alert.id.hyphenated());
        self.add("act", alert.action);
        self.add("cat", "threatfeed");
        self.add(
            "deviceDirection",
            u8::from(alert.direction == Direction::Egress),
        );
        self.add("cnt", alert.count);
        if let Some((first, last)) = alert.window {
            self.add("start", Millis(first));
            self.add("end", Millis(last));
        }
        self.flow(alert);
        self.labelled("cs1", "feed", Some(&Feeds(alert).to_string()));
        self.labelled("cs2", "indicator", Some(&indicators(alert)));
        self.source(alert);
        self.some("feedgateSources", alert.flood.as_ref().map(|f| f.sources));
        self.text("feedgatePolicy", alert.policy.as_deref());
        self.text("feedgateException", alert.exception.as_deref());
        self.text("reason", alert.source.cause.as_deref());
        self.text("msg", Some(&message(alert)));
    }

    fn flow(&mut self, alert: &Alert) {
        let Flow { src, dst, .. } = alert.flow;
        self.add("proto", alert.flow.proto);
        self.address("src", ("c6a2", "Source IPv6 Address"), src);
        self.some("spt", alert.flow.src_port());
        self.address("dst", ("c6a3", "Destination IPv6 Address"), dst);
        self.some("dpt", alert.flow.dst_port());
        if let Some((addr, port)) = alert.nat_dst {
            self.add("destinationTranslatedAddress", addr);
            self.some("destinationTranslatedPort", port);
        }
        let iface = match alert.direction {
            Direction::Egress => "deviceOutboundInterface",
            Direction::Ingress => "deviceInboundInterface",
        };
        self.text(iface, alert.iface.as_deref());
        self.text("smac", alert.source.mac.as_deref());
        let community = community_id(&alert.flow);
        self.labelled("flexString1", "communityId", community.as_deref());
    }

    /// The process is at the source of an outgoing flow and at the destination of an incoming one.
    fn source(&mut self, alert: &Alert) {
        let source = &alert.source;
        let [uid, user, pid, process] = match alert.direction {
            Direction::Egress => ["suid", "suser", "spid", "sproc"],
            Direction::Ingress => ["duid", "duser", "dpid", "dproc"],
        };
        self.labelled("cs6", "attribution", Some(source.grade.as_str()));
        self.some("feedgateMethod", source.method);
        self.some(uid, source.uid);
        self.text(user, source.user.as_deref());
        self.some(pid, source.pid);
        self.text(process, source.comm.as_deref());
        self.text("filePath", exe(source).as_deref());
        self.labelled("cs3", "unit", source.unit.as_deref());
        self.labelled("cs4", "container", source.container.as_deref());
        self.labelled("cs5", "pod", source.pod.as_deref());
        self.text("feedgateNamespace", source.namespace.as_deref());
        self.text("feedgateImage", source.image.as_deref());
        self.text("feedgateClient", source.client.as_deref());
    }

    fn loss(&mut self, loss: &Loss, host: &str) {
        self.add("rt", Millis(loss.time));
        self.text("dvchost", Some(host));
        self.add("cnt", loss.count);
        self.text("reason", Some(&loss.cause));
        self.text("msg", Some(&loss_message(loss)));
    }

    /// A value of our own making, in which nothing needs an escape.
    fn add(&mut self, key: &'static str, value: impl fmt::Display) {
        self.0.push((key, format!("{key}={value}")));
    }

    fn some(&mut self, key: &'static str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.add(key, value);
        }
    }

    /// A value of anyone's making.
    fn text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let mut text = format!("{key}=");
            push_value(&mut text, value);
            self.0.push((key, text));
        }
    }

    fn labelled(&mut self, key: &'static str, label: &str, value: Option<&str>) {
        let at = self.0.len();
        self.text(key, value);
        if let Some((_, text)) = self.0.get_mut(at) {
            text.insert_str(0, &format!("{key}Label={label} "));
        }
    }

    /// `src` and `dst` are IPv4 addresses only.
    fn address(&mut self, v4: &'static str, v6: (&'static str, &str), addr: IpAddr) {
        match addr {
            IpAddr::V4(addr) => self.add(v4, addr),
            IpAddr::V6(addr) => {
                let (key, label) = v6;
                self.0
                    .push((key, format!("{key}Label={label} {key}={addr}")));
            }
        }
    }

    fn close(mut self, out: &mut String, limit: usize) {
        let room = limit.saturating_sub(out.len());
        let mut len: usize = self.0.iter().map(|(_, text)| text.len() + 1).sum();
        for drop in DROP {
            if len <= room {
                break;
            }
            self.0.retain(|(key, text)| {
                let keep = *key != drop;
                len -= if keep { 0 } else { text.len() + 1 };
                keep
            });
        }
        for (n, (_, text)) in self.0.iter().enumerate() {
            if n > 0 {
                out.push(' ');
            }
            out.push_str(text);
        }
    }
}

/// The inside of an extension value: `\` and `=` are escaped, hidden characters become `?`, so no
/// line ends in it; cut after [`MAX_VALUE`] bytes.
fn push_value(out: &mut String, value: &str) {
    let start = out.len();
    let mut cut = start;
    for c in value.chars() {
        if out.len() - start + 3 <= MAX_VALUE {
            cut = out.len();
        }
        match c {
            '=' | '\\' => out.extend(['\\', c]),
            c if is_hidden(c) => out.push('?'),
            c => out.push(c),
        }
        if out.len() - start > MAX_VALUE {
            out.truncate(cut);
            out.push_str("...");
            return;
        }
    }
}

/// Milliseconds since 1970; 0 before.
struct Millis(SystemTime);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_millis().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::alert::{example, line::MAX_LINE};

    fn render(alert: &Alert) -> String {
        let mut out = String::new();
        push(&mut out, Event::Alert(alert), "gw.example", MAX_LINE);
        out
    }

    /// A reader as SIEMs have it: seven headers between unescaped bars, then a key is a word before
    /// an unescaped `=`, and a value ends where the next key begins.
    fn parse(line: &str) -> (Vec<String>, BTreeMap<String, String>) {
        let mut headers = vec![String::new()];
        let mut rest = line.chars();
        while headers.len() < 8 {
            match rest.next().expect("seven bars") {
                '\\' => headers.last_mut().unwrap().extend(rest.next()),
                '|' => headers.push(String::new()),
                c => headers.last_mut().unwrap().push(c),
            }
        }
        headers.pop();
        let rest = rest.as_str();
        let equals = |at: usize| {
            let escapes = rest[..at].chars().rev().take_while(|c| *c == '\\').count();
            escapes.is_multiple_of(2)
        };
        let mut keys: Vec<(usize, usize)> = Vec::new();
        for (at, _) in rest.match_indices('=').filter(|(at, _)| equals(*at)) {
            let start = rest[..at].rfind(' ').map_or(0, |space| space + 1);
            keys.push((start, at));
        }
        let mut map = BTreeMap::new();
        for (n, (start, equals)) in keys.iter().enumerate() {
            let end = keys.get(n + 1).map_or(rest.len(), |next| next.0 - 1);
            let mut value = String::new();
            let mut raw = rest[equals + 1..end].chars();
            while let Some(c) = raw.next() {
                value.push(if c == '\\' { raw.next().unwrap() } else { c });
            }
            let old = map.insert(rest[*start..*equals].to_owned(), value);
            assert_eq!(old, None, "twice in {line}");
        }
        (headers, map)
    }

    #[test]
    fn the_fields_of_an_outgoing_flow() {
        assert_eq!(
            render(&example::alert()),
            format!(
                "CEF:0|feedgate|feedgate|{}|threatfeed-egress-deny|Connection to a listed address denied|5|\
                 rt=1786000000123 dvchost=gw.example externalId=0190a5c8-7c1e-7000-8000-000000000001 act=deny \
                 cat=threatfeed deviceDirection=1 cnt=1 proto=tcp src=10.0.0.1 spt=4711 dst=10.48.255.194 dpt=80 \
                 deviceOutboundInterface=eth0 flexString1Label=communityId \
                 flexString1=1:OHtovGbttPq2UT6l3DTkAdYbV1E\\= cs1Label=feed cs1=ipsum cs2Label=indicator \
                 cs2=10.48.255.194 cs6Label=attribution cs6=exact feedgateMethod=sock-diag suid=1001 suser=red \
                 spid=1234 sproc=curl filePath=/usr/bin/curl cs3Label=unit cs3=cron.service msg=denied egress tcp \
                 10.0.0.1:4711 -> 10.48.255.194:80 listed by ipsum: curl[1234] user red unit cron.service",
                env!("CARGO_PKG_VERSION")
            )
        );
    }

    #[test]
    fn an_incoming_flow_over_ipv6() {
        let mut alert = example::alert();
        alert.direction = Direction::Ingress;
        alert.flow.src = "2001:db8::1".parse().unwrap();
        alert.flow.dst = "2001:db8::2".parse().unwrap();
        let (headers, map) = parse(&render(&alert));
        assert_eq!(headers[4], "threatfeed-ingress-deny");
        assert_eq!(map["c6a2"], "2001:db8::1");
        assert_eq!(map["c6a2Label"], "Source IPv6 Address");
        assert_eq!(map["c6a3"], "2001:db8::2");
        assert_eq!((&*map["dpid"], &*map["dproc"]), ("1234", "curl"));
        assert!(!map.contains_key("src") && !map.contains_key("spid"));
        assert_eq!(map["deviceDirection"], "0");
    }

    proptest! {
        #[test]
        fn nothing_forges_a_key(alert in example::any_alert(), limit in 1500usize..=MAX_LINE) {
            let mut line = String::new();
            push(&mut line, Event::Alert(&alert), "gw", limit);
            prop_assert!(line.len() <= limit, "{} {}", line.len(), line);
            prop_assert!(!line.chars().any(is_hidden));
            let (headers, map) = parse(&line);
            prop_assert_eq!(&headers[..3], ["CEF:0", "feedgate", "feedgate"]);
            prop_assert_eq!(&map["externalId"], &alert.id.to_string());
            prop_assert_eq!(&map["act"], alert.action.as_str());
            prop_assert_eq!(&map["cnt"], &alert.count.to_string());
            for key in map.keys() {
                let base = key.strip_suffix("Label").unwrap_or(key);
                let known = ["rt", "dvchost", "externalId", "act", "cat", "deviceDirection", "cnt", "start", "end", "proto",
                    "src", "spt", "dst", "dpt", "c6a2", "c6a3", "destinationTranslatedAddress", "destinationTranslatedPort",
                    "smac", "cs1", "cs2", "cs6", "feedgateMethod", "feedgateSources", "suid", "duid", "spid", "dpid"];
                prop_assert!(known.contains(&base) || DROP.contains(&base), "{key}");
            }
            let (process, user) = match alert.direction {
                Direction::Egress => ("sproc", "suser"),
                Direction::Ingress => ("dproc", "duser"),
            };
            for (key, want) in [(process, &alert.source.comm), (user, &alert.source.user), ("cs3", &alert.source.unit)] {
                let want = want.iter().find(|want| !want.is_empty());
                let clean = want.map(|want| want.chars().map(|c| if is_hidden(c) { '?' } else { c }).collect::<String>());
                match (map.get(key), clean) {
                    (Some(read), Some(clean)) => prop_assert!(
                        *read == clean || read.strip_suffix("...").is_some_and(|cut| clean.starts_with(cut)),
                        "{read:?} of {clean:?}"
                    ),
                    (Some(read), None) => prop_assert!(false, "{key}={read}"),
                    (None, _) => {}
                }
            }
        }
    }
}
