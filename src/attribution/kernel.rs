//! The system calls of attribution that have no safe wrapper.
#![allow(unsafe_code)]

use std::{
    fs::File,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::errno::Errno;

use crate::helper::Aside;

/// Handle type of kernfs, of which cgroupfs is one (linux/exportfs.h).
const FILEID_KERNFS: libc::c_int = 0xfe;
/// `KCMP_FILES`: compare the tables of open files (linux/kcmp.h).
const KCMP_FILES: libc::c_int = 2;

/// `struct file_handle` of open_by_handle_at(2) with the eight bytes of a cgroup ID.
#[repr(C)]
struct CgroupHandle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    id: u64,
}

/// Opens the folder of a cgroup by its ID; `mount` is any folder of the cgroup2 mount.
///
/// # Errors
/// `EPERM` without CAP_DAC_READ_SEARCH, `ESTALE` when the cgroup is gone.
pub(super) fn open_cgroup(mount: &File, id: u64) -> Result<OwnedFd, Errno> {
    let mut handle = CgroupHandle {
        bytes: 8,
        kind: FILEID_KERNFS,
        id,
    };
    // SAFETY: `handle` has the layout of struct file_handle followed by `bytes` bytes, and lives
    // through the call, which only reads it.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the call has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next entries of a folder, as `struct linux_dirent64`; gives their length in bytes, 0 at the end.
///
/// # Errors
/// `ENOENT` when the folder is of a process that has ended, `EINVAL` when not even one entry fits.
pub(super) fn list_folder(folder: &File, into: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`, which lives through the call.
    let length = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            folder.as_raw_fd(),
            into.as_mut_ptr(),
            into.len(),
        )
    };
    Ok(usize::try_from(Errno::result(length)?).unwrap_or(0))
}

/// True when two threads are known to share their table of open files. Either may hold this up: kcmp(2)
/// waits for an execve(2) of theirs to end, and that for their memory map.
pub(super) fn share_files(_: &Aside, a: u32, b: u32) -> bool {
    let (Ok(a), Ok(b)) = (libc::pid_t::try_from(a), libc::pid_t::try_from(b)) else {
        return false;
    };
    // SAFETY: kcmp takes numbers only.
    unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_FILES, 0, 0) == 0 }
}

/// A UDP-Lite socket, which has no name in nix; for tests.
///
/// # Errors
/// `EPROTONOSUPPORT` on a kernel without it.
#[cfg(test)]
pub(super) fn udplite_socket(v6: bool) -> Result<OwnedFd, Errno> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes numbers only.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_UDPLITE) };
    let fd = Errno::result(fd)?;
    // SAFETY: the call has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
