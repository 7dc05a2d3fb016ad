//! Searches in made-up process tables, and in the real one.

use std::{fs, os::unix::fs::symlink, time::Duration};

use tempfile::TempDir;

use super::{super::descriptors::tests::Holder, *};

/// Above every real pid, so that kcmp finds none of them.
const P: u32 = 1 << 30;

struct Fixture(TempDir);

impl Fixture {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn process(&self, pid: u32, start: u64) {
        let folder = self.0.path().join(pid.to_string());
        fs::create_dir_all(folder.join("fd")).unwrap();
        let stat = format!("{pid} (p) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 {start} 1 1 1");
        fs::write(folder.join("stat"), stat).unwrap();
        fs::write(folder.join("comm"), "p\n").unwrap();
    }

    fn socket(&self, folder: &str, fd: u32, inode: u32) {
        let folder = self.0.path().join(folder).join("fd");
        fs::create_dir_all(&folder).unwrap();
        symlink(format!("socket:[{inode}]"), folder.join(fd.to_string())).unwrap();
    }

    fn holders(&self) -> Holders {
        Holders::new(self.0.path(), &Helper::new("test", 2))
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn pid(search: &Search) -> Option<u32> {
    match search {
        Search::Found(process, _) => Some(process.pid),
        _ => None,
    }
}

#[test]
fn the_cgroup_is_searched_before_all_of_proc() {
    let fixture = Fixture::new();
    for (at, inode) in [(0, 10), (1, 11), (2, 11)] {
        fixture.process(P + at, 5);
        fixture.socket(&(P + at).to_string(), 3, inode);
    }
    let mut holders = fixture.holders();
    assert_eq!(
        pid(&holders.find(11, Some(1), || vec![P + 1], soon())),
        Some(P + 1)
    );
    // Not in its cgroup any more: the fallback finds it.
    assert_eq!(
        pid(&holders.find(10, Some(1), || vec![P + 1], soon())),
        Some(P)
    );
    assert_eq!(
        holders.find(12, None, Vec::new, soon()),
        Search::Nobody {
            denied: 0,
            held_up: 0
        }
    );
}

#[test]
fn a_holder_is_remembered_only_with_its_start_time() {
    let fixture = Fixture::new();
    fixture.process(P, 5);
    fixture.socket(&P.to_string(), 3, 10);
    fixture.socket(&P.to_string(), 4, 11);
    let mut holders = fixture.holders();
    assert_eq!(pid(&holders.find(10, Some(1), || vec![P], soon())), Some(P));
    let unasked = || panic!("the guess must hit");
    assert_eq!(pid(&holders.find(11, Some(1), unasked, soon())), Some(P));
    // The pid is another process now: read anew, never with the old start.
    fs::remove_dir_all(fixture.0.path().join(P.to_string())).unwrap();
    fixture.process(P, 6);
    fixture.socket(&P.to_string(), 4, 11);
    let Search::Found(process, _) = holders.find(11, Some(1), || vec![P], soon()) else {
        panic!("not found");
    };
    assert_eq!(process.start, 6);
}

#[test]
fn descriptors_that_take_turns_are_guessed() {
    let fixture = Fixture::new();
    fixture.process(P, 5);
    for (fd, inode) in [(3, 10), (40, 11), (80, 12), (79, 13)] {
        fixture.socket(&P.to_string(), fd, inode);
    }
    let mut holders = fixture.holders();
    for inode in [10, 11, 12] {
        let found = holders.find(inode, Some(1), || vec![P], soon());
        assert_eq!(pid(&found), Some(P));
    }
    // Moved away: only what is remembered by its open folder is found.
    holders.proc = fixture.0.path().join("nowhere");
    for inode in [10, 12, 11, 10, 12, 13] {
        let found = holders.find(inode, Some(1), Vec::new, soon());
        assert_eq!(pid(&found), Some(P), "{inode}");
    }
}

#[test]
fn a_process_with_many_descriptors_does_not_use_up_the_time_of_others() {
    const SOCKET: u32 = 1500;
    let many = Holder::with(10..3000, SOCKET);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let own = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let find = |link: String, members: &[u32]| {
        let link = fs::read_link(link).unwrap();
        let mut goal = Goal {
            target: link.into_os_string().into_string().unwrap(),
            cgroup: Some(1),
            deadline: soon(),
            denied: HashSet::new(),
            held_up: 0,
            left: Vec::new(),
        };
        let mut holders = Holders::new(Path::new("/proc"), &Helper::new("test", 2));
        let found = holders.search(&mut goal, || members.to_vec());
        let found = found.unwrap_or_else(|Timeout| panic!("late"));
        (found.map(|process| process.pid), goal.left.len())
    };
    let me = std::process::id();
    let mine = format!("/proc/self/fd/{own}");
    // Those in between of the first were not read.
    assert_eq!(find(mine, &[many.pid(), me]), (Some(me), 1));
    let theirs = format!("/proc/{}/fd/{SOCKET}", many.pid());
    assert_eq!(find(theirs, &[many.pid(), me]), (Some(many.pid()), 0));
}

#[test]
fn a_thread_with_its_own_table_is_found() {
    let fixture = Fixture::new();
    fixture.process(P, 5);
    fixture.socket(&format!("{P}/task/{P}"), 3, 10);
    fixture.socket(&format!("{P}/task/{}", P + 1), 3, 11);
    assert_eq!(
        pid(&fixture.holders().find(11, None, Vec::new, soon())),
        Some(P)
    );
}

#[test]
fn the_search_ends_at_the_deadline() {
    let fixture = Fixture::new();
    fixture.process(P, 5);
    let found = fixture.holders().find(11, None, || vec![P], Instant::now());
    assert_eq!(found, Search::Timeout);
}

#[test]
fn who_inherited_it_is_named_too_the_busy_one_first() {
    let fixture = Fixture::new();
    for (at, start) in [(0, 5), (1, 6), (2, 7), (3, 8)] {
        fixture.process(P + at, start);
        fixture.socket(&(P + at).to_string(), 3, 10 + at / 3);
    }
    let children = format!("{P}/task/{P}");
    fs::create_dir_all(fixture.0.path().join(&children)).unwrap();
    let list = format!("{} {} {} ", P + 1, P + 2, P + 3);
    fs::write(fixture.0.path().join(children).join("children"), list).unwrap();
    let find = |holders: &mut Holders| match holders.find(10, None, || vec![P], soon()) {
        Search::Found(process, others) => {
            let others = others.iter().map(|other| other.pid);
            (process.pid, others.collect::<Vec<_>>())
        }
        other => panic!("{other:?}"),
    };
    let mut holders = fixture.holders();
    assert_eq!(find(&mut holders), (P + 2, vec![P + 1, P]));
    let syscall = format!("{} 0x3 0x0", libc::SYS_connect);
    fs::write(
        fixture.0.path().join((P + 1).to_string()).join("syscall"),
        syscall,
    )
    .unwrap();
    assert_eq!(find(&mut holders), (P + 1, vec![P + 2, P]));
}

#[test]
fn memory_is_bounded() {
    let fixture = Fixture::new();
    let mut holders = fixture.holders();
    for at in 0..100 {
        fixture.process(P + at, 5);
        fixture.socket(&(P + at).to_string(), 3, at);
        assert!(pid(&holders.find(at, None, || vec![P + at], soon())).is_some());
    }
    assert!(holders.recent.len() <= MAX_RECENT);
}
