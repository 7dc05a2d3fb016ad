use std::{
    collections::BTreeSet,
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::snapshot::ExceptionKind;

const MAX: u64 = 1 << 20;

fn name(text: &str) -> FeedName {
    text.parse().unwrap()
}

fn sample(body: &str) -> LastGood {
    LastGood {
        bytes: body.into(),
        pulled: UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
        etag: Some("\"v1\"".into()),
        last_modified: None,
        source: "https://feeds.example/list.txt".into(),
    }
}

fn open() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state")).unwrap();
    (folder, store)
}

#[test]
fn exceptions_come_back_and_lines_that_are_none_do_not() {
    let (_keep, store) = open();
    assert!(store.exceptions().is_empty());
    let exception = |prefix: &str, why: &str| Exception {
        kind: ExceptionKind::Found,
        prefix: prefix.parse().unwrap(),
        why: why.into(),
    };
    let kept = [
        exception("192.0.2.1", "gateway on eth0"),
        exception("2001:db8::/64", "resolver\n192.0.2.9 not a line"),
    ];
    store.save_exceptions(&kept).unwrap();
    let expected = [
        kept[0].clone(),
        exception("2001:db8::/64", "resolver 192.0.2.9 not a line"),
    ];
    assert_eq!(store.exceptions(), expected);
    let file = store.state.join(EXCEPTIONS);
    assert_eq!(mode(&file), 0o600);
    fs::write(&file, b"nonsense\n192.0.2.1\n300.0.0.1 x\n192.0.2.2 good\n").unwrap();
    assert_eq!(store.exceptions(), [exception("192.0.2.2", "good")]);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn files(folder: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(folder).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn encoded(feed: &FeedName, data: &LastGood) -> Vec<u8> {
    [format::header(feed, data).unwrap(), data.bytes.clone()].concat()
}

fn decoded(file: &[u8], feed: &FeedName, max: u64) -> Result<LastGood, Damage> {
    match format::read(&mut &file[..], file.len() as u64, feed, max) {
        Ok(data) => Ok(data),
        Err(Unreadable::Damaged(damage)) => Err(damage),
        Err(Unreadable::Io(error)) => panic!("{error}"),
    }
}

/// A thread with a mount namespace of its own and a file system of 256 KiB at `folder`.
fn on_small_disk(folder: &Path, test: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return;
    }
    let run = |args: &[&str]| {
        let status = Command::new("mount").args(args).arg(folder).status();
        assert!(status.unwrap().success(), "mount {args:?}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = Command::new("mount")
                .args(["--make-rprivate", "/"])
                .status();
            assert!(private.unwrap().success());
            run(&["-t", "tmpfs", "-o", "size=256k", "feedgate-test"]);
            test();
        });
    });
}

#[test]
fn the_folder_is_private_and_complete() {
    let (_keep, store) = open();
    store.save(&name("a"), &sample("192.0.2.1\n")).unwrap();
    store.save_elements("add element inet t s { }\n").unwrap();
    assert_eq!(mode(&store.state), 0o700);
    assert_eq!(mode(&store.feeds), 0o700);
    for file in ["lock", "sets.nft", "feeds/a.last"] {
        assert_eq!(mode(&store.state.join(file)), 0o600, "{file}");
    }
    assert_eq!(
        files(&store.feeds),
        BTreeSet::from(["a.last".into()]),
        "no temporary file stays"
    );
}

#[test]
fn data_survives_the_daemon() {
    let (keep, store) = open();
    let (a, b) = (name("ipsum"), name("training.ip..feed"));
    store.save(&a, &sample("192.0.2.1\n")).unwrap();
    store.save(&b, &sample("")).unwrap();
    store.save(&a, &sample("192.0.2.2\n")).unwrap();
    drop(store);
    let store = Store::open(&keep.path().join("state")).unwrap();
    assert_eq!(store.load(&a, MAX).unwrap(), Some(sample("192.0.2.2\n")));
    assert_eq!(store.load(&b, 0).unwrap(), Some(sample("")));
    assert_eq!(store.load(&name("other"), MAX).unwrap(), None);
    assert_eq!(store.names().unwrap(), [a.clone(), b.clone()]);

    assert!(store.remove(&a).unwrap());
    assert!(!store.remove(&a).unwrap());
    assert_eq!(store.load(&a, MAX).unwrap(), None);
    assert_eq!(store.names().unwrap(), [b]);
}

