use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

fn name() -> FeedName {
    "f".parse().unwrap()
}

fn feed(denies: bool, has_data: bool) -> Candidate {
    Candidate {
        name: name(),
        denies,
        has_data,
        source: None,
    }
}

fn from(name: &str, source: &str) -> Candidate {
    Candidate {
        name: name.parse().unwrap(),
        source: Some(source.to_owned()),
        ..feed(true, true)
    }
}

/// Days since 2026, about.
fn day(days: u32) -> Now {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    Now {
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600) + DAY * days,
        instant: *START.get_or_init(Instant::now) + DAY * days,
        uptime: DAY * days,
    }
}

fn later(now: Now, by: Duration) -> Now {
    Now {
        wall: now.wall + by,
        instant: now.instant + by,
        uptime: now.uptime + by,
    }
}

#[test]
fn a_new_deny_feed_alerts_for_a_while_and_then_denies() {
    let mut book = Book::default();
    assert_eq!(book.settle(&[feed(true, false)], DAY, day(0)), []);
    assert_eq!(book.shown(&name(), day(0).instant), None, "no data yet");
    let began = book.settle(&[feed(true, true)], DAY, day(1));
    assert_eq!(began, [Change::Began(name(), day(2).wall)]);
    assert_eq!(book.force(&name()), Force::Trial);
    let trials = book.trials();
    for source in [1, 2, 1] {
        trials[&name()].count(source);
    }
    let shown = book.shown(&name(), day(1).instant).unwrap();
    assert_eq!(shown.trial_until, Some(day(2).wall));
    assert_eq!((shown.would.flows, shown.would.sources()), (3, 2));
    // Neither a restart nor a reload begins it anew.
    let mut book = Book::from_json(&book.to_json()).unwrap();
    assert_eq!(book.settle(&[feed(true, true)], DAY, day(1)), []);
    assert_eq!(book.shown(&name(), day(1).instant).unwrap().would.flows, 3);
    let armed = book.settle(&[feed(true, true)], DAY, day(2));
    assert_eq!(armed, [Change::Armed(name())]);
    assert_eq!(book.force(&name()), Force::AsConfigured);
    // A longer trial is for new feeds, not for what denies already.
    let mut book = Book::from_json(&book.to_json()).unwrap();
    assert_eq!(book.settle(&[feed(true, true)], DAY * 9, day(3)), []);
    assert_eq!(book.force(&name()), Force::AsConfigured);
    // From alert to deny again it is new.
    book.settle(&[feed(false, true)], DAY, day(4));
    let began = book.settle(&[feed(true, true)], DAY, day(5));
    assert_eq!(began, [Change::Began(name(), day(6).wall)]);
    assert_eq!(book.shown(&name(), day(5).instant).unwrap().would.flows, 0);
    // And when it is taken away and put back.
    assert_eq!(book.settle(&[], DAY, day(5)), [Change::Forgotten(name())]);
}

#[test]
fn without_a_trial_it_denies_at_once_and_a_clock_set_back_is_survived() {
    let mut book = Book::default();
    book.settle(&[feed(true, true)], Duration::ZERO, day(0));
    assert_eq!(book.force(&name()), Force::AsConfigured);
    let mut book = Book::default();
    book.settle(&[feed(true, true)], DAY, day(9));
    book.settle(&[feed(true, true)], DAY, day(1));
    assert_eq!(
        book.shown(&name(), day(1).instant).unwrap().trial_until,
        Some(day(2).wall)
    );
}

/// A host without a battery wakes up years ago, and learns the time some seconds later.
#[test]
fn a_clock_that_is_set_ends_no_trial() {
    let on = [feed(true, true)];
    for back in [false, true] {
        let mut book = Book::default();
        let start = day(20);
        book.settle(&on, DAY, start);
        let set = if back { day(3).wall } else { day(9_000).wall };
        let set_at = Now {
            wall: set,
            ..later(start, MINUTE)
        };
        assert_eq!(book.settle(&on, DAY, set_at), [Change::ClockSet]);
        assert_eq!(book.force(&name()), Force::Trial, "{back}");
        let until = book.shown(&name(), set_at.instant).unwrap().trial_until;
        assert_eq!(until, Some(set + DAY - MINUTE));
        // From here on it is the new time that counts.
        let over = Now {
            wall: set + DAY,
            ..later(set_at, DAY)
        };
        assert_eq!(book.settle(&on, DAY, over), [Change::Armed(name())]);
    }
    // The time without a daemon counts, as it always did.
    let mut book = Book::default();
    book.settle(&on, DAY, day(0));
    let mut book = Book::from_json(&book.to_json()).unwrap();
    let armed = book.settle(&on, DAY, day(1));
    assert_eq!(armed, [Change::Armed(name())]);
}

