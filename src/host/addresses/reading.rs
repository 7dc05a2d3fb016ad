//! Files of the host, read by a helper: they may lie on a file system that does not answer, or in a folder of
//! somebody else's who puts a FIFO in their place.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::helper::{
    Aside, Helper, Pending,
    reads::{self, Owner},
};

/// How long it is waited for one file. A file that is late is not waited for again until it was read.
const PATIENCE: Duration = Duration::from_secs(2);

static HELPER: LazyLock<Helper> = LazyLock::new(|| Helper::new("host-files", 4));
static PENDING: LazyLock<Mutex<Pending<PathBuf, io::Result<Vec<u8>>>>> =
    LazyLock::new(Mutex::default);

/// The helper that reads them, for its pulse.
pub fn helper() -> Helper {
    HELPER.clone()
}

/// The first `most` bytes of a file.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = path.to_owned();
    let read = move |aside: &Aside| reads::open(aside, &file, Owner::Anybody)?.beginning(most);
    let deadline = Instant::now() + PATIENCE;
    let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
    let answer = pending.ask(&HELPER, path.to_owned(), deadline, read);
    answer.unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer yet")))
}
