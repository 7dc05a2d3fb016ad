//! What is sent, what is counted, and that nothing is lost.

use proptest::prelude::*;

use super::*;
use crate::{alert::example, feed::Action};

const MINUTE: Duration = Duration::from_secs(60);

fn policy(window: Duration) -> Policy {
    Policy {
        window,
        scan_after: 20,
        ..Policy::default()
    }
}

/// An alert of the `n`th of many sources that one prefix lists.
fn from_outside(n: u32) -> Alert {
    let mut alert = example::alert();
    alert.direction = crate::feed::Direction::Ingress;
    alert.flow.dst = alert.flow.src;
    alert.flow.src = std::net::Ipv4Addr::from(0xc612_0000 + n).into();
    alert.indicator = "198.18.0.0/15".parse().unwrap();
    alert
}

#[test]
fn first_is_sent_repeats_are_summed_then_sent_anew() {
    let mut s = Suppressor::new(policy(MINUTE));
    let start = Instant::now();
    let mut alert = example::alert();
    let time = alert.time;
    assert_eq!(s.observe(&alert, start), Outcome::Send);
    for n in 1..=3 {
        alert.id = uuid::Uuid::from_u128(n.into());
        alert.time = time + Duration::from_secs(n);
        alert.flow.transport = crate::packet::Transport::Ports { src: 5000, dst: 80 };
        let now = start + Duration::from_secs(n);
        assert_eq!(s.observe(&alert, now), Outcome::Repeat);
    }
    assert_eq!(s.expired(start + MINUTE / 2), Told::default());
    let summary = s.expired(start + MINUTE).summaries.pop().unwrap();
    assert_eq!((summary.count, &summary.scan), (3, &None));
    assert_eq!(
        summary.window,
        Some((time + Duration::from_secs(1), time + Duration::from_secs(3)))
    );
    assert_eq!(summary.id, uuid::Uuid::from_u128(1), "an id of its own");
    assert_eq!(s.observe(&alert, start + MINUTE), Outcome::Send);
    let told = s.drain(start + MINUTE);
    assert_eq!(told, Told::default(), "no repeats, no summary");
    assert_eq!(s.counts().repeats, 3);
}

#[test]
fn a_scan_is_some_alerts_and_one_list() {
    let scan_after = 3;
    let mut s = Suppressor::new(Policy {
        scan_after,
        ..policy(MINUTE)
    });
    let start = Instant::now();
    let mut alert = example::alert();
    let time = alert.time;
    let mut sent = 0;
    for n in 1..=100 {
        alert.indicator = format!("192.0.2.{n}").parse().unwrap();
        alert.time = time + Duration::from_secs(n);
        let feed = if n == 7 { "other" } else { "ipsum" };
        alert.feeds = vec![feed.parse().unwrap()];
        match s.observe(&alert, start) {
            Outcome::Send => sent += 1,
            outcome => assert_eq!(outcome, Outcome::Scan),
        }
    }
    assert_eq!(sent, scan_after);
    assert_eq!(
        s.observe(&alert, start),
        Outcome::Scan,
        "an indicator again"
    );
    alert.indicator = "192.0.2.2".parse().unwrap();
    assert_eq!(s.observe(&alert, start), Outcome::Repeat, "of one alerted");
    alert.source.pid = Some(7);
    assert_eq!(s.observe(&alert, start), Outcome::Send, "another process");

    let mut told = s.expired(start + MINUTE).summaries;
    assert_eq!(told.iter().map(|summary| summary.count).sum::<u64>(), 99);
    let summary = told.pop().unwrap();
    let scan = summary.scan.unwrap();
    assert_eq!(summary.flood, None);
    assert_eq!(summary.count, 98);
    assert_eq!(
        summary.window,
        Some((time + Duration::from_secs(4), alert.time))
    );
    assert_eq!(summary.indicator.to_string(), "192.0.2.4");
    assert_eq!(scan.further.len(), LISTED - 1);
    assert_eq!(scan.further[0].to_string(), "192.0.2.5");
    assert!(scan.more);
    let feeds: Vec<&str> = summary.feeds.iter().map(|feed| feed.as_str()).collect();
    assert_eq!(feeds, ["ipsum", "other"]);
    assert_eq!(s.counts().scans, 98);
}

