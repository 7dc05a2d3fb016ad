//! Child processes with wall time and peak memory, and this process's own memory.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    io::Read,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What a finished child used.
pub struct Used {
    /// From before the fork to the exit.
    pub wall: Duration,
    /// Peak resident memory in MB. The kernel counts the parent's memory at the fork too: measure
    /// from a small parent only.
    pub peak_mb: f64,
    /// What it printed.
    pub output: String,
}

/// Runs `command` to its end; panics when it fails.
#[allow(clippy::zombie_processes)] // wait4 waits for it, and tells its memory
pub fn run(command: &mut Command) -> Used {
    let start = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut output = String::new();
    child
        .stdout
        .take()
        .expect("piped")
        .read_to_string(&mut output)
        .expect("text");
    let pid = libc::pid_t::try_from(child.id()).expect("a pid");
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value of a plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call; the child is ours and not waited for yet.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    let wall = start.elapsed();
    assert!(waited == pid && status == 0, "{command:?} failed");
    Used {
        wall,
        peak_mb: usage.ru_maxrss as f64 / 1024.0,
        output,
    }
}

/// This program as the helper `name`.
pub fn helper(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command.args(["helper", name]);
    command
}

/// The `key value` lines that a helper prints.
pub fn values(output: &str) -> BTreeMap<String, f64> {
    output
        .lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.parse().ok()?))
        })
        .collect()
}

/// True when a program of this name can be started.
pub fn installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// Runs `work` and returns how far resident memory rose above what it was before, in MB.
pub fn transient_mb(work: impl FnOnce()) -> f64 {
    // SAFETY: no arguments that could be wrong; freed memory goes back, so that it cannot hide growth.
    unsafe { libc::malloc_trim(0) };
    std::fs::write("/proc/self/clear_refs", "5").expect("peak can be reset");
    let before = status_mb("VmRSS:");
    work();
    status_mb("VmHWM:") - before
}

fn status_mb(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .expect("key");
    let kib: f64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    kib / 1024.0
}

/// CPU time of this thread: for work that never waits, free of what other processes take.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is valid for the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "a clock every kernel has");
    let part = |value: libc::c_long| u64::try_from(value).expect("positive");
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}
