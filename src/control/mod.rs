//! The control socket: one JSON request a line, one JSON answer a line (DESIGN.md section 4).
//!
//! Only root, the daemon's own user and members of group `feedgate` are answered. What the requests
//! do is the daemon's matter: the server is given a handler.
//!
//! Ahead of the answer the server sends white space, which JSON allows there: a space every two
//! seconds while the request waits or is worked on, a tab when it is carried out. So a client can tell
//! a daemon that is at work from one that stands still, and knows whether a request that it gave up
//! can still have an effect. Clients and daemons of 0.1 read and write the same without it.

mod caller;
mod client;
mod connect;
mod group;
mod peer;
mod places;
mod server;
mod standing;

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    alert::filter::{Filter, Query},
    feed::Direction,
};

pub use caller::{Caller, Peer};
pub use client::{ClientError, Unanswered, call, call_with, lint, push};
pub use server::{Counts, Door, Server, ServerError};

/// Between two signs of life of the daemon ahead of an answer.
const LIFE: Duration = Duration::from_secs(2);
/// One of them. JSON allows white space ahead of a value.
const ALIVE: u8 = b' ';
/// The request is carried out from now on.
const BEGUN: u8 = b'\t';

/// Longest text that can be pushed, in bytes; a feed's own `max-bytes` is mostly lower.
pub const MAX_BODY: u64 = 256 << 20;
/// Longest request line, in bytes.
pub const MAX_REQUEST: u64 = 64 << 10;
/// Ids of one dismissal.
pub const MAX_IDS: usize = 1_000;
/// Longest note of a dismissal, in bytes.
pub const MAX_NOTE: usize = 1_024;
/// Manifests of one request.
pub const MAX_TEXTS: usize = 1_000;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The whole state.
    Status,
    /// The state of the feeds.
    Feeds,
    /// Pull now; answered when the result is in the kernel, or failed.
    Refresh {
        /// One feed; all of them without.
        feed: Option<String>,
        /// Only look at what would change.
        #[serde(default)]
        dry_run: bool,
    },
    /// Take an update that was held back.
    Accept {
        /// The feed.
        feed: String,
    },
    /// Take this text for a feed; so many bytes of it follow the request's line.
    Push {
        /// The feed.
        feed: String,
        /// Length of the text.
        bytes: u64,
    },
    /// What is odd about a feed.
    Lint {
        /// One feed; all of them without.
        feed: Option<String>,
        /// Length of the known-good lists that follow the request's line: JSON,
        /// `[{"name": NAME, "prefixes": [PREFIX]}]`. 0: none follow.
        #[serde(default)]
        bytes: u64,
    },
    /// Which feeds list an address.
    Lookup {
        /// The address.
        addr: IpAddr,
        /// About which flows.
        #[serde(default, skip_serializing_if = "Asked::is_any")]
        asked: Asked,
    },
    /// The ruleset in nft syntax.
    Ruleset {
        /// With the elements of its sets.
        #[serde(default)]
        elements: bool,
    },
    /// A question to the store of alerts.
    Alerts {
        /// Which.
        query: Query,
    },
    /// Dismiss alerts.
    Dismiss {
        /// Their ids, or the beginnings.
        #[serde(default)]
        ids: Vec<String>,
        /// All open ones that fit this, instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        all: Option<Filter>,
        /// Why.
        #[serde(default)]
        note: String,
    },
    /// Put manifests into force; answered when they are in the kernel. A feed's first pull has only begun by then.
    Apply {
        /// Length of the texts that follow the request's line: JSON, a list of [`Text`].
        bytes: u64,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
    },
    /// Show resources.
    Get {
        /// Which: `KIND[,KIND]`, `KIND NAME...`, `KIND/NAME...` or `all`, word by word.
        words: Vec<String>,
        /// Only those with such labels, as kubectl's `-l` has it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        selector: Option<String>,
        /// Which nets of network sets.
        #[serde(default)]
        nets: Window,
    },
    /// Delete applied resources.
    Delete {
        /// Which, as for `get`; empty: those of the manifests.
        #[serde(default)]
        words: Vec<String>,
        /// Length of the manifests that follow, as for `apply`. 0: none follow.
        #[serde(default)]
        bytes: u64,
        /// One that is not there is fine.
        #[serde(default)]
        ignore_not_found: bool,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
    },
    /// Let a feed deny, for a while or for good.
    Deny {
        /// The feed.
        feed: String,
        /// What to do.
        step: DenyStep,
    },
    /// Change what the daemon's log shows; without a level: only say it.
    Log {
        /// `error`, `warn`, `info`, `debug` or `trace`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        level: Option<String>,
    },
    /// Put the canary of a self-test into the kernel.
    SelftestBegin,
    /// Wait until its packet came.
    SelftestSeen,
    /// Take it out of the kernel and say how it went.
    SelftestEnd {
        /// What the child process tells.
        probed: Probed,
    },
    /// Remove the table and stop.
    Down,
}

