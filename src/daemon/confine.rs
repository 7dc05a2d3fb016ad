//! System calls that the daemon gives up for good before it reads anything from outside: those that run
//! programs, those that change or trace other processes, and those that change the kernel. Files stay:
//! /proc/PID/mem too, where the capabilities allow it (docs/security.md).
//!
//! A systemd unit cannot take these: its filter must let systemd run the daemon itself, and a daemon
//! with CAP_SYS_PTRACE, which attribution needs, could otherwise take any process over. Without systemd
//! this is all that there is. Landlock has no place here: a process under it may look into no process
//! outside, whatever its capabilities (tried; docs/security.md).

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Refused for ever, with EPERM, in this process and all threads that it will have.
const REFUSED: [libc::c_long; 20] = [
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
    libc::SYS_bpf,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_userfaultfd,
];

/// `kexec_file_load`, which libc does not name everywhere.
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: Option<libc::c_long> = Some(320);
// The generic table (asm-generic/unistd.h). Elsewhere 294 is another call.
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
const KEXEC_FILE_LOAD: Option<libc::c_long> = Some(294);
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
const KEXEC_FILE_LOAD: Option<libc::c_long> = None;

/// x86-64 has a second way to make each call, x32, which a filter sees by its numbers only: the usual
/// number with a bit, and some calls have one of their own (arch/x86/entry/syscalls/syscall_64.tbl).
#[cfg(target_arch = "x86_64")]
mod x32 {
    pub(super) const BIT: i64 = 0x4000_0000;
    /// execve, ptrace, kexec_load, process_vm_readv, process_vm_writev, execveat.
    pub(super) const OWN: [i64; 6] = [520, 521, 528, 539, 540, 545];
}

/// Confines every thread of this process, and all that they start from now on. What cannot be had is
/// told, and costs nothing but this one fence.
pub(super) fn confine() {
    let done = filter().and_then(|filter| seccompiler::apply_filter_all_threads(&filter));
    if let Err(e) = done {
        tracing::warn!("the daemon may still run programs and change other processes: {e}");
    }
}

/// Every number that the kernel knows one of these calls by.
#[allow(clippy::useless_conversion)] // a long has 32 bits on some machines
fn numbers() -> impl Iterator<Item = i64> {
    let usual = REFUSED.iter().chain(&KEXEC_FILE_LOAD);
    let usual = usual.map(|&number| i64::from(number));
    #[cfg(target_arch = "x86_64")]
    let usual = {
        let own = x32::OWN.iter().copied();
        let all = usual.chain(own);
        all.flat_map(|number| [number, number | x32::BIT])
    };
    usual
}

fn filter() -> Result<BpfProgram, seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let rules: BTreeMap<i64, _> = numbers().map(|number| (number, Vec::new())).collect();
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
            for number in numbers() {
                assert_eq!(call(number), (-1, Some(libc::EPERM)), "{number}");
            }
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let status = confined.join().unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        assert!(status.contains("Seccomp:\t2"), "{status}");
    }
}
