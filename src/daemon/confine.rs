//! What the daemon gives up for good before it reads anything from outside: running programs, and the
//! memory of other processes.
//!
//! A systemd unit cannot take these: its filter must let systemd run the daemon itself, and a daemon
//! with CAP_SYS_PTRACE, which attribution needs, could otherwise take any process over. Without systemd
//! this is all that there is. Landlock has no place here: a process under it may look into no process
//! outside, whatever its capabilities (tried; docs/security.md).

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Refused for ever, with EPERM, in this process and all threads that it will have.
const REFUSED: [libc::c_long; 14] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_move_mount,
    libc::SYS_bpf,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_userfaultfd,
];

/// Confines every thread of this process, and all that they start from now on. What cannot be had is
/// told, and costs nothing but this one fence.
pub(super) fn confine() {
    let done = filter().and_then(|filter| seccompiler::apply_filter_all_threads(&filter));
    if let Err(e) = done {
        tracing::warn!("the daemon may still run programs and change other processes: {e}");
    }
}

#[allow(clippy::useless_conversion)] // a long has 32 bits on some machines
fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let rules: BTreeMap<i64, _> = REFUSED
        .iter()
        .map(|&number| (i64::from(number), Vec::new()))
        .collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        arch,
    )?;
    Ok(BpfProgram::try_from(filter)?)
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, process::Command, thread};

    use super::*;

    /// The calling thread alone: the other tests of this process must run programs.
    fn confine_thread() {
        seccompiler::apply_filter(&filter().unwrap()).unwrap();
    }

    #[test]
    fn no_program_can_be_run_afterwards_and_threads_inherit_that() {
        let run = || Command::new("true").status().map_err(|e| e.kind());
        let confined = thread::spawn(move || {
            assert!(run().is_ok());
            confine_thread();
            let inner = thread::spawn(run).join().unwrap();
            (run(), inner)
        });
        let refused = Err(ErrorKind::PermissionDenied);
        assert_eq!(confined.join().unwrap(), (refused, refused));
        // This thread is another's business.
        assert!(run().is_ok());
    }

    #[test]
    #[allow(unsafe_code)]
    fn each_call_is_refused_and_others_are_not() {
        let confined = thread::spawn(|| {
            confine_thread();
            let call = |number| {
                // SAFETY: with null pointers and zeros none of these calls could write anywhere, were it
                // not refused.
                let done = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
                (done, std::io::Error::last_os_error().raw_os_error())
            };
            for number in REFUSED {
                assert_eq!(call(number), (-1, Some(libc::EPERM)), "{number}");
            }
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = confined.join().unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }
}
