//! Errors of the netlink socket, provoked.

use std::{
    ffi::CString,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
};

use caps::{CapSet, Capability};
use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{setsockopt, sockopt},
};

use super::{install::Over, *};
use crate::{
    feed::Scope,
    prefix::{Family, Range},
    snapshot::{Class, Kind},
};

/// Runs `test` on a thread in a network namespace of its own; not without root.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_ADMIN).unwrap_or(false) {
        assert!(
            std::env::var_os("CI").is_none(),
            "needs root to make network namespaces"
        );
        eprintln!("skipped: needs root to make network namespaces");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        catch_unwind(AssertUnwindSafe(test))
    });
    if let Err(panic) = thread.join().unwrap() {
        resume_unwind(panic);
    }
}

/// A transaction of a table and `chains` chains, each of which the kernel acknowledges.
fn chains(chains: usize) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.add(&RawMessage::table(c"t"), "table t");
    let table = Table::new(c"t", ProtoFamily::Inet);
    for number in 0..chains {
        let name = CString::new(format!("c{number}")).unwrap();
        transaction.add(&Chain::new(&name, &table), format!("chain c{number}"));
    }
    transaction
}

#[test]
fn lost_answers_are_an_error_that_names_the_transaction() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        setsockopt(&netlink, sockopt::RcvBuf, &1).unwrap();
        let error = chains(500).commit(&netlink, c"t").unwrap_err();
        assert!(matches!(error, NftError::AnswersLost { .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.contains("a transaction of 502 messages, table t to end of transaction"),
            "{error}"
        );
        // The socket goes on.
        query::generation(&netlink).unwrap();
        assert_ne!(
            query::table_state(&netlink, "t").unwrap(),
            TableState::Absent
        );
    });
}

#[test]
fn many_answers_fit_the_usual_buffer() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        chains(20_000).commit(&netlink, c"t").unwrap();
    });
}

#[test]
fn what_does_not_fit_the_send_buffer_is_named_with_its_size() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        setsockopt(&netlink, sockopt::SndBuf, &1).unwrap();
        let page = vec![0; 100_000];
        let error = netlink.transmit(&[&page], page.len()).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("a transaction of 100000 bytes") && error.contains("send buffer"),
            "{error}"
        );
    });
}

#[test]
fn without_the_capability_the_errors_say_so() {
    in_namespace(|| {
        let netlink = Netlink::open().unwrap();
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap();
        let opening = Netlink::open().err().unwrap().to_string();
        let sending = chains(1).commit(&netlink, c"t").unwrap_err().to_string();
        for (error, what) in [
            (opening, "enlarging a netlink receive buffer"),
            (sending, "enlarging the send buffer"),
        ] {
            assert!(
                error.contains(what) && error.contains("lacks CAP_NET_ADMIN"),
                "{error}"
            );
        }
    });
}

#[test]
fn a_listener_hears_others_and_not_us_and_looks_after_what_it_missed() {
    in_namespace(|| {
        let mut options = Options::new(&crate::config::Config::default().nftables);
        options.owner = false;
        let mut kernel = Kernel::open(options).unwrap();
        let sets = Sets::default();
        let mut watch = kernel.watch().unwrap();
        kernel.install(&sets).unwrap();
        let next = |watch: &mut Watch| watch.next(Duration::from_millis(100)).unwrap();
        assert_eq!(next(&mut watch), []);
        assert!(kernel.is_whole(&sets).unwrap());

        let other = Netlink::open().unwrap();
        let mut transaction = Transaction::new();
        transaction.delete(&RawMessage::table(c"feedgate"), "table");
        transaction.commit_last(&other).unwrap();
        let [Notice::Change(change)] = &next(&mut watch)[..] else {
            panic!("one change");
        };
        assert_eq!(change.what, "table deleted");
        let who = change.who.as_ref().unwrap();
        let thread = nix::unistd::gettid().as_raw();
        assert_eq!(Ok(who.pid), u32::try_from(thread));
        assert!(!kernel.replaced_since(change.generation));
        assert!(!kernel.is_whole(&sets).unwrap());
        kernel.install(&sets).unwrap();
        assert!(kernel.replaced_since(change.generation));

        // Nobody listens during a large load; a change meanwhile is seen by its generation.
        let membership = watch.membership();
        membership.leave().unwrap();
        let mut transaction = Transaction::new();
        transaction.delete(&RawMessage::table(c"feedgate"), "table");
        transaction.commit_last(&other).unwrap();
        membership.join().unwrap();
        membership.missed();
        assert_eq!(next(&mut watch), [Notice::Unsure]);
        assert!(!kernel.is_whole(&sets).unwrap());
    });
}

/// So many hosts that a deny set holds, no two of them neighbours.
fn hosts(count: u32) -> Sets {
    let list: Vec<String> = (0..count)
        .map(|i| std::net::Ipv4Addr::from(0x2000_0000 + 2 * i).to_string())
        .collect();
    let mut feed = crate::config::Feed::new("d".parse().unwrap());
    feed.action = crate::feed::Action::Deny;
    let parsed =
        crate::feed::parse_plain(list.join("\n").as_bytes(), &crate::feed::Limits::default());
    let data = crate::feed::FeedData {
        parsed,
        pulled: std::time::SystemTime::UNIX_EPOCH,
        bytes: 0,
    };
    let input = crate::snapshot::Input::new(&feed, Arc::new(data));
    crate::snapshot::build(&[input], &[], crate::snapshot::Options::default()).sets
}