#[test]
fn the_header_is_one_readable_line() {
    let file = String::from_utf8(encoded(&name("a"), &sample("x"))).unwrap();
    let (first, body) = file.split_once('\n').unwrap();
    assert_eq!(body, "x");
    let start = r#"{"feedgate":"last-good","version":1,"feed":"a","pulled":"2023-11-14T22:13:20.123456789Z","etag":"\"v1\"","last-modified":null,"source":"https://feeds.example/list.txt","length":1,"sha256":""#;
    let sum = first.strip_prefix(start).unwrap();
    let sum = sum.strip_suffix("\"}").unwrap();
    // By another implementation: sha256sum of the file with the sum itself taken out.
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let plain = file.replace(sum, "");
    io::Write::write_all(&mut child.stdin.take().unwrap(), plain.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap().stdout;
    assert_eq!(String::from_utf8(out).unwrap(), format!("{sum}  -\n"));
}

#[test]
fn no_feed_name_leaves_the_folder_or_meets_another_file() {
    for bad in ["a/../b", "../a", "..", ".", "/etc/passwd", "a/b", "a\0b"] {
        assert!(bad.parse::<FeedName>().is_err(), "{bad:?}");
    }
    let (_keep, store) = open();
    let names = ["a", "a..", "a.last", "a.last.corrupt", "a.tmp", "lock"];
    for n in names {
        store.save(&name(n), &sample(n)).unwrap();
    }
    let long = "x".repeat(128);
    store.save(&name(&long), &sample(&long)).unwrap();
    for n in names.into_iter().chain([long.as_str()]) {
        assert_eq!(
            store.load(&name(n), MAX).unwrap(),
            Some(sample(n)),
            "name {n}"
        );
    }
    assert_eq!(files(&store.feeds).len(), names.len() + 1);
}

#[test]
fn a_damaged_file_is_moved_aside_and_named() {
    let (_keep, store) = open();
    let feed = name("a");
    let path = store.feeds.join("a.last");
    let aside = store.feeds.join("a.last.corrupt");
    for round in ["192.0.2.1\n", "192.0.2.2\n"] {
        store.save(&feed, &sample(round)).unwrap();
        let mut file = fs::read(&path).unwrap();
        *file.last_mut().unwrap() = b'x';
        fs::write(&path, &file).unwrap();
        let error = store.load(&feed, MAX).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{}: its checksum is wrong; kept as {} for a look, the feed will be pulled again",
                path.display(),
                aside.display()
            )
        );
        assert_eq!(fs::read(&aside).unwrap(), file, "the newest damage is kept");
        assert_eq!(store.load(&feed, MAX).unwrap(), None);
        assert!(store.names().unwrap().is_empty());
    }
    assert!(store.remove(&feed).unwrap(), "damaged data goes too");
    assert!(files(&store.feeds).is_empty());
}

#[test]
fn a_damaged_file_that_cannot_be_moved_is_still_named() {
    let (_keep, store) = open();
    fs::write(store.feeds.join("a.last"), "x").unwrap();
    fs::create_dir(store.feeds.join("a.last.corrupt")).unwrap();
    let error = store.load(&name("a"), MAX).unwrap_err();
    assert!(matches!(error, StoreError::CorruptStays { .. }), "{error}");
    store.save(&name("a"), &sample("y")).unwrap();
    assert_eq!(store.load(&name("a"), MAX).unwrap(), Some(sample("y")));
}

