//! The decision stream of a CrowdSec LAPI (`GET /v1/decisions/stream`): deltas, by decision id.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Deserializer};

use super::{MAX_MEMORY, go, not_json};
use crate::{
    feed::{
        Limits, Parsed, Refusal,
        collect::{Collector, Extra, Line, without_mark},
        token::{Class, classify},
    },
    prefix::Prefix,
};

/// Characters of a scenario's name that are kept.
const SCENARIO: usize = 64;

/// The decisions in force, as far as the stream has told: the first call of a stream has
/// `startup=true` and gives all of them, each later one what changed since.
///
/// Several decisions may name one address; it stays listed until the last one is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrowdsecState {
    decisions: BTreeMap<i64, Decision>,
    /// What the last text held beside good decisions.
    last: Parsed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Decision {
    prefix: Prefix,
    until: SystemTime,
    scenario: Option<Arc<str>>,
}

/// What one text changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Decisions that are new or were renewed.
    pub added: usize,
    /// Decisions that are gone.
    pub removed: usize,
}

#[derive(Deserialize)]
struct Stream<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    new: Option<Vec<Told<'a>>>,
    #[serde(borrow, default, deserialize_with = "present")]
    deleted: Option<Vec<Told<'a>>>,
}

/// A decision as the LAPI tells it.
#[derive(Deserialize)]
struct Told<'a> {
    id: Option<i64>,
    #[serde(borrow, default)]
    value: Cow<'a, str>,
    #[serde(borrow, default)]
    scope: Cow<'a, str>,
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    duration: Cow<'a, str>,
    #[serde(borrow, default)]
    scenario: Cow<'a, str>,
    simulated: Option<bool>,
}

/// `null` is an empty list; a missing member is none.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Told<'de>>>, D::Error> {
    let list: Option<Vec<Told<'de>>> = Deserialize::deserialize(from)?;
    Ok(Some(list.unwrap_or_default()))
}

impl CrowdsecState {
    /// Takes one text of the stream, answered at `now`. A text that is refused changes nothing.
    pub fn apply(
        &mut self,
        text: &[u8],
        now: SystemTime,
        limits: &Limits,
    ) -> Result<Change, Refusal> {
        let text = without_mark(text);
        let decisions = text.iter().filter(|b| **b == b'{').count();
        if decisions.saturating_mul(size_of::<Told<'_>>()) > MAX_MEMORY {
            return Err(Refusal::TooManyValues);
        }
        let stream: Stream<'_> = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
        if stream.new.is_none() && stream.deleted.is_none() {
            return Err(Refusal::NotJson {
                cause: "a decision stream has \"new\" and \"deleted\"".to_owned(),
            });
        }
        let mut change = Change::default();
        for told in stream.deleted.iter().flatten() {
            let gone = told.id.and_then(|id| self.decisions.remove(&id));
            change.removed += usize::from(gone.is_some());
        }
        let mut out = Collector::new(limits, 0);
        for (index, told) in stream.new.iter().flatten().enumerate() {
            if self.decisions.len() > limits.max_entries {
                break;
            }
            let line = Line {
                number: index + 1,
                text: told.value.as_bytes(),
            };
            if let Some((id, decision)) = told.read(line, now, &mut out) {
                self.decisions.insert(id, decision);
                change.added += 1;
            }
        }
        self.last = out.finish();
        Ok(change)
    }

    /// The decisions that are in force at `now`, with what the last text held beside them. Each is
    /// an entry of its own; `next_expiry` is when the next one runs out.
    pub fn parsed(&self, now: SystemTime, limits: &Limits) -> Parsed {
        let mut out = Collector::new(limits, self.decisions.len());
        for (index, decision) in self.decisions.values().enumerate() {
            if decision.until <= now {
                continue;
            }
            out.changes_at(decision.until);
            let text = decision.prefix.to_string();
            let line = Line {
                number: index + 1,
                text: text.as_bytes(),
            };
            let tag = decision.scenario.as_deref().map(str::as_bytes);
            let extra = Extra {
                tag,
                ..Extra::default()
            };
            out.span(line, decision.prefix.into(), false, extra);
            if out.full() {
                break;
            }
        }
        let mut parsed = out.finish();
        parsed.bad = self.last.bad.clone();
        parsed.not_address = self.last.not_address.clone();
        parsed.left_out = self.last.left_out;
        parsed
    }

    /// Forgets what has run out by `now`.
    pub fn prune(&mut self, now: SystemTime) {
        self.decisions.retain(|_, decision| decision.until > now);
    }

    /// Number of decisions, run out or not.
    pub fn len(&self) -> usize {
        self.decisions.len()
    }

    /// True when there is no decision.
    pub fn is_empty(&self) -> bool {
        self.decisions.is_empty()
    }

    /// The state as the text of a stream that starts at `now`, for [`Self::apply`] at the same time.
    pub fn to_stream(&self, now: SystemTime) -> String {
        let decisions = self.decisions.iter().filter_map(|(id, decision)| {
            let left = decision.until.duration_since(now).ok()?;
            Some(serde_json::json!({
                "id": id,
                "value": decision.prefix,
                "scope": if decision.prefix.is_host() { "Ip" } else { "Range" },
                "type": "ban",
                "duration": format!("{}.{:09}s", left.as_secs(), left.subsec_nanos()),
                "scenario": decision.scenario.as_deref().unwrap_or_default(),
            }))
        });
        let decisions: Vec<serde_json::Value> = decisions.collect();
        serde_json::json!({ "new": decisions, "deleted": null }).to_string()
    }
}

