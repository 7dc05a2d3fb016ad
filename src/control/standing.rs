//! What the kernel says of a daemon that does not answer.

use std::{fs, path::Path};

/// The state of a process, the third field of proc_pid_stat(5), below the folder `proc`.
pub(super) fn state(proc: &Path, pid: u32) -> Option<char> {
    let stat = fs::read_to_string(proc.join(format!("{pid}/stat"))).ok()?;
    // The name may hold anything, also `)`.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.trim_start().chars().next()
}

/// That state in words, and what to do about it.
pub(super) fn advice(pid: u32, state: Option<char>) -> String {
    match state {
        Some(state @ ('T' | 't')) => {
            format!("it is stopped (state {state}): `kill -CONT {pid}` lets it go on")
        }
        Some('D') => "it waits for the kernel, for example for a disk (state D)".into(),
        Some('Z' | 'X') => "it has ended".into(),
        Some(state) => {
            format!("it hangs (state {state}); its log may say why (journalctl -u feedgate)")
        }
        None => "its state cannot be read".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_behind_any_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("7")).unwrap();
        fs::write(
            folder.path().join("7/stat"),
            "7 (a) S (b)) T 1 7 7 0 -1 1\n",
        )
        .unwrap();
        assert_eq!(state(folder.path(), 7), Some('T'));
        assert_eq!(state(folder.path(), 8), None);
        assert!(state(Path::new("/proc"), std::process::id()).is_some());
        assert!(advice(7, Some('T')).contains("kill -CONT 7"));
        assert!(advice(7, Some('S')).contains("hangs (state S)"));
    }
}
