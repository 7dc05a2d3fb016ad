//! What this process itself lacks when a call fails: capabilities and file descriptors. A message names
//! only what is really missing.

use std::{fs::File, io, path::Path};

use caps::{CapSet, Capability};
use nix::errno::Errno;

/// Descriptors that one look at a process needs at once.
const NEEDED: usize = 4;

/// Those of `wanted` that the calling thread does not have; else what else may be in the way.
pub(crate) fn capabilities(wanted: &[Capability]) -> String {
    missing(wanted).unwrap_or_else(|| {
        "no capability is missing; a security module or a user namespace forbids it".to_owned()
    })
}

/// Those of `wanted` that the calling thread does not have, if there are any.
pub(crate) fn missing(wanted: &[Capability]) -> Option<String> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    without(wanted, has)
}

fn without(wanted: &[Capability], has: impl Fn(Capability) -> bool) -> Option<String> {
    let missing = wanted.iter().filter(|&&capability| !has(capability));
    let missing: Vec<String> = missing.map(ToString::to_string).collect();
    let some = !missing.is_empty();
    some.then(|| format!("this process lacks {}", missing.join(" and ")))
}

/// In words, when `errno` says that there are no more file descriptors.
pub(crate) fn descriptors(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EMFILE => Some("out of file descriptors; raise LimitNOFILE= or ulimit -n"),
        Errno::ENFILE => Some("the host is out of file descriptors; raise fs.file-max"),
        _ => None,
    }
}

/// The same for an error of I/O.
pub(crate) fn descriptors_of(error: &io::Error) -> Option<&'static str> {
    descriptors(Errno::from_raw(error.raw_os_error()?))
}

/// The same when fewer descriptors are left than it takes to look at a process below `proc`.
pub(crate) fn descriptors_now(proc: &Path) -> Option<&'static str> {
    let mut held = Vec::with_capacity(NEEDED);
    for _ in 0..NEEDED {
        match File::open(proc) {
            Ok(file) => held.push(file),
            Err(error) => return descriptors_of(&error),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_named() {
        let wanted = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];
        let with = |held: &[Capability]| without(&wanted, |capability| held.contains(&capability));
        let both = "this process lacks CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH";
        assert_eq!(with(&[]).as_deref(), Some(both));
        let one = with(&[Capability::CAP_SYS_PTRACE]);
        assert_eq!(one.unwrap(), "this process lacks CAP_DAC_READ_SEARCH");
        assert_eq!(with(&wanted), None);
    }

    #[test]
    fn other_errors_are_not_about_descriptors() {
        assert_eq!(descriptors(Errno::EACCES), None);
        assert_eq!(descriptors_now(Path::new("/nowhere")), None);
        let few = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(descriptors_of(&few).unwrap().contains("LimitNOFILE"));
    }
}
