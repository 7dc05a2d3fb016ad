//! The JSON file: one event a line, in the form that the configuration names.

use std::{io, path::Path};

use serde_json::Value;

use super::{
    lines::LineFile,
    worker::{SendError, Transport},
};
use crate::{
    alert::{
        ecs::{Observer, ecs, ecs_loss, to_line},
        eve::{eve, eve_loss},
        line::Event,
        ocsf::{ocsf, ocsf_loss},
    },
    config::JsonFormat,
};

/// An open JSON file.
pub(super) struct JsonFile {
    file: LineFile,
    format: JsonFormat,
    observer: Observer,
    /// A line that could not be written yet.
    line: Vec<u8>,
}

impl JsonFile {
    /// Opens `path` to append, and creates it with mode 0640, its folder too.
    pub(super) fn open(path: &Path, format: JsonFormat, observer: Observer) -> io::Result<Self> {
        Ok(Self {
            file: LineFile::create(path)?,
            format,
            observer,
            line: Vec::new(),
        })
    }

    fn event(&self, event: Event<'_>) -> Value {
        let observer = &self.observer;
        match (self.format, event) {
            (JsonFormat::Ecs, Event::Alert(alert)) => ecs(alert, observer),
            (JsonFormat::Ecs, Event::Lost(loss)) => ecs_loss(loss, observer),
            (JsonFormat::Eve, Event::Alert(alert)) => eve(alert, observer),
            (JsonFormat::Eve, Event::Lost(loss)) => eve_loss(loss, observer),
            (JsonFormat::Ocsf, Event::Alert(alert)) => ocsf(alert, observer),
            (JsonFormat::Ocsf, Event::Lost(loss)) => ocsf_loss(loss, observer),
        }
    }
}

impl Transport for JsonFile {
    fn send(&mut self, event: Event<'_>) -> Result<(), SendError> {
        if self.line.is_empty() {
            self.line = to_line(&self.event(event)).into_bytes();
            self.line.push(b'\n');
        }
        self.file.append(&self.line).map_err(SendError::Broken)?;
        self.line.clear();
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file.reopen()
    }
}