impl Told<'_> {
    /// The decision, if it is a ban of addresses that is in force.
    fn read(
        &self,
        line: Line<'_>,
        now: SystemTime,
        out: &mut Collector<'_>,
    ) -> Option<(i64, Decision)> {
        let is = |text: &str, word: &str| text.eq_ignore_ascii_case(word);
        let addresses = is(&self.scope, "ip") || is(&self.scope, "range");
        if !addresses || !is(&self.kind, "ban") || self.simulated == Some(true) {
            out.filtered();
            return None;
        }
        let Some(id) = self.id else {
            out.bad(line, "a decision without an id");
            return None;
        };
        let Some((negative, left)) = go::parse_duration(&self.duration) else {
            out.bad(line, "a duration that is none");
            return None;
        };
        let prefix = match classify(self.value.trim().as_bytes()) {
            Class::Prefix(prefix, _) => prefix,
            _ => {
                out.bad(line, "not an IP address");
                return None;
            }
        };
        if negative || left == Duration::ZERO {
            out.expired();
            return None;
        }
        let scenario: String = self.scenario.chars().take(SCENARIO).collect();
        let decision = Decision {
            prefix,
            until: now.checked_add(left)?,
            scenario: (!scenario.is_empty()).then(|| scenario.into()),
        };
        Some((id, decision))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: &[u8] = include_bytes!("../../../tests/fixtures/formats/crowdsec-start.json");
    const DELTA: &[u8] = include_bytes!("../../../tests/fixtures/formats/crowdsec-delta.json");

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + seconds)
    }

    fn listed(state: &CrowdsecState, now: SystemTime) -> Vec<String> {
        let parsed = state.parsed(now, &Limits::default());
        parsed
            .items()
            .map(|item| item.indicator().to_string())
            .collect()
    }

    fn started() -> CrowdsecState {
        let mut state = CrowdsecState::default();
        state.apply(START, at(0), &Limits::default()).unwrap();
        state
    }

    #[test]
    fn a_start_gives_all_bans_of_addresses() {
        let state = started();
        assert_eq!(
            listed(&state, at(0)),
            ["192.0.2.7", "192.0.2.7", "198.51.100.0/24", "2001:db8::7"]
        );
        let parsed = state.parsed(at(0), &Limits::default());
        assert_eq!(parsed.items().next().unwrap().tag(), Some("example/ssh-bf"));
        assert_eq!(parsed.left_out.filtered, 3);
        assert_eq!(parsed.left_out.expired, 1);
        assert_eq!(parsed.bad.count, 1);
        assert_eq!(parsed.next_expiry, Some(at(60)));
    }

    #[test]
    fn deltas_go_by_id() {
        let mut state = started();
        let change = state.apply(DELTA, at(10), &Limits::default()).unwrap();
        assert_eq!((change.added, change.removed), (1, 2));
        // One of the two decisions about 192.0.2.7 is still there.
        assert_eq!(
            listed(&state, at(10)),
            ["192.0.2.7", "2001:db8::7", "203.0.113.9"]
        );
    }

    #[test]
    fn decisions_run_out() {
        let mut state = started();
        assert_eq!(listed(&state, at(60)).len(), 3);
        state.prune(at(60));
        assert_eq!(state.len(), 3);
    }

    #[test]
    fn nothing_new_is_null_and_no_stream_is_refused() {
        let mut state = started();
        let before = state.decisions.clone();
        let text = br#"{"new": null, "deleted": null}"#;
        assert_eq!(
            state.apply(text, at(1), &Limits::default()),
            Ok(Change::default())
        );
        for text in [
            &b"{\"message\":\"forbidden\"}"[..],
            b"[]",
            b"",
            b"{\"new\": [{\"id\": \"x\"}]}",
        ] {
            assert!(state.apply(text, at(1), &Limits::default()).is_err());
        }
        assert_eq!(state.decisions, before);
    }

    #[test]
    fn print_then_apply_is_the_same_state() {
        let state = started();
        let mut read = CrowdsecState::default();
        read.apply(state.to_stream(at(5)).as_bytes(), at(5), &Limits::default())
            .unwrap();
        assert_eq!(read.decisions, state.decisions);
    }

    #[test]
    fn memory_is_bounded() {
        let text = format!("{{\"new\":[{}{{}}]}}", "{},".repeat(5_000_000));
        let mut state = CrowdsecState::default();
        let refusal = state
            .apply(text.as_bytes(), at(0), &Limits::default())
            .unwrap_err();
        assert_eq!(refusal, Refusal::TooManyValues);
        let few = Limits {
            max_entries: 2,
            ..Limits::default()
        };
        state.apply(START, at(0), &few).unwrap();
        assert_eq!(state.len(), 3);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            let _ = CrowdsecState::default().apply(&text, at(0), &Limits::default());
        }

        #[test]
        fn any_decision_is_survived(id: Option<i64>, value in ".{0,20}", duration in "[0-9hms.-]{0,12}") {
            let told = serde_json::json!({"id": id, "value": value, "scope": "Ip", "type": "ban", "duration": duration});
            let text = serde_json::json!({"new": [told], "deleted": [told]}).to_string();
            let mut state = CrowdsecState::default();
            state.apply(text.as_bytes(), at(0), &Limits::default()).unwrap();
            state.parsed(at(0), &Limits::default());
        }
    }
}