/// The clock of the process stands still meanwhile.
#[test]
fn sleep_is_no_clock_that_was_set() {
    let on = [feed(true, true)];
    let mut book = Book::default();
    book.settle(&on, DAY * 2, day(0));
    let awake = Now {
        instant: day(0).instant + MINUTE,
        ..day(1)
    };
    assert_eq!(book.settle(&on, DAY * 2, awake), []);
    let over = book.settle(&on, DAY * 2, day(2));
    assert_eq!(over, [Change::Armed(name())]);
}

/// Wakes up in 1970 at each boot, and learns the time a minute later.
#[test]
fn a_boot_without_a_clock_begins_no_trial_anew() {
    let on = [feed(true, true)];
    let until = |book: &Book, now: Now| book.shown(&name(), now.instant).unwrap().trial_until;
    let after = DAY * 7;
    let mut book = Book::default();
    book.settle(&on, after, day(60));
    for boot in 61..67 {
        // Killed before it learned the time, once more, and at last up for long enough.
        for _ in 0..2 {
            book = Book::from_json(&book.to_json()).unwrap();
            let woke = Now {
                wall: SystemTime::UNIX_EPOCH + MINUTE,
                ..day(boot)
            };
            assert_eq!(book.settle(&on, after, woke), []);
            assert_eq!(until(&book, woke), Some(woke.wall + after));
        }
        let told = later(day(boot), MINUTE);
        assert_eq!(book.settle(&on, after, told), [Change::ClockSet]);
        assert_eq!(until(&book, told), Some(day(67).wall));
    }
    assert_eq!(book.settle(&on, after, day(67)), [Change::Armed(name())]);
    // The next daemon may be the first to know the time.
    let mut book = Book::default();
    book.settle(&on, after, day(60));
    let mut book = Book::from_json(&book.to_json()).unwrap();
    let woke = Now {
        wall: SystemTime::UNIX_EPOCH,
        ..day(61)
    };
    book.settle(&on, after, woke);
    let mut book = Book::from_json(&book.to_json()).unwrap();
    assert_eq!(book.settle(&on, after, day(62)), [Change::ClockSet]);
    assert_eq!(until(&book, day(62)), Some(day(67).wall));
}

#[test]
fn what_a_command_denies_does_not_end_unseen() {
    let (kept, now) = (
        Candidate {
            denies: false,
            ..from("a", "url 1")
        },
        day(0),
    );
    let mut book = Book::default();
    book.arm(&kept, now.instant + MINUTE).unwrap();
    book.keep(&kept.name, now.wall).unwrap();
    book.settle(std::slice::from_ref(&kept), DAY, now);
    let renamed = Candidate {
        name: "b".parse().unwrap(),
        ..kept.clone()
    };
    assert_eq!(
        book.settle(&[renamed], DAY, now),
        [Change::Ended(kept.name)]
    );
    // A trial that a command has cut short, of a feed that is to alert only.
    let mut book = Book::default();
    book.settle(&[feed(true, true)], DAY, now);
    book.arm(&feed(true, true), now.instant + MINUTE).unwrap();
    book.keep(&name(), now.wall).unwrap();
    assert_eq!(
        book.settle(&[feed(false, true)], DAY, now),
        [Change::Ended(name())]
    );
}

#[test]
fn a_feed_with_another_name_is_not_new() {
    let (a, b) = (from("a", "url 1"), from("b", "url 1"));
    let mut book = Book::default();
    book.settle(std::slice::from_ref(&a), Duration::ZERO, day(0));
    let mut book = Book::from_json(&book.to_json()).unwrap();
    let unpulled = Candidate {
        has_data: false,
        ..b.clone()
    };
    let renamed = book.settle(&[unpulled], DAY, day(1));
    let expect = Change::Renamed(a.name.clone(), b.name.clone());
    assert_eq!(renamed, [expect]);
    assert_eq!(book.settle(std::slice::from_ref(&b), DAY, day(1)), []);
    assert_eq!(book.force(&b.name), Force::AsConfigured);
    // Another source under another name is another feed; so is a second copy of one that is still there,
    // also when it takes over.
    let other = from("c", "url 2");
    let changes = book.settle(&[b, other.clone()], DAY, day(1));
    assert_eq!(changes, [Change::Began(other.name.clone(), day(2).wall)]);
    let copy = from("d", "url 2");
    let changes = book.settle(&[other, copy.clone()], DAY, day(1));
    let expect = [
        Change::Forgotten("b".parse().unwrap()),
        Change::Began(copy.name, day(2).wall),
    ];
    assert_eq!(changes, expect);
}

