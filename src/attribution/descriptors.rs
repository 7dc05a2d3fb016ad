//! The descriptors of a process, a part at a time.
//!
//! To list 15,000 of them takes the kernel some 20 ms and cannot be interrupted, and reading where each
//! leads takes several times as long. So the numbers at both ends come first, where new descriptors
//! mostly are, and the rest in parts that the caller may leave out.

use std::{
    fs::File,
    io::{Result, Seek, SeekFrom},
    path::PathBuf,
};

use nix::{
    errno::Errno,
    fcntl::readlinkat,
    sys::statfs::{PROC_SUPER_MAGIC, fstatfs},
};

use super::{kernel::list_folder, process::read_limited};

/// Bytes of one part of a list: 256 descriptors of five digits.
const PART: usize = 8192;
/// Where an entry of a list has its own length, and its name (getdents64(2)).
const LENGTH_AT: usize = 16;
const NAME_AT: usize = 19;
/// Descriptors of the upper end that are looked for.
const END: u32 = 256;
/// Most descriptors taken there.
const MOST: usize = 1024;
/// Most bytes read of a status file.
const MAX_STATUS: u64 = 64 * 1024;
/// In a folder of descriptors, number N is at this place and N (fs/proc/fd.c).
const FIRST: u64 = 2;

/// Where the descriptors of a process, or of a thread with its own, are listed.
pub(super) struct Descriptors {
    /// PROC/PID or PROC/PID/task/TID.
    owner: PathBuf,
    /// Its folder of descriptors, while it is searched.
    folder: Option<File>,
    /// All below it were given out.
    next: u32,
    /// All from it on were given out.
    end: u32,
}

/// How the search among descriptors for one that leads to a target ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    At(u32),
    None,
    /// The owner may list them, only CAP_SYS_PTRACE may see where they lead.
    Denied,
}

impl Descriptors {
    pub(super) fn of(owner: PathBuf) -> Self {
        Self {
            owner,
            folder: None,
            next: 0,
            end: u32::MAX,
        }
    }

    /// The descriptors of both ends, the highest first; all of them where they are few.
    ///
    /// # Errors
    /// Where they may not be listed, or the process has ended.
    pub(super) fn ends(&mut self) -> Result<Vec<u32>> {
        let mut folder = self.open()?;
        let mut low = part(&folder)?;
        let mut more = part(&folder)?;
        let is_large = !more.is_empty();
        // Another file system cannot be asked for the upper end.
        let whole = is_large && !is_proc(&folder);
        while whole && !more.is_empty() {
            low.append(&mut more);
            more = part(&folder)?;
        }
        low.append(&mut more);
        low.sort_unstable_by(|a, b| b.cmp(a));
        let mut found = Vec::new();
        if !is_large || whole {
            self.next = self.end;
        } else {
            self.next = low.first().map_or(0, |highest| highest.saturating_add(1));
            found = self.top(&mut folder)?;
        }
        found.append(&mut low);
        self.folder = Some(folder);
        Ok(found)
    }

    /// True when [`Descriptors::ends`] were not all.
    pub(super) fn has_more(&self) -> bool {
        self.next < self.end
    }

    /// The next part of what is left, the highest first; empty: nothing is left.
    pub(super) fn more(&mut self) -> Vec<u32> {
        if !self.has_more() {
            return Vec::new();
        }
        let listed = self
            .open()
            .and_then(|mut folder| from(&mut folder, self.next));
        let mut found = listed.unwrap_or_default();
        found.retain(|&fd| fd < self.end);
        found.sort_unstable_by(|a, b| b.cmp(a));
        self.next = match found.first() {
            Some(highest) => highest.saturating_add(1),
            None => self.end,
        };
        found
    }

    /// The highest of these that leads to `target`, `socket:[INODE]`.
    pub(super) fn first_to(&mut self, fds: &[u32], target: &str) -> Link {
        if self.folder.is_none() {
            self.folder = self.open().ok();
        }
        let Some(folder) = &self.folder else {
            return Link::None;
        };
        for &fd in fds {
            match readlinkat(folder, fd.to_string().as_str()) {
                Ok(found) if found.as_os_str() == target => return Link::At(fd),
                Err(Errno::EACCES | Errno::EPERM) => return Link::Denied,
                Ok(_) | Err(_) => {}
            }
        }
        Link::None
    }

    /// Keeps no file open until it is searched again.
    pub(super) fn close(&mut self) {
        self.folder = None;
    }

    fn open(&self) -> Result<File> {
        File::open(self.owner.join("fd"))
    }

    /// The descriptors of the upper end. The table has a power of two of places, so it is looked in the
    /// last ones first, then in twice as many before those.
    fn top(&mut self, folder: &mut File) -> Result<Vec<u32>> {
        let (mut end, mut width) = (self.places(), END);
        while end > self.next {
            let start = end.saturating_sub(width).max(self.next);
            let mut found = Vec::new();
            let mut more = from(folder, start)?;
            while !more.is_empty() && found.len() < MOST {
                found.append(&mut more);
                more = part(folder)?;
            }
            if !found.is_empty() {
                if more.is_empty() {
                    self.end = start;
                }
                found.sort_unstable_by(|a, b| b.cmp(a));
                return Ok(found);
            }
            (end, width) = (start, width.saturating_mul(2));
        }
        Ok(Vec::new())
    }

