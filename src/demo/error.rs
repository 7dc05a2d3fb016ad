//! Why the demo stopped.

use std::io;

use super::{daemon::DaemonError, netns::NetnsError};

/// The demo did not run, or a step was not as expected.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Not enough privileges.
    #[error(
        "the demo makes network namespaces and needs root (missing: {missing}); try: sudo feedgate demo"
    )]
    NotRoot {
        /// The missing capabilities.
        missing: String,
    },
    /// A program is missing.
    #[error("the demo needs `{tool}`, which is not in PATH: install the package {package}")]
    Missing {
        /// The program.
        tool: &'static str,
        /// Its package.
        package: &'static str,
    },
    /// A step did not come out as it must.
    #[error("expected: {expected}\ncame:     {got}")]
    Unexpected {
        /// What should have come.
        expected: String,
        /// What came.
        got: String,
    },
    /// Ctrl-C, SIGTERM or SIGHUP.
    #[error("interrupted; everything was taken down")]
    Interrupted,
    /// Something of the lab could not be made.
    #[error("{what}: {source}")]
    Io {
        /// The thing.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The namespaces could not be made.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The daemon did not start.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
}

impl DemoError {
    /// The exit code of the command: 77 without privileges, 130 when interrupted, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotRoot { .. } => 77,
            Self::Interrupted | Self::Daemon(DaemonError::Interrupted) => 130,
            _ => 1,
        }
    }

    /// Names the thing an error of the system is about.
    pub(super) fn io(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let error = DemoError::NotRoot {
            missing: "CAP_NET_ADMIN".into(),
        };
        assert_eq!(error.exit_code(), 77);
        assert_eq!(DemoError::Interrupted.exit_code(), 130);
        assert_eq!(DemoError::Daemon(DaemonError::Interrupted).exit_code(), 130);
    }
}
