//! What the kernel says of the queues.

use std::{fs, path::Path};

/// One queue (nfnetlink_queue(4) has no page; net/netfilter/nfnetlink_queue.c, `seq_show`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Its number.
    pub number: u16,
    /// Packets that wait for an answer.
    pub waiting: u64,
    /// Packets dropped because the queue was full; none where it fails open.
    pub dropped: u64,
    /// Packets that did not fit into the socket's buffer; none where it fails open.
    pub user_dropped: u64,
}

/// The queues of `/proc/net/netfilter/nfnetlink_queue`; none when it cannot be read.
pub fn states(file: &Path) -> Vec<State> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(state).collect()
}

/// Columns: number, port ID, waiting, copy mode, copy range, dropped, user dropped, last packet's ID.
fn state(line: &str) -> Option<State> {
    let columns: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [number, _, waiting, _, _, dropped, user_dropped, ..] = *columns.as_slice() else {
        return None;
    };
    Some(State {
        number: u16::try_from(number).ok()?,
        waiting,
        dropped,
        user_dropped,
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
            waiting: 17,
            dropped: 3,
            user_dropped: 4,
        };
        assert_eq!(seen, wanted);
        assert_eq!(state("4470 1 2"), None);
        assert_eq!(states(Path::new("/nonexistent")), []);
    }
}