#[test]
fn a_limit_holds_back_summaries_too() {
    let mut s = Suppressor::new(Policy {
        rate_limit: 1,
        ..policy(MINUTE)
    });
    let start = Instant::now();
    let mut alert = example::alert();
    for pid in [1, 1, 2, 2] {
        alert.source.pid = Some(pid);
        let _ = s.observe(&alert, start);
    }
    let told = s.expired(start + MINUTE);
    assert_eq!((told.summaries.len(), told.held_back.len()), (1, 1));
    assert_eq!(told.held_back[0].count, 2, "of the second process");
    assert_eq!(s.counts().held_back, 2);
    let changed = s.change(policy(MINUTE), start + MINUTE);
    assert_eq!(changed, Told::default());
    assert_eq!(s.counts().held_back, 2, "it goes on");
}

#[test]
fn a_flood_is_twenty_alerts_and_a_number_of_sources() {
    let mut s = Suppressor::new(policy(MINUTE));
    let start = Instant::now();
    let time = example::alert().time;
    let mut sent = 0;
    for n in 0..20_000 {
        let mut alert = from_outside(n);
        alert.time = time + Duration::from_millis(n.into());
        match s.observe(&alert, start) {
            Outcome::Send => sent += 1,
            outcome => assert_eq!(outcome, Outcome::Flood),
        }
    }
    assert_eq!(sent, FLOOD_AFTER);
    assert_eq!(s.observe(&from_outside(7), start), Outcome::Repeat);
    assert_eq!(s.observe(&from_outside(700), start), Outcome::Flood);
    assert!(s.len() <= 50, "sources take no windows: {}", s.len());
    let mut other = from_outside(0);
    other.source.pid = Some(7);
    assert_eq!(
        s.observe(&other, start),
        Outcome::Send,
        "to another process"
    );

    let mut told = s.expired(start + MINUTE).summaries;
    let summary = told.pop().unwrap();
    assert_eq!((told.len(), told[0].count), (1, 1));
    assert_eq!((summary.count, &summary.scan), (19_981, &None));
    assert_eq!(summary.indicator, from_outside(0).indicator);
    assert_eq!(summary.flow.src, from_outside(FLOOD_AFTER).flow.src);
    assert_eq!(summary.window.unwrap().0, time + Duration::from_millis(20));
    let flood = summary.flood.unwrap();
    assert!(!flood.is_exact);
    assert!(flood.sources.abs_diff(19_980) < 2_000, "{}", flood.sources);
    assert_eq!(flood.further.len(), LISTED - 1);
    assert_eq!(flood.further[0], from_outside(21).flow.src);
    assert_eq!(s.counts().floods, 19_981);
}

#[test]
fn sources_that_others_make_up_cost_what_goes_out_nothing() {
    let mut s = Suppressor::new(Policy {
        rate_limit_ingress: 50,
        ..policy(MINUTE)
    });
    let start = Instant::now();
    let mut sent = 0;
    // Each of an indicator of its own: nothing can be folded.
    for n in 0..100_000 {
        let mut alert = from_outside(n);
        alert.indicator = crate::prefix::Prefix::host(alert.flow.src).into();
        sent += u32::from(s.observe(&alert, start) == Outcome::Send);
    }
    assert_eq!(sent, 50);
    assert!(s.len() <= 3 * MAX_INGRESS_KEYS, "{}", s.len());
    let out = example::alert();
    assert_eq!(s.observe(&out, start), Outcome::Send);
    assert_eq!(s.observe(&out, start), Outcome::Repeat, "it has a window");
    let told = s.expired(start + MINUTE);
    let rows: u64 = told.held_back.iter().map(|row| row.count).sum();
    assert_eq!(rows, 100_000 - 50);
    assert!(told.held_back.len() <= 17, "{}", told.held_back.len());
    let first = &told.held_back[0].what;
    let text = "flows over rate-limit-ingress denied: feed ipsum, indicator 198.18.";
    assert!(first.starts_with(text), "{first}");
    let counts = s.counts();
    assert_eq!((counts.held_back, counts.held_back_ingress), (0, rows));
}

#[test]
fn the_lower_limit_holds_for_what_comes_in() {
    for (rate_limit, rate_limit_ingress, passes) in
        [(0, 0, 100), (0, 5, 5), (7, 5, 5), (3, 5, 3), (3, 0, 3)]
    {
        let mut s = Suppressor::new(Policy {
            rate_limit,
            rate_limit_ingress,
            ..Policy::default()
        });
        let now = Instant::now();
        let passed = (0..100).filter(|n| s.observe(&from_outside(*n), now) == Outcome::Send);
        assert_eq!(passed.count(), passes);
        assert_eq!(
            s.observe(&example::alert(), now),
            Outcome::Send,
            "a budget of its own"
        );
    }
}

