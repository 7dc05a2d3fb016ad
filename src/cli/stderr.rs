//! Where the log goes: standard error, whose reader may go away or stop reading.
//!
//! Neither ends the daemon nor holds it: a line that cannot be written is lost and counted, and the
//! next one that can be written says how many were lost. Packets wait for the threads that log.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::fmt::MakeWriter;

/// How long a reader that is only slow is waited for, in milliseconds; once, until it reads again.
const PATIENCE: u16 = 50;
/// A pipe that can be written at all takes so many bytes without waiting (PIPE_BUF of pipe(7)).
const PIECE: usize = 4096;

/// A log whose every line is written as a whole, or lost.
#[derive(Debug)]
pub(super) struct Log<W> {
    out: Mutex<Lines<W>>,
}

#[derive(Debug)]
struct Lines<W> {
    out: W,
    /// Lines since the last one that was written.
    lost: u64,
}

impl Log<io::Stderr> {
    /// The log on standard error.
    pub(super) fn stderr() -> Self {
        Self::new(io::stderr())
    }
}

impl<W> Log<W> {
    fn new(out: W) -> Self {
        let out = Mutex::new(Lines { out, lost: 0 });
        Self { out }
    }
}

impl<'a, W: Write + AsFd + 'static> MakeWriter<'a> for Log<W> {
    type Writer = Turn<'a, W>;

    fn make_writer(&'a self) -> Self::Writer {
        Turn(self.out.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The right to write a line.
#[derive(Debug)]
pub(super) struct Turn<'a, W>(MutexGuard<'a, Lines<W>>);

impl<W: Write + AsFd> Write for Turn<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + AsFd> Lines<W> {
    fn write(&mut self, line: &[u8]) {
        let lost = self.lost;
        let note = format!("{lost} lines of the log are missing here: nobody read them\n");
        let note = if lost > 0 { note.as_bytes() } else { b"" };
        match self.try_write(note).and_then(|()| self.try_write(line)) {
            Some(()) => self.lost = 0,
            None => self.lost = lost.saturating_add(1),
        }
    }

    fn try_write(&mut self, text: &[u8]) -> Option<()> {
        for piece in text.chunks(PIECE) {
            self.is_writable().then_some(())?;
            self.out.write_all(piece).ok()?;
        }
        Some(())
    }

    /// A reader that was away is not waited for: each line would cost that time. One that is gone for good
    /// counts as ready: the write fails then, and does not wait.
    fn is_writable(&self) -> bool {
        let wait = PollTimeout::from(if self.lost > 0 { 0 } else { PATIENCE });
        let mut out = [PollFd::new(self.out.as_fd(), PollFlags::POLLOUT)];
        poll(&mut out, wait).is_ok_and(|ready| ready > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, time::Instant};

    use nix::unistd::pipe;

    use super::*;

    fn log() -> (File, Log<File>) {
        let (reader, writer) = pipe().unwrap();
        (reader.into(), Log::new(writer.into()))
    }

    fn write(log: &Log<File>, line: &str) {
        log.make_writer().write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn lines_arrive() {
        let (mut reader, log) = log();
        write(&log, "a\n");
        write(&log, "b\n");
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a\nb\n");
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (reader, log) = log();
        drop(reader);
        write(&log, "a\n");
        write(&log, "b\n");
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_and_learns_what_it_missed() {
        let (mut reader, log) = log();
        let line = "x".repeat(5000) + "\n";
        let start = Instant::now();
        let written = (0..1000).map(|_| write(&log, &line)).count();
        let lost = log.make_writer().0.lost;
        assert!(lost > 900, "{lost} of {written}: a pipe holds 64 KiB");
        // Each line would otherwise wait for the reader's return.
        assert!(start.elapsed().as_millis() < u128::from(PATIENCE) * 100);
        let mut buffer = vec![0; 1 << 20];
        let _ = reader.read(&mut buffer).unwrap();
        write(&log, "back\n");
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let told = format!("{lost} lines of the log are missing here");
        assert!(text.contains(&told) && text.ends_with("back\n"), "{text}");
    }
}
