//! The real daemon on real kernels' netfilter, in network namespaces made by each test.
//!
//! One binary for all of them: it links once. They need root; without it they say so and return,
//! except in CI (`CI` is set), where that is a failure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)] // clippy.toml allows them in test functions only; a helper of a test may stop at the first surprise too

mod abilities;
mod arming;
mod attribution;
mod busy;
mod classes;
mod cli;
mod clients;
mod coexist;
mod containers;
mod control_fuzz;
mod crowd;
mod deaths;
mod demo;
mod entries;
mod faults;
mod feeds;
mod flood;
mod flow_log;
mod formats;
mod forward;
mod found;
mod guard;
mod heal;
mod heal_large;
mod hostile;
mod hostname;
mod import;
mod inbound;
mod include;
mod json_forms;
mod killed;
mod lab;
mod lastgood;
mod lifecycle;
mod lint;
mod live;
mod local;
mod logging;
mod metrics;
mod million;
mod moves;
mod nat;
mod outage;
mod overload;
mod packets;
mod peers;
mod policies;
mod pull;
mod push;
mod rails;
mod reopen;
mod resolvers;
mod resources;
mod secrets;
mod selftest;
mod service;
mod shares;
mod short_lived;
mod soak;
mod special;
mod stored;
mod support;
mod syslog;
mod transition;
mod unroot;
mod unwell;
mod verdicts;