#[test]
fn zero_sends_each_and_a_full_table_too() {
    let alert = example::alert();
    let now = Instant::now();
    let mut s = Suppressor::new(policy(Duration::ZERO));
    assert_eq!(s.observe(&alert, now), Outcome::Send);
    assert_eq!(s.observe(&alert, now), Outcome::Send);
    let mut s = Suppressor::with_capacity(policy(MINUTE), 1, 1);
    let mut other = alert.clone();
    other.action = Action::Alert;
    assert_eq!(s.observe(&alert, now), Outcome::Send);
    assert_eq!(s.observe(&other, now), Outcome::Send);
    assert_eq!(s.observe(&other, now), Outcome::Send);
    assert_eq!(s.observe(&alert, now), Outcome::Repeat);
    assert_eq!(s.len(), 2, "of the source and indicator, and of the source");
}

#[test]
#[ignore = "a measurement, run by hand in release mode"]
fn cost() {
    let mut s = Suppressor::new(policy(MINUTE));
    let mut alert = example::alert();
    let now = Instant::now();
    const N: u32 = 1_000_000;
    for _ in 0..N {
        let _ = s.observe(&alert, now);
    }
    println!("{:?} for one repeat", now.elapsed() / N);
    let now = Instant::now();
    for n in 0..N {
        alert.indicator = crate::prefix::Prefix::host(std::net::Ipv4Addr::from(n).into()).into();
        let _ = s.observe(&alert, now);
    }
    println!("{:?} for one of a scan", now.elapsed() / N);
}

prop_compose! {
    fn any_policy()(window in 0u64..90, scan_after in 0u32..5, rate_limit in 0u32..4,
                    rate_limit_ingress in 0u32..4) -> Policy {
        Policy { window: Duration::from_secs(window), scan_after, rate_limit, rate_limit_ingress }
    }
}

/// A flow of one of some sources to one of some indicators, after a while; then perhaps the timer, or
/// a reload.
#[derive(Clone, Debug)]
struct Step {
    pid: u32,
    host: u8,
    feed: u8,
    deny: bool,
    from_outside: bool,
    wait: u64,
    timer: bool,
    reload: Option<Policy>,
}

prop_compose! {
    fn any_step()(pid in 0u32..4, host in 0u8..9, feed in 0u8..3, deny: bool, from_outside: bool, wait in 0u64..15_000,
                  timer: bool, reload in prop::option::weighted(0.02, any_policy())) -> Step {
        Step { pid, host, feed, deny, from_outside, wait, timer, reload }
    }
}

proptest! {
    #[test]
    fn every_flow_is_in_one_count(
        steps in prop::collection::vec(any_step(), 0..300),
        policy in any_policy(),
        max_keys in 0usize..9,
    ) {
        let mut s = Suppressor::with_capacity(policy, max_keys, max_keys);
        let mut now = Instant::now();
        let (mut flows, mut told) = (0, 0);
        let mut alert = example::alert();
        let sum = |told: Told| {
            told.summaries.iter().map(|summary| summary.count).sum::<u64>()
                + told.held_back.iter().map(|row| row.count).sum::<u64>()
        };
        for step in steps {
            now += Duration::from_millis(step.wait);
            alert.source.pid = Some(step.pid);
            let far: std::net::IpAddr = format!("192.0.2.{}", step.host).parse().unwrap();
            alert.indicator = crate::prefix::Prefix::host(far).into();
            alert.direction = Direction::Egress;
            alert.flow.src = "10.0.0.1".parse().unwrap();
            if step.from_outside {
                alert.direction = Direction::Ingress;
                alert.flow.src = far;
                alert.indicator = "192.0.2.0/24".parse().unwrap();
            }
            alert.feeds = vec![format!("feed-{}", step.feed).parse().unwrap()];
            alert.action = if step.deny { Action::Deny } else { Action::Alert };
            flows += 1;
            told += u64::from(s.observe(&alert, now) == Outcome::Send);
            if step.timer {
                told += sum(s.expired(now));
            }
            if let Some(policy) = step.reload {
                told += sum(s.change(policy, now));
            }
            prop_assert!(s.len() <= 6 * max_keys);
        }
        told += sum(s.drain(now));
        prop_assert_eq!(told, flows);
        prop_assert!(s.is_empty());
    }
}
