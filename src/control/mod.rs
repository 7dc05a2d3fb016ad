//! The control socket: one JSON request a line, one JSON answer a line (DESIGN.md section 4).
//!
//! Only root, the daemon's own user and members of group `feedgate` are answered. What the requests
//! do is the daemon's matter: the server is given a handler.

mod client;
mod server;

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::alert::filter::{Filter, Query};

pub use client::{ClientError, call, lint, push};
pub use server::{Peer, Server, ServerError};

/// Longest text that can be pushed, in bytes; a feed's own `max-bytes` is mostly lower.
pub const MAX_BODY: u64 = 256 << 20;
/// Longest request line, in bytes.
pub const MAX_REQUEST: u64 = 64 << 10;
/// Ids of one dismissal.
pub const MAX_IDS: usize = 1_000;
/// Longest note of a dismissal, in bytes.
pub const MAX_NOTE: usize = 1_024;

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
    /// Let a feed deny, for a while or for good.
    Deny {
        /// The feed.
        feed: String,
        /// What to do.
        step: DenyStep,
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
            Self::Push { bytes, .. } | Self::Lint { bytes, .. } => *bytes,
            _ => 0,
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