/// Which flows a lookup is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// Of an endpoint with these labels and the host's, and no others; without: of any endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<BTreeMap<String, String>>,
    /// The receiver's port, `443` or `443/tcp`; without: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Only this direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
}

impl Asked {
    /// True when it is about all flows.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// A manifest with the name of its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// What messages call it.
    pub name: String,
    /// YAML or JSON, one document or several.
    pub text: String,
}

/// A part of a long list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Window {
    /// So many of it; 0: all. `None`: as many as are fit to be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// So many are left out before them.
    pub offset: usize,
}

/// What the child process of a self-test tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probed {
    /// Its number.
    pub pid: u32,
    /// When it sent, in microseconds since 1970.
    #[serde(default)]
    pub sent_us: Option<u64>,
    /// Why it could not.
    #[serde(default)]
    pub error: Option<String>,
    /// How its second datagram was refused; `None`: it was not.
    #[serde(default)]
    pub again: Option<String>,
}

/// A step of `feedgate deny`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum DenyStep {
    /// Deny from now on, and take that back unless it is kept.
    Arm {
        /// After so long.
        seconds: u64,
    },
    /// Confirm.
    Keep,
    /// Take it back.
    Undo,
}

impl Request {
    /// Length of what follows the request's line, in bytes.
    pub fn body_length(&self) -> u64 {
        match self {
            Self::Push { bytes, .. }
            | Self::Lint { bytes, .. }
            | Self::Apply { bytes, .. }
            | Self::Delete { bytes, .. } => *bytes,
            _ => 0,
        }
    }

    /// True where the answer is all that it is about.
    fn only_asks(&self) -> bool {
        match self {
            Self::Status
            | Self::Feeds
            | Self::Lint { .. }
            | Self::Lookup { .. }
            | Self::Ruleset { .. }
            | Self::Alerts { .. }
            | Self::Get { .. }
            | Self::SelftestSeen => true,
            Self::Refresh { dry_run, .. }
            | Self::Apply { dry_run, .. }
            | Self::Delete { dry_run, .. } => *dry_run,
            Self::Log { level } => level.is_none(),
            Self::Accept { .. }
            | Self::Push { .. }
            | Self::Dismiss { .. }
            | Self::Deny { .. }
            | Self::SelftestBegin
            | Self::SelftestEnd { .. }
            | Self::Down => false,
        }
    }
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done; the value depends on the request.
    Ok(serde_json::Value),
    /// Not done, and why.
    Error(String),
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_string(self) {
            Ok(text) => f.write_str(&text),
            Err(_) => f.write_str(r#"{"error":"the answer cannot be written as JSON"}"#),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_requests_and_answers() {
        let text = |request| serde_json::to_string(&request).unwrap();
        assert_eq!(text(Request::Status), r#"{"command":"status"}"#);
        let push = Request::Push {
            feed: "f".into(),
            bytes: 3,
        };
        assert_eq!(text(push), r#"{"command":"push","feed":"f","bytes":3}"#);
        let step = DenyStep::Arm { seconds: 60 };
        let feed = "f".to_owned();
        assert_eq!(
            text(Request::Deny { feed, step }),
            r#"{"command":"deny","feed":"f","step":{"arm":{"seconds":60}}}"#
        );
        assert_eq!(
            Response::Error("no".into()).to_string(),
            r#"{"error":"no"}"#
        );
        let lookup = |asked| Request::Lookup {
            addr: "192.0.2.1".parse().unwrap(),
            asked,
        };
        assert_eq!(
            text(lookup(Asked::default())),
            r#"{"command":"lookup","addr":"192.0.2.1"}"#
        );
        let asked = Asked {
            endpoint: Some([("unit".to_owned(), "a".to_owned())].into()),
            port: Some("443/tcp".into()),
            direction: Some(Direction::Egress),
        };
        let written = text(lookup(asked.clone()));
        assert_eq!(serde_json::from_str(&written).ok(), Some(lookup(asked)));
        for bad in [
            "",
            "{}",
            r#"{"command":"reboot"}"#,
            r#"{"command":"lookup","addr":"x"}"#,
            "[1]",
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }
}
