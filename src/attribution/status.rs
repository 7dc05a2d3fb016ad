//! The files of /proc/PID beside its name: status, cmdline, loginuid. Pure.
//!
//! All of them are the process's own words or the kernel's about it; nothing is trusted.

use super::Capabilities;

/// Longest command line kept, in bytes.
pub(super) const MAX_COMMAND_LINE: usize = 256;
/// Behind a command line that was cut.
const CUT: &str = "...";
/// `loginuid` of what no login started (`(uid_t) -1`, linux/audit.h).
const NO_LOGIN: u32 = u32::MAX;

/// The lines of interest of PROC/PID/status (proc_pid_status(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// Effective group.
    pub(super) gid: Option<u32>,
    /// Effective capabilities of the first thread.
    pub(super) capabilities: Option<Capabilities>,
}

/// `Name:\tVALUE` line by line. The name of the process is escaped by the kernel, so that it
/// cannot start a line.
pub(super) fn parse_status(text: &[u8]) -> Status {
    let mut status = Status::default();
    for line in text.split(|&byte| byte == b'\n') {
        let Some((key, value)) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        match key {
            // Real, effective, saved, file system.
            "Gid" => status.gid = value.split_ascii_whitespace().nth(1).and_then(number),
            "CapEff" => {
                let bits = u64::from_str_radix(value.trim(), 16);
                status.capabilities = bits.ok().map(Capabilities::from_bits);
            }
            _ => {}
        }
    }
    status
}

/// The user that logged in; `None` for what no login started.
pub(super) fn parse_login(text: &[u8]) -> Option<u32> {
    number(std::str::from_utf8(text).ok()?.trim()).filter(|&uid| uid != NO_LOGIN)
}

/// Arguments, each ended by a zero byte, with spaces between; at most 256 bytes. `None` for
/// kernel threads, and for a process that wiped its arguments.
pub(super) fn command_line(arguments: &[u8]) -> Option<String> {
    let end = arguments.iter().rposition(|&byte| byte != 0)? + 1;
    let arguments = String::from_utf8_lossy(arguments.get(..end)?);
    let mut line = arguments.replace('\0', " ");
    if line.len() > MAX_COMMAND_LINE {
        let fits = (0..=MAX_COMMAND_LINE - CUT.len())
            .rev()
            .find(|&at| line.is_char_boundary(at))?;
        line.truncate(fits);
        line.push_str(CUT);
    }
    Some(line)
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn group_and_capabilities_are_the_effective_ones() {
        let text = "Name:\tGid:\\n7\nUid:\t1\t2\t3\t4\nGid:\t10\t20\t30\t40\n\
                    CapPrm:\t000001ffffffffff\nCapEff:\t0000000000003000\n";
        let status = parse_status(text.as_bytes());
        assert_eq!(status.gid, Some(20));
        let names: Vec<_> = status.capabilities.unwrap().of_interest().collect();
        assert_eq!(names, ["CAP_NET_ADMIN", "CAP_NET_RAW"]);
        assert_eq!(
            parse_status(b"Gid:\nCapEff:\tx\n\xff:\n"),
            Status::default()
        );
    }

    #[test]
    fn minus_one_is_no_login() {
        assert_eq!(parse_login(b"1000"), Some(1000));
        assert_eq!(parse_login(b"0\n"), Some(0));
        assert_eq!(parse_login(b"4294967295"), None);
        assert_eq!(parse_login(b""), None);
    }

    #[test]
    fn arguments_stand_side_by_side() {
        assert_eq!(
            command_line(b"curl\0-s\0a b\0").as_deref(),
            Some("curl -s a b")
        );
        assert_eq!(command_line(b"a\0\0b\0\0\0").as_deref(), Some("a  b"));
        assert_eq!(
            command_line(b"title of its own").as_deref(),
            Some("title of its own")
        );
        assert_eq!(command_line(b"\0\0"), None);
        assert_eq!(command_line(b""), None);
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic_and_are_bounded(bytes in vec(any::<u8>(), 0..600)) {
            let _ = parse_status(&bytes);
            let _ = parse_login(&bytes);
            if let Some(line) = command_line(&bytes) {
                prop_assert!(line.len() <= MAX_COMMAND_LINE && !line.contains('\0'));
            }
        }
    }
}
