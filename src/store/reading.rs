//! Which feeds' updates are being read, for a daemon that dies of one: the next one counts that death, and
//! after [`TOO_OFTEN`] of them leaves the update alone.
//!
//! `STATE/feeds/NAME.reading` holds the deaths so far, and `now` while the update is being read. It need not
//! survive a loss of power, which no update causes: it is not brought to the disk.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::feed::FeedName;

/// So many deaths in a row while a feed's update was read, and it is not read again by itself.
pub const TOO_OFTEN: u32 = 2;

const ENDS: &str = ".reading";
const NOW: &str = "now";

/// The marks in the folder of feeds. What the disk does not take is lost: a mark less protects less, and
/// stops nothing.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The daemon stops by itself: an end of the process is no death from here on.
    ended: AtomicBool,
}

impl Marks {
    pub(super) fn begin(&self, feeds: &Path, feed: &FeedName, deaths: u32) {
        if !self.ended.load(Ordering::Relaxed) {
            write(feeds, feed, &format!("{deaths} {NOW}\n"));
        }
    }

    pub(super) fn end(&self, feeds: &Path, feed: &FeedName, deaths: u32) {
        rest(feeds, feed, deaths);
    }

    pub(super) fn stop(&self, feeds: &Path) {
        self.ended.store(true, Ordering::Relaxed);
        for (feed, (deaths, _)) in all(feeds) {
            rest(feeds, &feed, deaths);
        }
    }

    /// Counts the deaths: called once, before anything is read.
    pub(super) fn deaths(&self, feeds: &Path) -> BTreeMap<FeedName, u32> {
        let count = |(feed, (deaths, reading)): (FeedName, (u32, bool))| {
            let deaths = deaths.saturating_add(u32::from(reading));
            rest(feeds, &feed, deaths);
            (feed, deaths)
        };
        all(feeds).into_iter().map(count).collect()
    }
}

fn rest(feeds: &Path, feed: &FeedName, deaths: u32) {
    if deaths > 0 {
        write(feeds, feed, &format!("{deaths}\n"));
    } else if let Err(e) = fs::remove_file(feeds.join(format!("{feed}{ENDS}")))
        && e.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!("feed {feed}: its mark stays: {e}");
    }
}

fn write(feeds: &Path, feed: &FeedName, text: &str) {
    if let Err(e) = fs::write(feeds.join(format!("{feed}{ENDS}")), text) {
        tracing::debug!("feed {feed}: no mark that its update is being read: {e}");
    }
}

/// Every mark: deaths, and whether the update was being read. A torn one was just being written.
fn all(feeds: &Path) -> BTreeMap<FeedName, (u32, bool)> {
    let mark = |entry: fs::DirEntry| {
        let file = entry.file_name();
        let feed = file.to_str()?.strip_suffix(ENDS)?.parse().ok()?;
        let text = fs::read_to_string(entry.path()).ok()?;
        let mut words = text.split_whitespace();
        let deaths = words.next().and_then(|word| word.parse().ok());
        let reading = deaths.is_none() || words.next() == Some(NOW);
        Some((feed, (deaths.unwrap_or(0), reading)))
    };
    let entries = fs::read_dir(feeds).into_iter().flatten().flatten();
    entries.filter_map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(folder: &Path) -> (Marks, u32) {
        let marks = Marks::default();
        let deaths = marks.deaths(folder);
        (marks, deaths.into_values().next().unwrap_or(0))
    }

    #[test]
    fn deaths_in_a_row_are_counted_until_an_update_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, feed) = (folder.path(), "f".parse().unwrap());
        let (marks, deaths) = next(folder);
        assert_eq!(deaths, 0);
        marks.begin(folder, &feed, deaths);
        let (marks, deaths) = next(folder);
        assert_eq!(deaths, 1);
        // A death of another cause, with nothing being read.
        let (_, deaths_again) = next(folder);
        assert_eq!(deaths_again, 1);
        marks.begin(folder, &feed, deaths);
        let (marks, deaths) = next(folder);
        assert_eq!(deaths, TOO_OFTEN);
        marks.begin(folder, &feed, deaths);
        marks.end(folder, &feed, 0);
        assert_eq!(next(folder).1, 0);
    }

    #[test]
    fn a_stop_is_no_death() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, feed) = (folder.path(), "f".parse().unwrap());
        let (marks, _) = next(folder);
        marks.begin(folder, &feed, 0);
        marks.stop(folder);
        marks.begin(folder, &feed, 0);
        assert_eq!(next(folder).1, 0);
        let (marks, _) = next(folder);
        marks.begin(folder, &feed, 1);
        marks.stop(folder);
        assert_eq!(next(folder).1, 1);
    }

    #[test]
    fn a_torn_mark_is_one() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("f.reading"), "").unwrap();
        assert_eq!(next(folder.path()).1, 1);
    }

    #[test]
    fn a_folder_that_is_not_there_has_none() {
        let (marks, deaths) = next(Path::new("/nonexistent"));
        assert_eq!(deaths, 0);
        marks.begin(Path::new("/nonexistent"), &"f".parse().unwrap(), 0);
    }
}
