//! The ID of group `feedgate`: from the file of groups, else from the name service, which may be a
//! server that does not answer and is not waited for longer than a moment.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use nix::unistd::Group;

use crate::helper::Helper;

/// The file of groups, group(5).
const FILE: &str = "/etc/group";

/// Looks groups up.
#[derive(Clone, Debug)]
pub(super) struct Finder(Helper);

impl Default for Finder {
    fn default() -> Self {
        // One that hangs is enough.
        Self(Helper::new("group-name", 1))
    }
}

impl Finder {
    /// Gives the group's ID to `take`, also when it is found after `limit` only; waits no longer.
    pub(super) fn find(
        &self,
        name: &'static str,
        limit: Duration,
        take: impl FnOnce(Option<u32>) + Send + 'static,
    ) {
        match in_file(Path::new(FILE), name) {
            Some(gid) => take(Some(gid)),
            None => self.ask(move || by_name_service(name), limit, take),
        }
    }

    fn ask(
        &self,
        look: impl FnOnce() -> Result<Option<u32>, nix::Error> + Send + 'static,
        limit: Duration,
        take: impl FnOnce(Option<u32>) + Send + 'static,
    ) {
        self.0.ask(Instant::now() + limit, move |_| match look() {
            Ok(gid) => take(gid),
            Err(e) => tracing::warn!("group lookup: {e}"),
        });
    }
}

fn by_name_service(name: &str) -> Result<Option<u32>, nix::Error> {
    Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
}

/// The ID in a line `NAME:PASSWORD:GID:MEMBERS`.
fn in_file(path: &Path, name: &str) -> Option<u32> {
    let text = fs::read(path).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        fields.nth(1)?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_group_of_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text =
            "root:x:0:\n# feedgate:x:1:\nfeedgates:x:2:\nfeedgate:x:998:anna,bo\nfeedgate:x:3:\n";
        fs::write(&file, text).unwrap();
        assert_eq!(in_file(file.path(), "feedgate"), Some(998));
        assert_eq!(in_file(file.path(), "feed"), None);
        assert_eq!(in_file(Path::new("/nowhere"), "feedgate"), None);
    }

    #[test]
    fn a_name_service_that_hangs_is_asked_once_and_not_waited_for() {
        let finder = Finder::default();
        let (answer, question) = mpsc::channel::<u32>();
        let (take, taken) = mpsc::channel();
        let start = Instant::now();
        let look = move || Ok(question.recv().ok());
        let give = move |gid| take.send(gid).unwrap();
        finder.ask(look, Duration::from_millis(5), give);
        let twice = || panic!("asked by two threads");
        finder.ask(twice, Duration::from_millis(5), |_| {});
        assert!(start.elapsed() < Duration::from_secs(30));
        answer.send(7).unwrap();
        assert_eq!(taken.recv(), Ok(Some(7)), "a late answer counts");
    }
}
