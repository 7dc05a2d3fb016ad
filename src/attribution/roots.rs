//! Where the kernel's file systems are mounted.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::{clients::ClientFiles, containers::RuntimeRoots};

/// Folders and files that attribution reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// procfs.
    pub proc: PathBuf,
    /// cgroup2.
    pub cgroup: PathBuf,
    /// Files of container runtimes.
    pub runtimes: RuntimeRoots,
    /// Files that name LAN clients.
    pub clients: ClientFiles,
}

impl Roots {
    /// With the cgroup2 mount that `proc`/self/mountinfo names: /sys/fs/cgroup, or
    /// /sys/fs/cgroup/unified beside cgroup v1.
    pub fn with_proc(proc: &Path) -> Self {
        let mounts = fs::read(proc.join("self/mountinfo")).unwrap_or_default();
        Self {
            proc: proc.to_owned(),
            cgroup: cgroup2_mount(&mounts).unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup")),
            runtimes: RuntimeRoots::default(),
            clients: ClientFiles::default(),
        }
    }
}

/// Those of this host.
impl Default for Roots {
    fn default() -> Self {
        Self::with_proc(Path::new("/proc"))
    }
}

/// `ID PARENT DEV ROOT MOUNTPOINT OPTIONS ... - TYPE SOURCE OPTIONS` (proc_pid_mountinfo(5)). A
/// mount of the whole hierarchy is preferred to one of a part.
fn cgroup2_mount(mountinfo: &[u8]) -> Option<PathBuf> {
    let mounts = || {
        mountinfo.split(|&byte| byte == b'\n').filter_map(|line| {
            let mut fields = line.split(|&byte| byte == b' ');
            let root = fields.nth(3)?;
            let point = fields.next()?;
            let kind = fields.skip_while(|&field| field != b"-").nth(1)?;
            (kind == b"cgroup2").then_some((root, point))
        })
    };
    let (_, point) = mounts()
        .find(|&(root, _)| root == b"/")
        .or_else(|| mounts().next())?;
    Some(PathBuf::from(OsString::from_vec(unescape(point))))
}

/// Spaces and the like are written `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        let code = (byte == b'\\')
            .then(|| behind.get(..3).and_then(octal))
            .flatten();
        out.push(code.unwrap_or(byte));
        rest = match code {
            Some(_) => behind.get(3..).unwrap_or_default(),
            None => behind,
        };
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found() {
        let mount = |text: &str| cgroup2_mount(text.as_bytes());
        let hybrid = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let part =
            "1 2 0:3 /a /part rw - cgroup2 c rw\n1 2 0:3 / /my\\040mount rw - cgroup2 c rw\n";
        assert_eq!(mount(part), Some(PathBuf::from("/my mount")));
        assert_eq!(mount("1 2 3\n- cgroup2\n\n"), None);
    }

    #[test]
    fn a_host_without_a_mount_gets_the_usual_place() {
        let roots = Roots::with_proc(Path::new("/nowhere"));
        assert_eq!(roots.cgroup, PathBuf::from("/sys/fs/cgroup"));
    }
}