#[test]
fn what_is_not_confirmed_is_taken_back() {
    let (mut book, now) = (Book::default(), day(0));
    let alerts = feed(false, true);
    book.settle(std::slice::from_ref(&alerts), DAY, now);
    assert_eq!(
        book.keep(&name(), now.wall),
        Err(ArmError::NotPending(name()))
    );
    book.arm(&alerts, now.instant + MINUTE).unwrap();
    assert_eq!(book.force(&name()), Force::Deny);
    let shown = book.shown(&name(), now.instant).unwrap();
    assert_eq!(shown.pending, Some(MINUTE));
    let later = Now {
        instant: now.instant + MINUTE,
        ..now
    };
    let changes = book.settle(std::slice::from_ref(&alerts), DAY, later);
    assert_eq!(changes, [Change::TakenBack(name())]);
    assert_eq!(book.force(&name()), Force::AsConfigured);
    assert!(book.keep(&name(), now.wall).is_err());
    // It does not outlive a daemon, and the next one knows.
    book.arm(&alerts, now.instant + MINUTE).unwrap();
    let next = Book::from_json(&book.to_json()).unwrap();
    assert!(next.was_pending());
    assert_eq!(next.force(&name()), Force::AsConfigured);
    assert!(book.take_back_pending() && !book.take_back_pending());
    assert!(!Book::from_json(&book.to_json()).unwrap().was_pending());
}

#[test]
fn what_is_confirmed_stays_until_it_is_undone_or_written_down() {
    let (mut book, now) = (Book::default(), day(0));
    let alerts = feed(false, true);
    book.arm(&alerts, now.instant + MINUTE).unwrap();
    book.keep(&name(), now.wall).unwrap();
    let mut book = Book::from_json(&book.to_json()).unwrap();
    assert_eq!(book.settle(std::slice::from_ref(&alerts), DAY, day(5)), []);
    assert_eq!(book.force(&name()), Force::Deny);
    assert_eq!(book.arm(&alerts, now.instant), Err(ArmError::Kept(name())));
    // Written into the configuration: it has been tried, so it goes on.
    let changes = book.settle(&[feed(true, true)], DAY, day(6));
    assert_eq!(changes, [Change::Armed(name())]);
    assert_eq!(book.force(&name()), Force::AsConfigured);
    assert_eq!(
        book.arm(&feed(true, true), now.instant),
        Err(ArmError::Denies(name()))
    );
    assert_eq!(book.undo(&name()), Err(ArmError::NotArmed(name())));
}

#[test]
fn a_trial_can_be_cut_short_and_taken_up_again() {
    let (mut book, now) = (Book::default(), day(0));
    let denies = feed(true, true);
    book.settle(std::slice::from_ref(&denies), DAY, now);
    book.arm(&denies, now.instant + MINUTE).unwrap();
    assert_eq!(book.force(&name()), Force::AsConfigured, "by its score");
    assert!(book.trials().is_empty());
    book.keep(&name(), now.wall).unwrap();
    book.undo(&name()).unwrap();
    assert_eq!(book.force(&name()), Force::Trial);
    let nothing = feed(false, false);
    assert!(matches!(
        book.arm(&nothing, now.instant),
        Err(ArmError::NoData(_))
    ));
}

#[test]
fn of_a_lost_book_what_denies_goes_on() {
    let mut book = Book::lost();
    book.settle(&[feed(true, true)], DAY, day(0));
    assert_eq!(book.force(&name()), Force::AsConfigured);
    book.settle(&[], DAY, day(0));
    book.settle(&[feed(true, true)], DAY, day(0));
    assert_eq!(book.force(&name()), Force::Trial);
}

#[test]
fn sources_are_bounded_and_garbage_is_no_book() {
    let mut would = Would::default();
    (0..3_000).for_each(|source| would.count(source));
    assert_eq!((would.flows, would.sources()), (3_000, MAX_SOURCES));
    for garbage in ["", "{}", "[]", r#"{"feeds":{"a b":{"armed":true}}}"#] {
        assert!(Book::from_json(garbage.as_bytes()).is_err(), "{garbage}");
    }
}
