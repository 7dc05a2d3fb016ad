//! Addresses of servers: feed URLs, syslog targets, `HOST:PORT`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use toml::de::DeValue;
use url::Url;

use super::{
    Host, HostPort, Proxy, SyslogAddress,
    value::{Problem, quoted, socket, text},
};

/// The URL of a feed: `https`, `http` or `file`. No message quotes it, it may hold credentials.
pub(super) fn url(value: &DeValue<'_>) -> Result<Url, Problem> {
    const SCHEMES: &str = "write https://HOST/PATH, http://HOST/PATH or file:///PATH";
    let text = text(value)?;
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Problem::new("a URL has no spaces or control characters"));
    }
    let url = Url::parse(text)
        .map_err(|error| Problem::new(format!("not a URL: {error}")).help(SCHEMES))?;
    match url.scheme() {
        "http" | "https" if text.contains("://") => Ok(url),
        "file" => file_url(text, url),
        "http" | "https" => Err(Problem::new("not a URL: no // behind the scheme").help(SCHEMES)),
        _ => Err(Problem::new("the scheme must be https, http or file").help(SCHEMES)),
    }
}

/// `environment`, `none`, or the URL of a proxy that speaks HTTP.
pub(super) fn proxy(value: &DeValue<'_>) -> Result<Proxy, Problem> {
    match text(value)? {
        "environment" => Ok(Proxy::Environment),
        "none" => Ok(Proxy::Direct),
        _ => match url(value) {
            Ok(url) if url.scheme() != "file" => Ok(Proxy::Url(url)),
            _ => Err(Problem::new("not a proxy")
                .help("write \"environment\", \"none\" or http://HOST:PORT")),
        },
    }
}

/// `unix:PATH`, `udp:HOST:PORT`, `tcp:HOST:PORT` or `tls:HOST:PORT`.
pub(super) fn syslog(value: &DeValue<'_>) -> Result<SyslogAddress, Problem> {
    let text = text(value)?;
    let (transport, rest) = text.split_once(':').unwrap_or((text, ""));
    Ok(match transport {
        "unix" => SyslogAddress::Unix(socket(rest)?),
        "udp" => SyslogAddress::Udp(host_port(rest)?),
        "tcp" => SyslogAddress::Tcp(host_port(rest)?),
        "tls" => SyslogAddress::Tls(host_port(rest)?),
        _ => {
            return Err(
                Problem::new(format!("{} is not a syslog address", quoted(text)))
                    .help("write unix:PATH, udp:HOST:PORT, tcp:HOST:PORT or tls:HOST:PORT"),
            );
        }
    })
}

/// `ADDRESS:PORT` to listen on.
pub(super) fn listen(value: &DeValue<'_>) -> Result<SocketAddr, Problem> {
    let text = text(value)?;
    text.parse().map_err(|_| {
        Problem::new(format!("{} is not ADDRESS:PORT", quoted(text)))
            .help("write 127.0.0.1:9797 or [::1]:9797")
    })
}

/// A MAC address, with colons or dashes, as `00:00:5e:00:53:01`.
pub(super) fn mac(text: &str) -> Result<String, Problem> {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    let good = parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
    if good {
        Ok(parts.join(":").to_ascii_lowercase())
    } else {
        Err(
            Problem::new(format!("{} is not a MAC address", quoted(text)))
                .help("write six bytes in hexadecimal, such as \"00:00:5e:00:53:01\""),
        )
    }
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(target) => write!(f, "udp:{target}"),
            Self::Tcp(target) => write!(f, "tcp:{target}"),
            Self::Tls(target) => write!(f, "tls:{target}"),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Addr(addr) => SocketAddr::new(*addr, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

fn file_url(text: &str, url: Url) -> Result<Url, Problem> {
    let path = url.to_file_path().ok().filter(|path| {
        let path = path.as_os_str().as_encoded_bytes();
        !path.ends_with(b"/") && !path.iter().any(u8::is_ascii_control)
    });
    if text.contains(":///") && path.is_some() {
        Ok(url)
    } else {
        Err(Problem::new("a file URL names the absolute path of a file")
            .help("write file:///PATH, with three slashes"))
    }
}

fn host_port(text: &str) -> Result<HostPort, Problem> {
    let problem = || {
        Problem::new(format!("{} is not HOST:PORT", quoted(text)))
            .help("write 192.0.2.1:514, [2001:db8::1]:514 or log.example.net:514")
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
    let host = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(v6) => {
            let addr: Ipv6Addr = v6
                .parse()
                .map_err(|_| Problem::new(format!("{} is not an IPv6 address", quoted(v6))))?;
            Host::Addr(IpAddr::V6(addr))
        }
        None if host.contains(':') => {
            return Err(Problem::new("an IPv6 address is written in brackets")
                .help("write [2001:db8::1]:514"));
        }
        None => self::host(host).ok_or_else(problem)?,
    };
    Ok(HostPort {
        host,
        port: self::port(port)?,
    })
}

/// An IPv4 address or a name of DNS labels; underscores pass, container names have them.
fn host(text: &str) -> Option<Host> {
    if let Ok(addr) = text.parse::<Ipv4Addr>() {
        return Some(Host::Addr(IpAddr::V4(addr)));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // A last label of digits is a malformed IPv4 address (RFC 1123 section 2.1).
    let top = text.rsplit('.').next().unwrap_or_default();
    let good =
        text.len() <= 253 && text.split('.').all(label) && !top.bytes().all(|b| b.is_ascii_digit());
    good.then(|| Host::Name(text.to_owned()))
}

fn port(text: &str) -> Result<u16, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|port| digits && *port != 0)
        .ok_or_else(|| {
            Problem::new(format!("{} is not a port", quoted(text)))
                .help("a port is from 1 to 65535")
        })
}
