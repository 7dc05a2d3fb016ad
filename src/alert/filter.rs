//! What a client command asks of the stored alerts.

use serde::{Deserialize, Serialize};

/// A question to the store; it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Query {
    /// A page of alerts: the newest below `before`, or the oldest above `after`.
    List {
        /// Which.
        #[serde(default)]
        filter: Filter,
        /// Number of a record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<i64>,
        /// Number of a record.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<i64>,
        /// At most so many; there are never more than 500 on a page.
        limit: usize,
    },
    /// One alert.
    Show {
        /// Its id, or the beginning of it.
        id: String,
    },
    /// Sources against feeds and indicators.
    Graph {
        /// Which alerts.
        #[serde(default)]
        filter: Filter,
    },
    /// Walk the chain of the records.
    Verify {
        /// A head that was noted elsewhere, `SEQ:HASH`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        anchor: Option<String>,
    },
}

/// Every part must fit; an empty filter fits all alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct Filter {
    /// Seen at or after this, in microseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// Listed by this feed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed: Option<String>,
    /// An address: the flow's source. Any other text: a part of a name of the source, in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Verdict>,
    /// Dismissed or not.
    pub state: State,
}

/// The verdict of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The flow was let pass.
    Alert,
    /// The flow was denied.
    Deny,
}

impl Verdict {
    /// As in the alert.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alert => "alert",
            Self::Deny => "deny",
        }
    }
}

/// What people did with an alert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing yet.
    Open,
    /// Dismissed.
    Dismissed,
    /// Either.
    #[default]
    All,
}
