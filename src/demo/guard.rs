//! The guard: a small process that cleans up when the demo ends, however it ends.
//!
//! It waits for the end of a pipe that the demo alone holds open. So a panic (which aborts), SIGKILL
//! and a closed terminal leave no namespace, process or folder behind either.

use std::{
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Arguments: the folder, then the namespaces.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
dir=$1
shift
for netns; do
    for pid in $(ip netns pids "$netns" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
    ip netns del "$netns" 2>/dev/null
done
rm -rf -- "$dir"
"#;

/// A running guard. Dropping it lets it clean up and waits until it is done.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
}

impl Guard {
    /// Starts the guard of a folder and of namespaces, which need not exist yet.
    pub(super) fn start(dir: &Path, namespaces: &[String]) -> io::Result<Self> {
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "feedgate-guard"])
            .arg(dir)
            .args(namespaces)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C of the terminal is for the demo
            .spawn()?;
        Ok(Self { child })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_gone_after_the_drop() {
        let dir = tempfile::tempdir().unwrap().keep();
        drop(Guard::start(&dir, &[]).unwrap());
        assert!(!dir.exists());
    }
}
