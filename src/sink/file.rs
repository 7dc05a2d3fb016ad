//! The JSON file: one ECS event a line.
//!
//! Opened to append, so that a rotation may truncate it; a rotation that renames it is followed
//! by a reopen (SIGHUP).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::worker::{SendError, Transport};
use crate::alert::{
    ecs::{Observer, ecs, ecs_loss, to_line},
    line::Event,
};

/// An open JSON file.
pub(super) struct JsonFile {
    path: PathBuf,
    observer: Observer,
    file: File,
    /// Rest of a line that was written in part (a full disk): it comes before anything else.
    rest: Vec<u8>,
}

impl JsonFile {
    /// Opens `path` to append, and creates it with mode 0640; its folder must exist.
    pub(super) fn open(path: &Path, observer: Observer) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            observer,
            file: open(path)?,
            rest: Vec::new(),
        })
    }

    fn event(&self, event: Event<'_>) -> Value {
        match event {
            Event::Alert(alert) => ecs(alert, &self.observer),
            Event::Lost(loss) => ecs_loss(loss, &self.observer),
        }
    }

    /// Writes what is left of a line, in one call unless the system takes less.
    fn flush(&mut self) -> io::Result<()> {
        while !self.rest.is_empty() {
            match self.file.write(&self.rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => drop(self.rest.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Transport for JsonFile {
    fn send(&mut self, event: Event<'_>) -> Result<(), SendError> {
        if self.rest.is_empty() {
            self.rest = to_line(&self.event(event)).into_bytes();
            self.rest.push(b'\n');
        }
        self.flush().map_err(SendError::Broken)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        self.rest.clear(); // the event is still in the queue and is written whole
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}
