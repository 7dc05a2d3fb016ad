//! What the kernel says of the queues.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

/// Bytes read of the kernel's file about queues: 64 lines.
const MAX_STATES: usize = 4096;

/// One queue (nfnetlink_queue(4) has no page; net/netfilter/nfnetlink_queue.c, `seq_show`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Its number.
    pub number: u16,
    /// Netlink port of the program that listens; the first socket of a program has its process ID.
    pub port: u32,
    /// Packets that wait for an answer.
    pub waiting: u64,
    /// Packets dropped because the queue was full; none where it fails open.
    pub dropped: u64,
    /// Packets that did not fit into the socket's buffer; none where it fails open.
    pub user_dropped: u64,
    /// The number of the packet that came last.
    pub last: u32,
}

/// The kernel's file about queues, kept open: a look takes 1.4 us instead of 21.
#[derive(Debug)]
pub struct States(Option<File>);

impl States {
    /// Opens `/proc/net/netfilter/nfnetlink_queue`, for the network namespace of this process.
    pub fn open(file: &Path) -> Self {
        Self(File::open(file).ok())
    }

    /// One queue now; `None` where the kernel does not tell.
    pub fn get(&self, number: u16) -> Option<State> {
        let mut bytes = [0; MAX_STATES];
        let length = self.0.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
        let mut all = text.lines().filter_map(state);
        all.find(|state| state.number == number)
    }
}

/// The queues of `/proc/net/netfilter/nfnetlink_queue`; none when it cannot be read.
pub fn states(file: &Path) -> Vec<State> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(state).collect()
}

/// Who listens on queue `number`, in words; `proc` is the place of procfs.
pub(super) fn holder(proc: &Path, number: u16) -> String {
    let queues = states(&proc.join("net/netfilter/nfnetlink_queue"));
    let Some(state) = queues.iter().find(|state| state.number == number) else {
        return "another program".to_owned();
    };
    let port = state.port;
    match fs::read_to_string(proc.join(format!("{port}/comm"))) {
        Ok(name) => {
            let name = name.trim_end().escape_debug();
            format!("another program, {name} (pid {port})")
        }
        // A program's further sockets have numbers of the kernel's choice.
        Err(_) => format!("another program (netlink port {port}, see /proc/net/netlink)"),
    }
}

/// Columns: number, port ID, waiting, copy mode, copy range, dropped, user dropped, last packet's ID.
fn state(line: &str) -> Option<State> {
    let columns: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [number, port, waiting, _, _, dropped, user_dropped, last, ..] = *columns.as_slice() else {
        return None;
    };
    Some(State {
        number: u16::try_from(number).ok()?,
        port: u32::try_from(port).ok()?,
        waiting,
        dropped,
        user_dropped,
        last: u32::try_from(last).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let seen = state(" 4470  31129  17 2   256     3     4       99  1").unwrap();
        let wanted = State {
            number: 4470,
            port: 31129,
            waiting: 17,
            dropped: 3,
            user_dropped: 4,
            last: 99,
        };
        assert_eq!(seen, wanted);
        assert_eq!(state("4470 1 2"), None);
        assert_eq!(states(Path::new("/nonexistent")), []);
        assert_eq!(States::open(Path::new("/nonexistent")).get(4470), None);
    }

    #[test]
    fn an_open_file_tells_what_is_in_it_now() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("queues");
        fs::write(&file, "").unwrap();
        let states = States::open(&file);
        assert_eq!(states.get(7), None);
        for last in [5, 6] {
            fs::write(
                &file,
                format!("9 1 0 2 256 0 0 1 1\n7 1 3 2 256 0 0 {last} 1\n"),
            )
            .unwrap();
            let state = states.get(7).unwrap();
            assert_eq!((state.waiting, state.last), (3, last));
        }
    }

    #[test]
    fn the_holder_of_a_queue_is_named() {
        let proc = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = proc.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let lines = " 7 31129 0 2 256 0 0 0 1\n 8 4294967000 0 2 256 0 0 0 1\n";
        write("net/netfilter/nfnetlink_queue", lines);
        write("31129/comm", "suri\x1bcata\n");
        let who = |number| holder(proc.path(), number);
        assert!(who(7).ends_with("cata (pid 31129)"), "{}", who(7));
        assert!(!who(7).contains('\x1b'));
        assert!(who(8).contains("netlink port 4294967000"));
        assert_eq!(who(9), "another program");
    }
}
