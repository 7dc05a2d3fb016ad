//! One thread of a daemon that stands still while the others go on, by ptrace(2).
#![allow(unsafe_code)]

use std::fs;

use nix::errno::Errno;

/// One thread that stands still; it goes on when this is dropped.
pub(crate) struct Halted(i32);

impl Halted {
    /// The thread of this name.
    pub(crate) fn of(pid: u32, name: &str) -> Self {
        let thread = thread(pid, name);
        request(libc::PTRACE_SEIZE, thread);
        request(libc::PTRACE_INTERRUPT, thread);
        let mut status = 0;
        // SAFETY: waitpid(2) writes one integer.
        let stopped = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        assert_eq!(stopped, thread);
        Self(thread)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        request(libc::PTRACE_DETACH, self.0);
    }
}

/// The thread of a process with this name.
fn thread(pid: u32, name: &str) -> i32 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let named = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let task = tasks.flatten().find(named).expect("such a thread");
    task.file_name().to_str().unwrap().parse().unwrap()
}

fn request(what: libc::c_uint, thread: i32) {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of these requests reads or writes memory of this process.
    let done = unsafe { libc::ptrace(what, thread, none, none) };
    Errno::result(done).expect("ptrace");
}
