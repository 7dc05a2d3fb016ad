//! Errors of the netlink socket, provoked.

use std::{
    ffi::CString,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use caps::{CapSet, Capability};
use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{setsockopt, sockopt},
};

use super::*;

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
                error.contains(what) && error.contains("CAP_NET_ADMIN is needed"),
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