#[test]
fn each_kind_of_damage() {
    let (a, b) = (name("a"), name("b"));
    let data = sample("192.0.2.1\n");
    let file = encoded(&a, &data);
    assert_eq!(decoded(&file, &a, 10), Ok(data));
    let (length, max) = (10, 9);
    assert_eq!(
        decoded(&file, &a, max),
        Err(Damage::TooLarge { length, max })
    );
    assert_eq!(decoded(&file, &b, MAX), Err(Damage::OtherFeed(a.clone())));
    let longer = [file.as_slice(), b"\n"].concat();
    let found = 11;
    assert_eq!(
        decoded(&longer, &a, MAX),
        Err(Damage::Length { length, found })
    );

    let text = String::from_utf8(file).unwrap();
    let with = |from: &str, to: &str| decoded(text.replace(from, to).as_bytes(), &a, MAX);
    assert_eq!(with("\"version\":1", "\"version\":2"), {
        Err(Damage::Version(2))
    });
    let newer = r#"{"feedgate":"last-good","version":7,"new":[]}"#;
    assert_eq!(
        decoded(newer.as_bytes(), &a, MAX),
        Err(Damage::Version(7)),
        "fields of other versions are not looked at"
    );
    assert_eq!(with("last-good", "other"), Err(Damage::NotOurs));
    assert_eq!(with("\"etag\":", "\"etag\": "), Err(Damage::Header));
    assert_eq!(
        with("\"feed\":\"a\"", "\"feed\":\"\\u001b\""),
        Err(Damage::Header)
    );
    assert_eq!(with("2023", "2024"), Err(Damage::Checksum));
    assert_eq!(with("v1", "v2"), Err(Damage::Checksum));
    for odd in ["", "\n", "192.0.2.1\n", "<html>", "[]\n", "null\n"] {
        assert_eq!(
            decoded(odd.as_bytes(), &a, MAX),
            Err(Damage::NotOurs),
            "{odd:?}"
        );
    }
    let endless = vec![b'['; 1 << 20];
    assert_eq!(decoded(&endless, &a, MAX), Err(Damage::NotOurs));
}