    /// Places of the table of descriptors; 0: not known.
    fn places(&self) -> u32 {
        let text = read_limited(&self.owner.join("status"), MAX_STATUS).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().find_map(|line| line.strip_prefix("FDSize:"));
        line.and_then(|places| places.trim().parse().ok())
            .unwrap_or(0)
    }
}

/// One part from number `first` on.
fn from(folder: &mut File, first: u32) -> Result<Vec<u32>> {
    folder.seek(SeekFrom::Start(FIRST + u64::from(first)))?;
    part(folder)
}

/// The next part of a list of numbers, in the folder's order; empty at its end.
fn part(folder: &File) -> Result<Vec<u32>> {
    let mut bytes = [0; PART];
    loop {
        let length = list_folder(folder, &mut bytes)?;
        let numbers = numbers(bytes.get(..length).unwrap_or_default());
        // The first part may be `.` and `..` alone.
        if length == 0 || !numbers.is_empty() {
            return Ok(numbers);
        }
    }
}

/// The numbers among the names of `struct linux_dirent64`.
fn numbers(mut entries: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    while let Some(length) = entries.get(LENGTH_AT..).and_then(|rest| rest.first_chunk()) {
        let length = usize::from(u16::from_ne_bytes(*length)).max(NAME_AT);
        let name = entries.get(NAME_AT..length).unwrap_or_default();
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        found.extend(
            std::str::from_utf8(name)
                .ok()
                .and_then(|name| name.parse::<u32>().ok()),
        );
        entries = entries.get(length..).unwrap_or_default();
    }
    found
}

fn is_proc(folder: &File) -> bool {
    fstatfs(folder).is_ok_and(|stat| stat.filesystem_type() == PROC_SUPER_MAGIC)
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        collections::BTreeSet, os::fd::AsRawFd, os::unix::fs::symlink, path::Path, process::Command,
    };

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    /// All in the order they are given out, each part by itself.
    fn all(mut descriptors: Descriptors) -> Vec<Vec<u32>> {
        let mut parts = vec![descriptors.ends().unwrap()];
        loop {
            let more = descriptors.more();
            if more.is_empty() {
                return parts;
            }
            parts.push(more);
        }
    }

    /// A process with standard input at these numbers too, and a UDP socket at one; gone on drop.
    pub(in crate::attribution) struct Holder(std::process::Child);

    impl Holder {
        pub(in crate::attribution) fn with(
            numbers: impl IntoIterator<Item = u32>,
            socket: u32,
        ) -> Self {
            let mut script = "ulimit -n 8192\n".to_owned();
            for number in numbers {
                script.push_str(&format!("exec {number}<&0\n"));
            }
            script.push_str(&format!(
                "exec {socket}<>/dev/udp/127.0.0.1/9; echo; read -r _"
            ));
            let mut child = Command::new("bash")
                .args(["-c", &script])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut ready = [0];
            let stdout = child.stdout.as_mut().unwrap();
            std::io::Read::read_exact(stdout, &mut ready).unwrap();
            Self(child)
        }

        pub(in crate::attribution) fn pid(&self) -> u32 {
            self.0.id()
        }

        fn descriptors(&self) -> Descriptors {
            Descriptors::of(Path::new("/proc").join(self.pid().to_string()))
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn few_are_given_at_once_the_newest_first() {
        let holder = Holder::with(10..20, 15);
        let parts = all(holder.descriptors());
        assert_eq!(parts.len(), 1);
        assert!(parts[0].is_sorted_by(|a, b| a > b));
        assert!((10..20).all(|fd| parts[0].contains(&fd)));
    }

    #[test]
    fn both_ends_come_first_and_each_number_is_there() {
        for ranges in [
            vec![10..1000, 1000..3000],
            vec![10..700, 3500..3600],
            vec![10..600, 4000..4001],
        ] {
            let holder = Holder::with(ranges.iter().cloned().flatten(), 20);
            let parts = all(holder.descriptors());
            let (lowest, highest) = (0, ranges.last().unwrap().end - 1);
            assert!(
                parts[0].contains(&lowest) && parts[0].contains(&highest),
                "{ranges:?}"
            );
            assert!(parts[0].len() < 1600, "{}", parts[0].len());
            let seen: BTreeSet<u32> = parts.into_iter().flatten().collect();
            assert!(ranges.into_iter().flatten().all(|fd| seen.contains(&fd)));
        }
    }

    #[test]
    fn another_file_system_gives_all_of_them() {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("fd")).unwrap();
        for fd in 0..600 {
            symlink(
                format!("socket:[{fd}]"),
                folder.path().join(format!("fd/{fd}")),
            )
            .unwrap();
        }
        let mut descriptors = Descriptors::of(folder.path().to_owned());
        let fds = descriptors.ends().unwrap();
        assert_eq!(fds, (0..600).rev().collect::<Vec<_>>());
        assert!(descriptors.more().is_empty());
        assert_eq!(descriptors.first_to(&fds, "socket:[7]"), Link::At(7));
        assert_eq!(descriptors.first_to(&fds, "socket:[600]"), Link::None);
    }

    #[test]
    fn a_socket_is_found_by_its_inode() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = u32::try_from(socket.as_raw_fd()).unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        let mut own = Descriptors::of("/proc/self".into());
        let fds = own.ends().unwrap();
        assert_eq!(own.first_to(&fds, link.to_str().unwrap()), Link::At(fd));
        assert!(Descriptors::of("/proc/none".into()).ends().is_err());
    }

    proptest! {
        #[test]
        fn any_list_ends(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(numbers(&bytes).len() <= bytes.len() / NAME_AT);
        }
    }
}
