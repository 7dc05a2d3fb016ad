//! The TLS part of a `tls:` target (RFC 5425): certificates, handshake, what the receiver says.
//!
//! The files are read for each connection, so that renewed certificates are used at the next one.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;

use super::stream::{CONNECT, Socket, drain};
use crate::config::{Host, TlsFiles};

/// Longest PEM file in bytes; a bundle of all public CAs is a quarter of that.
const LONGEST: u64 = 1 << 20;
/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;
/// Any permission of others.
const OTHERS: u32 = 0o007;
/// How long a receiver may take to refuse our certificate after the handshake: with TLS 1.3 it
/// sees it last, and lines sent meanwhile would be lost. Most answer at once, with a session ticket.
const VERDICT: Duration = Duration::from_millis(500);

/// What is needed to connect.
pub(super) struct Client {
    host: Host,
    files: TlsFiles,
}

/// One TLS connection over a socket.
pub(super) struct Session(ClientConnection);

impl Client {
    pub(super) fn new(host: Host, files: TlsFiles) -> Self {
        Self { host, files }
    }

    /// Agrees on keys, checks the server's certificate and name.
    pub(super) fn handshake(&self, socket: &mut Socket) -> io::Result<Session> {
        socket.stream().set_read_timeout(Some(CONNECT))?;
        socket.stream().set_write_timeout(Some(CONNECT))?;
        let name = match &self.host {
            Host::Addr(addr) => ServerName::IpAddress((*addr).into()),
            Host::Name(name) => ServerName::try_from(name.clone())
                .map_err(|_| other(format!("{name} cannot be the name of a TLS server")))?,
        };
        let config = self.config()?;
        let mut connection = ClientConnection::new(Arc::new(config), name)
            .map_err(|error| other(format!("TLS: {error}")))?;
        let end = Instant::now() + CONNECT;
        while connection.is_handshaking() {
            if Instant::now() > end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "TLS: the server does not finish the handshake",
                ));
            }
            let done = connection.complete_io(socket);
            done.map_err(|error| self.explain(error))?;
        }
        let mut session = Session(connection);
        session.flush(socket)?;
        session
            .wait_for_verdict(socket)
            .map_err(|error| self.explain(error))?;
        Ok(session)
    }

    fn config(&self) -> io::Result<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| other(format!("TLS: {error}")))?;
        let builder = match &self.files.ca {
            Some(path) => builder.with_root_certificates(roots(path)?),
            None => builder
                .with_platform_verifier()
                .map_err(|error| other(format!("TLS: the system's CA certificates: {error}")))?,
        };
        match (&self.files.cert, &self.files.key) {
            (Some(cert), Some(key)) => builder
                .with_client_auth_cert(certificates("cert-file", cert)?, private_key(key)?)
                .map_err(|error| {
                    let (cert, key) = (cert.display(), key.display());
                    other(format!("cert-file {cert} and key-file {key}: {error}"))
                }),
            _ => Ok(builder.with_no_client_auth()),
        }
    }

    /// Some servers close without a word when they want another certificate.
    fn explain_end(&self, error: io::Error) -> io::Error {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        if !matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) {
            return io::Error::new(error.kind(), format!("TLS: {error}"));
        }
        let hint = match self.files.cert {
            Some(_) => "it may not trust our certificate (cert-file)",
            None => "it may ask for a certificate (cert-file)",
        };
        other(format!(
            "TLS: the server refuses us: it closed the connection; {hint}"
        ))
    }

    /// What to do about it, where the library's words do not tell.
    fn explain(&self, error: io::Error) -> io::Error {
        use rustls::{AlertDescription, CertificateError as Bad, Error};
        let Some(cause) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) else {
            return self.explain_end(error);
        };
        let ca = match &self.files.ca {
            Some(path) => format!("ca-file {}", path.display()),
            None => "the system; set ca-file for an own CA".to_owned(),
        };
        other(match cause {
            Error::InvalidCertificate(Bad::UnknownIssuer) => {
                format!("TLS: the server's certificate is not signed by a CA of {ca}")
            }
            Error::InvalidCertificate(
                Bad::NotValidForName | Bad::NotValidForNameContext { .. },
            ) => format!("TLS: the server's certificate is for another name: {cause}"),
            Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::HandshakeFailure
                | AlertDescription::BadCertificate
                | AlertDescription::AccessDenied
                | AlertDescription::UnknownCA,
            ) if self.files.cert.is_none() => {
                format!(
                    "TLS: the server refuses us, it may ask for a certificate (cert-file): {cause}"
                )
            }
            Error::AlertReceived(_) => format!("TLS: the server refuses us: {cause}"),
            _ => format!("TLS: {cause}"),
        })
    }
}

impl Session {
    /// Takes a line to be sent by [`Self::flush`].
    pub(super) fn take(&mut self, line: &[u8]) -> io::Result<()> {
        self.0.writer().write_all(line)
    }

    /// Sends what was taken.
    pub(super) fn flush(&mut self, socket: &mut Socket) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(socket)?;
        }
        Ok(())
    }

    /// Hears what the receiver says, without waiting. False when it has closed.
    pub(super) fn listen(&mut self, socket: &mut Socket) -> io::Result<bool> {
        while readable(socket, Duration::ZERO)? {
            match self.0.read_tls(socket) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
            let state = self
                .0
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let mut said = vec![0; state.plaintext_bytes_to_read()];
            self.0.reader().read_exact(&mut said)?;
            if state.peer_has_closed() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Says that nothing more comes.
    pub(super) fn close(&mut self, socket: &mut Socket) {
        self.0.send_close_notify();
        let _ = self.flush(socket); // it may be gone
        drain(socket.stream());
    }

    fn wait_for_verdict(&mut self, socket: &mut Socket) -> io::Result<()> {
        if readable(socket, VERDICT)? && !self.listen(socket)? {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

fn readable(socket: &Socket, limit: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(socket.stream().as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
    match poll(&mut fds, limit) {
        Ok(count) => Ok(count > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn roots(path: &Path) -> io::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates("ca-file", path)? {
        store
            .add(certificate)
            .map_err(|error| other(format!("ca-file {}: {error}", path.display())))?;
    }
    Ok(store)
}

fn certificates(key: &str, path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let text = read(key, path, OTHERS_WRITE)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(file_error(key, path, "no certificate in it")),
        Err(error) => Err(file_error(key, path, error)),
    }
}

fn private_key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    let text = read("key-file", path, OTHERS_WRITE | OTHERS)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| file_error("key-file", path, error))
}

/// The text of a file of which nobody has the permissions `forbidden`.
fn read(key: &str, path: &Path, forbidden: u32) -> io::Result<Vec<u8>> {
    let failed = |error: io::Error| file_error(key, path, error);
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() > LONGEST {
        return Err(file_error(key, path, "not a regular file of at most 1 MiB"));
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & forbidden != 0 {
        let what = if key == "key-file" {
            "others may read or write it"
        } else {
            "others may write it"
        };
        return Err(file_error(
            key,
            path,
            format!("its mode is {mode:04o}: {what}"),
        ));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

fn file_error(key: &str, path: &Path, cause: impl std::fmt::Display) -> io::Error {
    other(format!("{key} {}: {cause}", path.display()))
}

fn other(text: String) -> io::Error {
    io::Error::other(text)
}