#[test]
fn every_changed_byte_is_noticed() {
    let feed = name("a");
    let file = encoded(&feed, &sample("192.0.2.1\n"));
    for at in 0..file.len() {
        for change in 1..=255 {
            let mut changed = file.clone();
            changed[at] ^= change;
            assert!(
                decoded(&changed, &feed, MAX).is_err(),
                "byte {at} ^ {change}"
            );
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    let (_keep, store) = open();
    let feed = name("a");
    let path = store.feeds.join("a.last");
    let file = encoded(&feed, &sample("192.0.2.1\n198.51.100.0/24\n"));
    for length in 0..file.len() {
        fs::write(&path, &file[..length]).unwrap();
        let error = store.load(&feed, MAX).unwrap_err();
        assert!(
            matches!(error, StoreError::Corrupt { .. }),
            "{length}: {error}"
        );
    }
    fs::write(&path, &file).unwrap();
    assert!(store.load(&feed, MAX).unwrap().is_some());
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_noticed() {
    let feed = name("a");
    let file = encoded(&feed, &sample("192.0.2.1\n"));
    let short = &file[..file.len() - 1];
    let read = format::read(&mut &short[..], file.len() as u64, &feed, MAX);
    assert!(matches!(
        read,
        Err(Unreadable::Damaged(Damage::Length { found: 9, .. }))
    ));
}

#[test]
fn what_a_killed_process_left_is_removed_and_the_older_data_stays() {
    let (keep, store) = open();
    let feed = name("a");
    let data = sample("192.0.2.1\n");
    store.save(&feed, &data).unwrap();
    store.save_elements("old").unwrap();
    drop(store);

    let state = keep.path().join("state");
    let newer = encoded(&feed, &sample("192.0.2.9\n"));
    for length in [0, 20, newer.len()] {
        fs::write(state.join("feeds/.a.last.tmp"), &newer[..length]).unwrap();
        fs::write(state.join(".sets.nft.tmp"), "new").unwrap();
        let store = Store::open(&state).unwrap();
        assert_eq!(store.load(&feed, MAX).unwrap(), Some(data.clone()));
        assert_eq!(
            files(&state.join("feeds")),
            BTreeSet::from(["a.last".into()])
        );
        assert_eq!(
            files(&state),
            BTreeSet::from(["feeds".into(), "lock".into(), "sets.nft".into()])
        );
        assert_eq!(fs::read(state.join("sets.nft")).unwrap(), b"old");
    }
}

#[test]
fn opening_leaves_what_is_not_its_own() {
    let (keep, store) = open();
    drop(store);
    let state = keep.path().join("state");
    let others = [
        "alerts.db",
        ".alerts.db.tmp",
        ".tmp",
        "feeds/README",
        "feeds/a.tmp",
    ];
    for other in others {
        fs::write(state.join(other), "x").unwrap();
    }
    fs::create_dir(state.join("feeds/.b.last.tmp")).unwrap();
    let store = Store::open(&state).unwrap();
    for other in others {
        assert!(state.join(other).exists(), "{other}");
    }
    assert!(store.names().unwrap().is_empty());
    let error = store.save(&name("b"), &sample("x")).unwrap_err();
    assert!(error.to_string().contains("b.last.tmp: cannot"), "{error}");
}

#[test]
fn a_second_feedgate_is_told_who_holds_the_folder() {
    let (keep, store) = open();
    store.save(&name("a"), &sample("x")).unwrap();
    let state = keep.path().join("state");
    // A write in progress of the first must survive the second's attempt.
    fs::write(state.join("feeds/.a.last.tmp"), "x").unwrap();
    let error = Store::open(&state).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "state folder {} is in use by another feedgate (pid {}); stop that one, or set daemon.state-dir to another folder",
            state.display(),
            std::process::id()
        )
    );
    assert!(state.join("feeds/.a.last.tmp").exists());
    drop(store);
    Store::open(&state).unwrap();
}

#[test]
fn a_longer_pid_of_an_earlier_holder_is_gone_and_nonsense_is_no_pid() {
    let (keep, store) = open();
    drop(store);
    let lock = keep.path().join("state/lock");
    fs::write(&lock, "4194304999999").unwrap();
    let store = Store::open(&keep.path().join("state")).unwrap();
    let pid = format!("{}\n", std::process::id());
    assert_eq!(fs::read_to_string(&lock).unwrap(), pid);
    fs::write(&lock, [0xff; 4096]).unwrap();
    let second = Store::open(&keep.path().join("state"));
    assert!(matches!(second, Err(StoreError::InUse { pid: None, .. })));
    drop(store);
}

#[test]
fn a_lock_that_is_a_link_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, folder.path().join("lock")).unwrap();
    let error = Store::open(folder.path()).unwrap_err();
    assert!(
        error.to_string().contains("lock: cannot lock it"),
        "{error}"
    );
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
}

#[test]
fn only_one_folder_is_created_and_none_over_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let error = Store::open(&folder.path().join("typo/state")).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("typo/state: cannot create the folder"),
        "{text}"
    );
    assert!(text.ends_with("create the folder above it, or correct daemon.state-dir"));
    assert!(files(folder.path()).is_empty());

    fs::write(folder.path().join("feeds"), "").unwrap();
    let text = Store::open(folder.path()).unwrap_err().to_string();
    assert!(text.contains("feeds: cannot create the folder"), "{text}");
    assert!(text.contains("something else has that name"), "{text}");
}

#[test]
fn limits_of_the_header() {
    let feed = name(&"x".repeat(128));
    // The worst case of JSON: six bytes for each.
    let mut data = LastGood {
        etag: Some("\u{1}".repeat(VALIDATOR_MAX)),
        last_modified: Some("\u{1}".repeat(VALIDATOR_MAX)),
        source: "\u{1}".repeat(SOURCE_MAX),
        ..sample("x")
    };
    let file = encoded(&feed, &data);
    assert_eq!(decoded(&file, &feed, MAX).as_ref(), Ok(&data));
    data.etag = Some("e".repeat(VALIDATOR_MAX + 1));
    let file = encoded(&feed, &data);
    assert_eq!(decoded(&file, &feed, MAX).unwrap().etag, None);

    let (_keep, store) = open();
    data.source.push('x');
    let error = store.save(&feed, &data).unwrap_err();
    assert!(error.to_string().contains("8193 bytes"), "{error}");
    assert!(files(&store.feeds).is_empty());
}

