//! What the limits let pass, and what they hold back.

use super::*;
use crate::prefix::Prefix;

const ALL: f64 = 0.10;

/// `count` of the /16 from 20.0.0.0 on, from `from` on: 565 of them are 1% of routable IPv4.
fn cover(from: u32, count: u32) -> Cover {
    let net = |n: u32| Prefix::new(std::net::Ipv4Addr::from((20 << 24) + (n << 16)).into(), 16);
    let nets: Vec<Prefix> = (from..from + count).map(|n| net(n).unwrap()).collect();
    Cover::of(nets.into_iter())
}

/// One percent of routable IPv4, less a little.
const PERCENT: u32 = 564;

fn name(name: &str) -> FeedName {
    name.parse().unwrap()
}

fn claim<'a>(name: &'a FeedName, cover: &'a Cover) -> Claim<'a> {
    Claim {
        name,
        share: cover.share(),
        max_share: 0.05,
        by_policy: false,
        cover: Box::new(move || cover.clone()),
    }
}

fn settle(rails: &mut Rails, feeds: &[(&FeedName, &Cover)]) -> Vec<String> {
    let claims = feeds
        .iter()
        .map(|(name, cover)| claim(name, cover))
        .collect();
    let configured = feeds.iter().map(|(name, _)| (*name).clone()).collect();
    rails.settle(claims, ALL, &configured);
    rails.all_held().iter().map(ToString::to_string).collect()
}

/// Rails of a daemon that has run before, without a feed.
fn started() -> Rails {
    let mut rails = Rails::unknown();
    settle(&mut rails, &[]);
    rails
}

#[test]
fn a_feed_may_deny_its_share_and_no_more() {
    let (f, fits, over) = (name("f"), cover(0, 5 * PERCENT), cover(0, 6 * PERCENT));
    let mut rails = started();
    assert_eq!(rails.weigh(&claim(&f, &fits), &[], ALL), Ok(()));
    let why = rails.weigh(&claim(&f, &over), &[], ALL).unwrap_err();
    assert!(why.can_be_accepted());
    let text = why.to_string();
    assert!(
        text.contains("would deny 5.99% of routable IPv4, more than max-share (5.0%)"),
        "{text}"
    );
    assert_eq!(settle(&mut rails, &[(&f, &over)]), ["f"]);
    assert_eq!(settle(&mut rails, &[(&f, &fits)]), [""; 0]);
}

#[test]
fn what_a_person_accepted_may_come_again_and_may_not_grow() {
    let (f, six, seven) = (name("f"), cover(0, 6 * PERCENT), cover(0, 7 * PERCENT));
    let mut rails = started();
    rails.accept(&f, six.share());
    assert_eq!(settle(&mut rails, &[(&f, &six)]), [""; 0]);
    assert_eq!(rails.over(&f), None);
    assert_eq!(rails.weigh(&claim(&f, &six), &[], ALL), Ok(()));
    assert!(rails.weigh(&claim(&f, &seven), &[], ALL).is_err());
    // It is less now: what it was is no longer accepted.
    let five = cover(0, 5 * PERCENT + 9);
    settle(&mut rails, &[(&f, &five)]);
    assert!(rails.weigh(&claim(&f, &six), &[], ALL).is_err());
    // Gone and back.
    settle(&mut rails, &[]);
    assert_eq!(settle(&mut rails, &[(&f, &five)]), ["f"]);
}

#[test]
fn the_feed_that_goes_over_the_sum_is_held_back() {
    let (a, b, c) = (name("a"), name("b"), name("c"));
    let part = |n: u32| cover(n * 5 * PERCENT, 5 * PERCENT);
    let (one, two, three) = (part(0), part(1), part(2));
    let mut rails = started();
    assert_eq!(settle(&mut rails, &[(&b, &one), (&c, &two)]), [""; 0]);
    // By name it would come first.
    assert_eq!(
        settle(&mut rails, &[(&a, &three), (&b, &one), (&c, &two)]),
        ["a"]
    );
    let text = rails.held(&a).unwrap().to_string();
    assert!(
        text.contains("all deny feeds together would deny 14.9"),
        "{text}"
    );
    assert!(text.contains("arm.max-share (10.0%)"), "{text}");
    // Nor may one of them exchange its list for another one.
    let standing = [claim(&b, &one), claim(&c, &one)];
    let mut others = started();
    settle(&mut others, &[(&b, &one), (&c, &one)]);
    assert_eq!(others.weigh(&claim(&c, &two), &standing, ALL), Ok(()));
    let wide = cover(0, 8 * PERCENT);
    assert!(
        others
            .weigh(
                &claim(&c, &three),
                &[claim(&b, &wide), claim(&c, &wide)],
                ALL
            )
            .is_err()
    );
    // What others deny already costs nothing.
    assert_eq!(
        settle(&mut rails, &[(&a, &two), (&b, &one), (&c, &two)]),
        [""; 0]
    );
}

#[test]
fn what_denied_before_there_were_limits_stays() {
    let (f, g, over) = (name("f"), name("g"), cover(0, 6 * PERCENT));
    let mut all = Rails::unknown();
    assert_eq!(settle(&mut all, &[(&f, &over)]), [""; 0]);
    assert!(all.over(&f).is_some());
    assert!(
        all.weigh(&claim(&f, &cover(0, 6 * PERCENT + 1)), &[], ALL)
            .is_err()
    );
    let mut some = Rails::after([f.clone()].into());
    assert_eq!(settle(&mut some, &[(&f, &over), (&g, &over)]), ["g"]);
    some.accept(&f, over.share());
    settle(&mut some, &[(&f, &over)]);
    assert_eq!(some.over(&f), None);
}

#[test]
fn policies_are_never_held_back() {
    let (f, over) = (name("f"), cover(0, 6 * PERCENT));
    let mut rails = started();
    let claims = vec![Claim {
        by_policy: true,
        ..claim(&f, &over)
    }];
    rails.settle(claims, ALL, &[f.clone()].into());
    assert_eq!(rails.held(&f), None);
    assert!(rails.over(&f).is_some());
    // Its next update is.
    let more = cover(0, 6 * PERCENT + 1);
    assert!(
        rails
            .weigh(
                &Claim {
                    by_policy: true,
                    ..claim(&f, &more)
                },
                &[],
                ALL
            )
            .is_err()
    );
}

#[test]
fn both_families_are_looked_at() {
    let f = name("f");
    let v6 = Cover::of(["2400::/6".parse().unwrap()].into_iter());
    let why = started().weigh(&claim(&f, &v6), &[], ALL).unwrap_err();
    assert!(why.to_string().contains("12.50% of routable IPv6"), "{why}");
}
