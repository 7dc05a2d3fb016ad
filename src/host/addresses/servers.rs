//! The servers that the administrator named for logs and as proxies, and the Kubernetes API: were one of
//! them listed, the host could cut its own supply.
//!
//! Not the servers of feeds: whoever answers for such a name, the feed's operator before all, could
//! else switch protection off for addresses of his choice. The daemon's own flows pass whatever
//! lists them.

use std::{collections::BTreeSet, env, io, net::IpAddr, time::Duration};

use tokio::{
    net::lookup_host,
    task::{JoinSet, spawn_blocking},
    time::timeout,
};
use url::Url;

use super::{LifelineError, Lifelines, Roots, kubernetes};
use crate::config::{Config, Host, Proxy, SyslogAddress};

/// Addresses that are taken of one name, so that an answer cannot except whole networks.
const MOST: usize = 16;

/// Addresses of remote syslog servers, of the proxies and of the Kubernetes API, names resolved in
/// parallel, each within `limit`.
pub async fn servers(config: &Config, roots: &Roots, limit: Duration) -> Lifelines {
    let proxies: Vec<Server> = match &config.pull.proxy {
        Proxy::Environment => {
            let set = env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_proxy));
            set.filter_map(|(_, url)| proxy(url.to_str()?)).collect()
        }
        Proxy::Direct => Vec::new(),
        Proxy::Url(url) => host(url)
            .into_iter()
            .map(|host| Server {
                host,
                what: "proxy of pull.proxy".to_owned(),
            })
            .collect(),
    };
    let roots = roots.clone();
    let read = move || kubernetes::servers(&roots, env::var_os(kubernetes::VARIABLE));
    // Files are waited for; other tasks of this thread must not.
    let (api, bad) = spawn_blocking(read).await.unwrap_or_default();
    let api = api.into_iter().map(|host| Server {
        host,
        what: "Kubernetes API".to_owned(),
    });
    let servers = syslog(config).chain(proxies).chain(api);
    let mut lookups = JoinSet::new();
    for server in servers {
        lookups.spawn(server.resolve(limit));
    }
    let mut found = Lifelines::default();
    found
        .problems
        .extend(bad.into_iter().map(|(file, cause)| LifelineError::Read {
            file,
            what: "Kubernetes API server",
            cause,
        }));
    for part in lookups.join_all().await {
        match part {
            Ok(part) => found.join(part),
            Err(problem) => found.problems.push(problem),
        }
    }
    found.sorted()
}

/// A host of the configuration and what it is for.
struct Server {
    host: Host,
    what: String,
}

impl Server {
    async fn resolve(self, limit: Duration) -> Result<Lifelines, LifelineError> {
        let Self { host, what } = self;
        let name = match host {
            Host::Addr(addr) => {
                let addrs = BTreeSet::from([addr]);
                return Ok(lifelines(addr.to_string(), what, addrs));
            }
            Host::Name(name) => name,
        };
        let host = name.clone();
        let addrs = match timeout(limit, lookup_host((name, 0))).await {
            Ok(Ok(addrs)) => addrs,
            Ok(Err(cause)) => return Err(LifelineError::Resolve { host, what, cause }),
            Err(_) => return Err(LifelineError::ResolveTimeout { host, what, limit }),
        };
        let addrs: BTreeSet<IpAddr> = addrs.map(|addr| addr.ip()).collect();
        if addrs.is_empty() {
            let cause = io::Error::from(io::ErrorKind::NotFound);
            return Err(LifelineError::Resolve { host, what, cause });
        }
        Ok(lifelines(host, what, addrs))
    }
}

/// The first [`MOST`] addresses, whatever the order of the answer.
fn lifelines(host: String, what: String, addrs: BTreeSet<IpAddr>) -> Lifelines {
    let mut found = Lifelines::default();
    let is_cut = addrs.len() > MOST;
    let taken = addrs.into_iter().take(MOST);
    found
        .exceptions
        .extend(taken.map(|addr| super::host(addr, what.clone())));
    let most = MOST;
    if is_cut {
        let problem = LifelineError::ManyAddresses { host, what, most };
        found.problems.push(problem);
    }
    found
}

fn syslog(config: &Config) -> impl Iterator<Item = Server> {
    config.alerts.syslog.iter().filter_map(|target| {
        let (SyslogAddress::Udp(to) | SyslogAddress::Tcp(to) | SyslogAddress::Tls(to)) =
            &target.address
        else {
            return None;
        };
        Some(Server {
            host: to.host.clone(),
            what: "syslog server".to_owned(),
        })
    })
}

