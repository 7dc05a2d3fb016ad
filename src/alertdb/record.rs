//! One record of the store: what it is, and how it hangs on the one before.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// A hash of the chain.
pub type Hash = [u8; 32];

/// What the first record of a store follows.
pub(super) const NOTHING: Hash = [0; 32];

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A store begins; the body says why.
    Begin,
    /// An alert, as in the ECS file.
    Alert,
    /// People have dismissed alerts: who, when, which, and a note.
    Dismissal,
    /// Alerts that the queue could not take: how many, and why.
    Lost,
    /// The oldest records were deleted: up to which, and the hash of that one.
    Retention,
    /// Alerts of what comes in were deleted from the middle, for room: which, and the hash of the last
    /// one of each run.
    Evicted,
    /// What was found wrong when the store was opened.
    Damage,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Alert => "alert",
            Self::Dismissal => "dismissal",
            Self::Lost => "lost",
            Self::Retention => "retention",
            Self::Evicted => "evicted",
            Self::Damage => "damage",
        }
    }
}

/// The place of a record in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Its number, from 1 without gaps. SQLite's integers have a sign.
    pub(super) seq: i64,
    /// Its hash.
    pub(super) hash: Hash,
}

impl Link {
    /// Where the first record hangs.
    pub(super) const START: Self = Self {
        seq: 0,
        hash: NOTHING,
    };

    /// The link of a record that follows this one.
    pub(super) fn next(&self, time: i64, kind: &str, body: &str) -> Self {
        let seq = self.seq.saturating_add(1);
        Self {
            seq,
            hash: hash(&self.hash, seq, time, kind, body),
        }
    }
}

/// SHA-256 over the hash of the record before, then the number and the time in microseconds (8 bytes
/// each, big-endian), the kind, a zero byte, and the body as it is stored.
pub(super) fn hash(before: &[u8], seq: i64, time: i64, kind: &str, body: &str) -> Hash {
    let mut sum = Sha256::new();
    sum.update(before);
    sum.update(seq.to_be_bytes());
    sum.update(time.to_be_bytes());
    sum.update(kind.as_bytes());
    sum.update([0]);
    sum.update(body.as_bytes());
    sum.finalize().into()
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What `hex` wrote; `None` for anything else.
pub(super) fn unhex(text: &str) -> Option<Hash> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut hash = NOTHING;
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// What is looked for in an alert, made from its body: the table `alert` can be made anew from the
/// records, and `verify` compares the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) id: String,
    pub(super) action: String,
    pub(super) direction: String,
    /// `,a,b,`
    pub(super) feeds: String,
    pub(super) indicator: String,
    /// The source in a few words, without what differs from flow to flow.
    pub(super) source: String,
    /// All names of the source and its address, in lower case, each between line ends.
    pub(super) names: String,
    /// Flows that it stands for.
    pub(super) flows: i64,
}