/// A kernel whose table anybody may change.
fn shared_kernel() -> Kernel {
    let mut options = Options::new(&crate::config::Config::default().nftables);
    options.owner = false;
    Kernel::open(options).unwrap()
}

#[test]
fn what_overflows_the_listener_is_told_as_lost_and_the_generation_tells_a_stranger() {
    in_namespace(|| {
        let mut kernel = shared_kernel();
        let sets = hosts(5_000);
        let mut watch = kernel.watch().unwrap();
        kernel.install(&sets).unwrap();
        let mut next = || watch.next(Duration::from_millis(100)).unwrap();
        assert_eq!(next(), []);
        assert!(kernel.is_alone().unwrap() && kernel.is_whole(&sets).unwrap());
        let without_some = hosts(4_900);
        let delta = Delta::between(&sets, &without_some).unwrap();
        kernel.apply(&delta, &without_some).unwrap();
        assert!(kernel.is_alone().unwrap());

        let membership = kernel.membership.clone().unwrap();
        setsockopt(&membership.socket, sockopt::RcvBuf, &1).unwrap();
        let set = sets.names().find(|name| name.to_string() == "deny_hosts4");
        let mut transaction = Transaction::new();
        let flush = RawMessage::all_elements(c"feedgate", Set::Addresses(set.unwrap()));
        transaction.delete(&flush, "all of deny_hosts4");
        let other = Netlink::open().unwrap();
        transaction.commit(&other, c"feedgate").unwrap();
        let notices = next();
        let lost = |notice: &Notice| matches!(notice, Notice::Lost { .. });
        assert!(notices.iter().any(lost), "{notices:?}");
        assert!(!kernel.is_alone().unwrap());

        kernel.install(&sets).unwrap();
        assert!(kernel.is_alone().unwrap() && kernel.is_whole(&sets).unwrap());
    });
}

#[test]
fn a_list_that_changes_while_it_is_read_is_read_again() {
    in_namespace(|| {
        let kernel = shared_kernel();
        let sets = hosts(3);
        kernel.install(&sets).unwrap();
        let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _end = Raise(&stop);
            scope.spawn(|| {
                nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
                let other = Netlink::open().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    chains(1).commit(&other, c"t").unwrap();
                }
            });
            let mut gave_up = 0;
            for _ in 0..300 {
                match kernel.is_whole(&sets) {
                    Ok(whole) => assert!(whole),
                    // Allowed, and never a wrong list.
                    Err(NftError::Interrupted { .. }) => gave_up += 1,
                    Err(e) => panic!("{e}"),
                }
            }
            println!("{gave_up} of 300 gave up");
        });
        assert!(kernel.is_whole(&sets).unwrap());
    });
}

/// EINTR: a signal that comes in the middle of a system call changes nothing.
#[test]
fn signals_do_not_disturb_a_transaction() {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        // Without SA_RESTART the calls end early.
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing at all, and nobody else in this test program uses the signal.
    #[allow(unsafe_code)]
    unsafe {
        sigaction(Signal::SIGUSR2, &action).unwrap();
    }
    in_namespace(|| {
        let kernel = shared_kernel();
        let (old, new) = (hosts(20_000), hosts(1));
        let stop = AtomicBool::new(false);
        // SAFETY: asks for the number of this thread, which always has one.
        #[allow(unsafe_code)]
        let target = unsafe { libc::pthread_self() };
        std::thread::scope(|scope| {
            // Dropped before the scope waits for its threads, also when an assertion fails.
            let _end = Raise(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // SAFETY: the scope's own thread outlives this one.
                    #[allow(unsafe_code)]
                    unsafe {
                        libc::pthread_kill(target, libc::SIGUSR2);
                    }
                    std::thread::sleep(Duration::from_micros(50));
                }
            });
            for _ in 0..5 {
                kernel.install(&old).unwrap();
                let delta = Delta::between(&old, &new).unwrap();
                kernel.apply(&delta, &new).unwrap();
                assert!(kernel.is_whole(&new).unwrap());
            }
        });
    });
}

/// Ends the other threads of a test.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Killed while covers stood in for the denied ranges: the next daemon fills the table without a gap.
#[test]
fn covers_that_were_left_do_not_stop_the_next_filling() {
    in_namespace(|| {
        let mut options = Options::new(&crate::config::Config::default().nftables);
        options.owner = false;
        let open = || Kernel::open(options.clone()).unwrap();
        let name = SetName::Class {
            class: Class::Deny,
            scope: Scope::Both,
            kind: Kind::Nets,
            family: Family::V4,
        };
        let sets = |number: u32| {
            let first = (198 << 24) + (18 << 16) + (number << 8);
            let last = first + 255;
            Sets::from_iter([(name, Content::V4(vec![Range { first, last }]))])
        };
        let kernel = open();
        kernel.install(&sets(1)).unwrap();
        let covers = sets(1).covers();
        // Killed before the rules ask the covers, and after.
        for between in [None, Some(sets(1).without_prefilter().with(&covers))] {
            let mut transaction = Transaction::new();
            let elements = kernel.create(&mut transaction, covers.iter()).unwrap();
            kernel.commit(transaction, elements).unwrap();
            if let Some(between) = between {
                kernel.load(&between, Over::InPlace, &covers).unwrap();
            }
            let next = open();
            next.replace(&sets(2)).unwrap();
            assert!(next.is_whole(&sets(2)).unwrap());
        }
    });
}