#[test]
fn times_that_no_calendar_has_count_as_very_old() {
    let far = Duration::from_secs(253_402_300_800);
    for odd in [UNIX_EPOCH - Duration::from_nanos(1), UNIX_EPOCH + far] {
        let data = LastGood {
            pulled: odd,
            ..sample("x")
        };
        let file = encoded(&name("a"), &data);
        assert_eq!(decoded(&file, &name("a"), MAX).unwrap().pulled, UNIX_EPOCH);
    }
}

#[test]
fn readers_and_writers_at_once_see_whole_files() {
    let (_keep, store) = open();
    let feed = name("a");
    let versions: Vec<_> = (0..4)
        .map(|i| sample(&i.to_string().repeat(9000)))
        .collect();
    store.save(&feed, &versions[0]).unwrap();
    std::thread::scope(|scope| {
        for version in &versions {
            let (store, feed, versions) = (&store, &feed, &versions);
            scope.spawn(move || {
                for _ in 0..8 {
                    store.save(feed, version).unwrap();
                    let seen = store.load(feed, MAX).unwrap().unwrap();
                    assert!(versions.contains(&seen));
                }
            });
        }
    });
    assert_eq!(files(&store.feeds).len(), 1);
}

#[test]
fn a_full_disk_keeps_the_older_data_and_gives_its_space_back() {
    let folder = tempfile::tempdir().unwrap();
    on_small_disk(folder.path(), || {
        let state = folder.path().join("state");
        let store = Store::open(&state).unwrap();
        let (a, b) = (name("a"), name("b"));
        store.save(&a, &sample("192.0.2.1\n")).unwrap();
        for _ in 0..3 {
            let text = store
                .save(&a, &sample(&"x".repeat(300 << 10)))
                .unwrap_err()
                .to_string();
            assert!(
                text.contains("feeds/.a.last.tmp: cannot write it"),
                "{text}"
            );
            assert!(text.ends_with("free space on its file system or raise the quota"));
        }
        let text = store.save_elements(&"x".repeat(300 << 10)).unwrap_err();
        assert!(text.to_string().contains(".sets.nft.tmp: cannot write it"));
        assert_eq!(store.load(&a, MAX).unwrap(), Some(sample("192.0.2.1\n")));
        assert_eq!(files(&store.feeds), BTreeSet::from(["a.last".into()]));
        store.save(&b, &sample(&"y".repeat(100 << 10))).unwrap();
    });
}

#[test]
fn a_disk_that_turns_read_only_is_named_and_can_still_be_read() {
    let folder = tempfile::tempdir().unwrap();
    on_small_disk(folder.path(), || {
        let store = Store::open(&folder.path().join("state")).unwrap();
        let feed = name("a");
        store.save(&feed, &sample("x")).unwrap();
        drop(store); // a remount is refused while the lock file is open for writing
        fs::write(folder.path().join("state/feeds/bad.last"), "x").unwrap();
        fs::write(folder.path().join("state/feeds/.a.last.tmp"), "x").unwrap();
        let remount = Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(folder.path())
            .status();
        assert!(remount.unwrap().success());

        let store = Store::open(&folder.path().join("state")).unwrap();
        assert_eq!(store.load(&feed, MAX).unwrap(), Some(sample("x")));
        let second = Store::open(&folder.path().join("state"));
        assert!(matches!(second, Err(StoreError::InUse { .. })));
        let bad = store.load(&name("bad"), MAX).unwrap_err();
        assert!(matches!(bad, StoreError::CorruptStays { .. }), "{bad}");
        for error in [bad, store.save(&feed, &sample("y")).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("make its file system writable"), "{text}");
        }
    });
}