#[allow(clippy::indexing_slicing)] // a missing key of a serde_json value reads as null
impl Columns {
    /// Of an ECS event.
    pub(super) fn of(event: &Value) -> Self {
        Self {
            id: text(&event["event"]["id"]),
            action: text(&event["event"]["action"]),
            direction: text(&event["network"]["direction"]),
            feeds: feeds(&event["threat"]["feed"]["name"]),
            indicator: text(&event["threat"]["indicator"]["name"]),
            source: source(event),
            names: names(event),
            flows: event["feedgate"]["count"].as_i64().unwrap_or(i64::MAX),
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn feeds(names: &Value) -> String {
    let one = names.as_str().into_iter();
    let many = names.as_array().into_iter().flatten();
    one.chain(many.filter_map(Value::as_str))
        .fold(",".to_owned(), |all, name| all + name + ",")
}

/// `curl, unit cron.service, user red`; what a source has of pod, container or client comes before its
/// unit.
#[allow(clippy::indexing_slicing)] // as above
fn source(event: &Value) -> String {
    let own = &event["feedgate"];
    let pod = &event["orchestrator"];
    let container = &event["container"];
    let process = &event["process"];
    let mut words = Vec::new();
    let program = process["name"].as_str().or_else(|| {
        let path = process["executable"].as_str()?;
        path.rsplit('/').next()
    });
    words.extend(program.map(str::to_owned));
    if let Some(name) = pod["resource"]["name"].as_str() {
        let namespace = pod["namespace"].as_str().unwrap_or("-");
        words.push(format!("pod {namespace}/{name}"));
    } else if let Some(name) = container["name"].as_str().or(container["id"].as_str()) {
        words.push(format!("container {name}"));
    } else if let Some(name) = event["service"]["name"].as_str() {
        words.push(format!("unit {name}"));
    }
    if let Some(user) = event["user"]["name"].as_str() {
        words.push(format!("user {user}"));
    } else if let Some(uid) = event["user"]["id"].as_str() {
        words.push(format!("uid {uid}"));
    }
    if let Some(client) = own["client"].as_str() {
        words.push(format!("client {client}"));
    } else if let Some(mac) = event["source"]["mac"].as_str() {
        words.push(format!("mac {mac}"));
    }
    if words.is_empty() || event["network"]["direction"] == "ingress" {
        words.push(text(&event["source"]["ip"]));
    }
    words.join(", ")
}

/// The pod or container of an ECS event, by name.
#[allow(clippy::indexing_slicing)] // as above
pub(super) fn workload(event: &Value) -> Option<String> {
    let (pod, container) = (&event["orchestrator"], &event["container"]);
    if let Some(name) = pod["resource"]["name"].as_str() {
        let namespace = pod["namespace"].as_str().unwrap_or("-");
        return Some(format!("{namespace}/{name}"));
    }
    let name = container["name"].as_str().or(container["id"].as_str())?;
    Some(name.to_owned())
}

#[allow(clippy::indexing_slicing)] // as above
fn names(event: &Value) -> String {
    let (process, container) = (&event["process"], &event["container"]);
    let (pod, own) = (&event["orchestrator"], &event["feedgate"]);
    let all = [
        &process["name"],
        &process["executable"],
        &event["service"]["name"],
        &container["name"],
        &container["id"],
        &pod["namespace"],
        &pod["resource"]["name"],
        &own["client"],
        &event["user"]["name"],
        &event["user"]["id"],
        &own["session_user"]["name"],
        &event["source"]["ip"],
    ];
    // ECS writes dashes; people and the alert line write colons.
    let mac = event["source"]["mac"]
        .as_str()
        .map(|mac| mac.replace('-', ":"));
    let known = all.into_iter().filter_map(Value::as_str);
    known
        .chain(mac.as_deref())
        .fold("\n".to_owned(), |names, name| {
            names + &name.to_lowercase() + "\n"
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hash_depends_on_every_part() {
        let base = Link::START.next(7, "alert", "{}");
        assert_eq!(base.seq, 1);
        for other in [
            Link::START.next(8, "alert", "{}"),
            Link::START.next(7, "lost", "{}"),
            Link::START.next(7, "alert", "{ }"),
            base.next(7, "alert", "{}"),
        ] {
            assert_ne!(other.hash, base.hash);
        }
        assert_eq!(unhex(&hex(&base.hash)), Some(base.hash));
        assert_eq!(unhex("xyz"), None);
    }

    #[test]
    fn the_hash_is_the_one_of_the_documents() {
        // printf '%064d' 0 | xxd -r -p; then 1 and 2 as 8 bytes each; then "alert", a zero byte, "{}".
        let hash = Link::START.next(2, "alert", "{}").hash;
        assert_eq!(
            hex(&hash),
            hex(&Sha256::digest(
                [
                    &[0u8; 32][..],
                    &[0, 0, 0, 0, 0, 0, 0, 1],
                    &[0, 0, 0, 0, 0, 0, 0, 2],
                    b"alert\0{}"
                ]
                .concat()
            ))
        );
    }

    #[test]
    fn what_is_looked_for() {
        let event = json!({
            "event": { "id": "x", "action": "deny" },
            "network": { "direction": "egress" },
            "threat": { "feed": { "name": ["a", "b"] }, "indicator": { "name": "203.0.113.0/24" } },
            "source": { "ip": "10.0.0.1" },
            "process": { "name": "Curl", "executable": "/usr/bin/curl" },
            "service": { "name": "cron.service" },
            "user": { "id": "1001", "name": "red" },
            "feedgate": { "count": 3 },
        });
        let columns = Columns::of(&event);
        assert_eq!(columns.feeds, ",a,b,");
        assert_eq!(columns.source, "Curl, unit cron.service, user red");
        assert_eq!(
            columns.names,
            "\ncurl\n/usr/bin/curl\ncron.service\nred\n1001\n10.0.0.1\n"
        );
        assert_eq!(columns.flows, 3);
        assert_eq!(Columns::of(&json!({})).feeds, ",");
    }
}