/// The variables that the HTTP client reads.
fn is_proxy(name: &str) -> bool {
    ["http_proxy", "https_proxy", "all_proxy"]
        .iter()
        .any(|proxy| proxy.eq_ignore_ascii_case(name))
}

/// A proxy may be written without a scheme.
fn proxy(text: &str) -> Option<Server> {
    let url = if text.contains("://") {
        Url::parse(text)
    } else {
        Url::parse(&format!("http://{text}"))
    };
    Some(Server {
        host: host(&url.ok()?)?,
        what: "proxy of the environment".to_owned(),
    })
}

fn host(url: &Url) -> Option<Host> {
    Some(match url.host()? {
        url::Host::Ipv4(addr) => Host::Addr(addr.into()),
        url::Host::Ipv6(addr) => Host::Addr(addr.into()),
        // Schemes the url crate does not know keep addresses as names.
        url::Host::Domain(name) => name
            .parse::<IpAddr>()
            .map_or_else(|_| Host::Name(name.to_owned()), Host::Addr),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Exception;

    async fn resolve(host: Host) -> Result<Vec<Exception>, LifelineError> {
        let what = "syslog server".to_owned();
        let found = Server { host, what }
            .resolve(Duration::from_secs(5))
            .await?;
        Ok(found.exceptions)
    }

    #[test]
    fn of_a_name_with_many_addresses_the_first_are_taken_and_it_is_said() {
        let addrs = |count| {
            (0..count)
                .map(|n: u8| IpAddr::from([203, 0, 113, n]))
                .collect()
        };
        let found = |count| lifelines("logs.example".into(), "syslog server".into(), addrs(count));
        assert_eq!(found(16).exceptions.len(), 16);
        assert!(found(16).problems.is_empty());
        let many = found(200);
        assert_eq!(many.exceptions, found(16).exceptions);
        let text = many.problems[0].to_string();
        assert!(
            text.contains("logs.example") && text.contains("more than 16"),
            "{text}"
        );
    }

    #[test]
    fn the_servers_of_feeds_are_none_of_them() {
        let text = "[[feed]]\nname = \"a\"\nurl = \"http://192.0.2.7/x\"\n\
            [[alerts.syslog]]\naddress = \"udp:192.0.2.8:514\"\n";
        let config = crate::config::parse(text, "test").config.unwrap();
        let servers: Vec<Host> = syslog(&config).map(|server| server.host).collect();
        assert_eq!(servers, [Host::Addr("192.0.2.8".parse().unwrap())]);
    }

    #[tokio::test]
    async fn addresses_stand_for_themselves_and_names_are_resolved() {
        let found = resolve(Host::Addr("192.0.2.1".parse().unwrap())).await;
        assert_eq!(found.unwrap()[0].prefix.to_string(), "192.0.2.1");
        let found = resolve(Host::Name("localhost".to_owned())).await.unwrap();
        assert!(found.iter().all(|e| e.prefix.addr().is_loopback()));
        assert_eq!(found[0].why, "syslog server");
    }

    #[tokio::test]
    async fn a_name_without_address_is_a_problem() {
        // A label of more than 63 characters cannot even be asked for.
        let name = format!("{}.invalid", "x".repeat(64));
        let problem = resolve(Host::Name(name.clone())).await.unwrap_err();
        let text = problem.to_string();
        assert!(
            text.contains(&name) && text.contains("syslog server"),
            "{text}"
        );
    }

    #[test]
    fn proxies_with_and_without_a_scheme() {
        for (text, expect) in [
            (
                "http://user:pass@192.0.2.8:3128/",
                Host::Addr("192.0.2.8".parse().unwrap()),
            ),
            ("proxy.example:3128", Host::Name("proxy.example".to_owned())),
            (
                "socks5://192.0.2.8",
                Host::Addr("192.0.2.8".parse().unwrap()),
            ),
            (
                "[2001:db8::8]:3128",
                Host::Addr("2001:db8::8".parse().unwrap()),
            ),
        ] {
            assert_eq!(proxy(text).unwrap().host, expect, "{text}");
        }
        assert!(proxy("").is_none());
        assert!(is_proxy("HTTPS_PROXY") && is_proxy("http_proxy") && !is_proxy("no_proxy"));
    }
}