#[test]
fn a_folder_that_the_disk_never_took_opens_empty_and_is_made_later() {
    let folder = tempfile::tempdir().unwrap();
    on_small_disk(folder.path(), || {
        let remount = |how: &str| {
            let mut mount = Command::new("mount");
            let mount = mount.args(["-o", how]).arg(folder.path());
            assert!(mount.status().unwrap().success());
        };
        let feed = name("a");
        fs::create_dir(folder.path().join("state")).unwrap();
        remount("remount,ro");
        for state in [folder.path().join("new"), folder.path().join("state")] {
            let store = Store::open(&state).unwrap();
            let why = store.unsaved().unwrap();
            assert!(why.contains("cannot create the folder"), "{why}");
            assert_eq!(store.load(&feed, MAX).unwrap(), None);
            assert_eq!((store.names().unwrap().len(), store.deaths().len()), (0, 0));
            store.begin_reading(&feed, 0);
            store.save(&feed, &sample("x")).unwrap_err();
            assert!(
                store
                    .unsaved()
                    .unwrap()
                    .contains("make its file system writable")
            );
            if state.ends_with("state") {
                let second = Store::open(&state);
                assert!(
                    matches!(second, Err(StoreError::InUse { .. })),
                    "{second:?}"
                );
            }
            remount("remount,rw");
            store.save(&feed, &sample("x")).unwrap();
            assert_eq!(store.unsaved(), None);
            assert_eq!(store.load(&feed, MAX).unwrap(), Some(sample("x")));
            drop(store);
            remount("remount,ro");
        }
    });
}

#[test]
fn a_full_disk_takes_no_lock_file_and_opens() {
    let folder = tempfile::tempdir().unwrap();
    on_small_disk(folder.path(), || {
        let fill = fs::write(folder.path().join("fill"), vec![0; 300 << 10]);
        fill.unwrap_err();
        let store = Store::open(&folder.path().join("state")).unwrap();
        store.save(&name("a"), &sample("x")).unwrap_err();
        assert!(store.unsaved().unwrap().contains("free space"));
        fs::remove_file(folder.path().join("fill")).unwrap();
        store.save(&name("a"), &sample("x")).unwrap();
        assert_eq!(store.unsaved(), None);
    });
}

#[test]
fn a_folder_of_another_user_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    if fs::metadata(folder.path()).unwrap().uid() != 0 {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // For this thread only; it loses root's rights on files with it.
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
            let text = store.save_elements("x").unwrap_err().to_string();
            assert!(text.contains(".sets.nft.tmp: cannot write it"), "{text}");
            assert!(text.contains("must belong to feedgate's user"), "{text}");
        });
    });
}

proptest! {
    #[test]
    fn the_format_gives_back_what_it_took(
        bytes: Vec<u8>,
        pulled in 0u64..253_402_300_800,
        nanos in 0u32..1_000_000_000,
        etag in proptest::option::of(".{0,80}"),
        last_modified in proptest::option::of(".{0,80}"),
        source in "(?s).{0,200}",
        feed in "[A-Za-z0-9][A-Za-z0-9._-]{0,127}",
    ) {
        let pulled = UNIX_EPOCH + Duration::new(pulled, nanos);
        let data = LastGood { bytes, pulled, etag, last_modified, source };
        let feed = name(&feed);
        let file = encoded(&feed, &data);
        let max = data.bytes.len() as u64;
        prop_assert_eq!(decoded(&file, &feed, max), Ok(data));
    }

    #[test]
    fn any_file_is_read_or_refused(file: Vec<u8>, size: u64, max: u64) {
        let read = format::read(&mut &file[..], size, &name("a"), max);
        prop_assert!(matches!(read, Err(Unreadable::Damaged(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_disk_gives_back_what_it_took(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        let (_keep, store) = open();
        let data = LastGood { bytes, ..sample("") };
        store.save(&name("a"), &data).unwrap();
        prop_assert_eq!(store.load(&name("a"), MAX).unwrap(), Some(data));
    }
}
