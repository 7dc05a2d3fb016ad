//! Threads that give way to the queue threads: what they write can wait, a held packet cannot.
#![allow(unsafe_code)]

/// Lowers the priority of the calling thread by `nice` steps (nice(2), 0 to 19). Raising it again
/// would need a capability, so it is for the whole life of the thread.
pub(crate) fn give_way(nice: i32) {
    // SAFETY: setpriority takes numbers only; on Linux PRIO_PROCESS and 0 mean the calling thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if done != 0 {
        tracing::debug!("setpriority: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_gives_way() {
        // Field 19 of proc_pid_stat(5); the name before it has no spaces here.
        let nice = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let after = stat.rsplit_once(')').unwrap().1.to_owned();
            after.split_whitespace().nth(16).unwrap().parse::<i32>()
        };
        let before = nice().unwrap();
        let lowered = std::thread::spawn(move || {
            give_way(before + 7);
            nice().unwrap()
        });
        assert_eq!(lowered.join().unwrap(), (before + 7).min(19));
        assert_eq!(nice().unwrap(), before);
    }
}
