//! feedgate: threat feeds into nftables sets, and the first packet of each matching flow
//! attributed to its exact source before the verdict is given.
//!
//! The modules are the stages of two flows:
//!
//! ```text
//! feed text -> fetch -> feed (parse, judge) -> snapshot (merge, subtract) -> delta -> nft (one transaction)
//! packet    -> queue -> packet (decode) -> snapshot (match) -> attribution -> policy (decide) -> alert -> sink -> verdict
//! ```
//!
//! Pure modules know no operating system: [`prefix`], [`feed`], [`arm`], [`snapshot`], [`ruleset`],
//! [`packet`], [`policy`], [`alert`], [`flowlog`], [`config`], [`import`], [`manifest`], [`netlink`], `visible`. Edges talk to it: [`fetch`], [`nft`], [`queue`],
//! [`conntrack`], [`attribution`], [`sink`], [`alertdb`], [`store`], [`resources`], [`host`], [`control`], [`metrics`]. Only [`daemon`] wires edges together.
//! `netlink_socket` and `route` are sockets that several of them use, `background` lowers a thread's priority, [`helper`] does
//! what may block, [`pulse`] says whether a loop is at work, `lacks` says what this process lacks. `tests/structure.rs` holds
//! this.

pub mod alert;
pub mod alertdb;
pub mod arm;
pub mod attribution;
mod background;
pub mod cli;
pub mod config;
pub mod conntrack;

pub mod control;
pub mod daemon;
pub mod demo;
pub mod feed;
pub mod fetch;
pub mod flowlog;
pub mod helper;
pub mod host;
pub mod import;
mod lacks;
pub mod logging;
pub mod manifest;
pub mod metrics;
pub mod netlink;
mod netlink_socket;
pub mod nft;
pub mod packet;
pub mod policy;
pub mod prefix;
pub mod pulse;
pub mod queue;
pub mod resources;
mod route;
pub mod ruleset;
pub mod sink;
pub mod snapshot;
pub mod store;
mod visible;
