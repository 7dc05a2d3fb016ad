//! One conditional GET, its redirects and its body.

use std::time::{Duration, SystemTime};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{
    ClientBuilder, Response, StatusCode,
    header::{
        ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
        LOCATION, RETRY_AFTER,
    },
    redirect::Policy,
};
use url::Url;

use super::{
    Client, FetchError, MAX_REDIRECTS, Options, Place, Validators, error, headers,
    redirect::{self, Reach},
};
use crate::{
    config::{Feed, Proxy},
    feed::parse_date,
};

/// Longest validator that is kept, in bytes.
const LONGEST_VALIDATOR: usize = 1 << 10;

/// The settings of all requests. Redirects are followed here, by hand: the library would send a
/// feed's own headers, which may be keys, to any server.
pub(super) fn builder(options: &Options) -> Result<ClientBuilder, FetchError> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("feedgate/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(options.connect_timeout)
        .redirect(Policy::none())
        .referer(false)
        // Feeds are pulled by the hour: an idle connection would be dead by then.
        .pool_max_idle_per_host(0);
    Ok(match &options.proxy {
        Proxy::Environment => builder,
        Proxy::Direct => builder.no_proxy(),
        Proxy::Url(url) => {
            let proxy = reqwest::Proxy::all(url.clone()).map_err(|e| FetchError::Setup {
                cause: error::innermost(&e),
            })?;
            builder.proxy(proxy)
        }
    })
}

impl Client {
    /// The text at `url` and its validators, `None` when it is unchanged.
    pub(super) async fn get(
        &self,
        feed: &Feed,
        url: &Url,
        at: &Place,
        previous: Option<&Validators>,
    ) -> Result<Option<(Vec<u8>, Validators)>, FetchError> {
        let own = headers::of(feed, at).await?;
        let conditions = conditions(previous);
        let mut next = url.clone();
        let mut own_reach = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = conditions.clone();
            if same_server(url, &next) {
                headers.extend(own.clone());
            }
            let response = match own_reach {
                None => self.send(&next, headers, at).await?,
                Some(reach) => self.send_on(reach, &next, headers, at).await?,
            };
            let status = response.status();
            own_reach.get_or_insert_with(|| self.reach_of(url, &response));
            if redirect::is_one(status) {
                next = redirect::follow(&next, response.headers().get(LOCATION), at)?;
                continue;
            }
            if status == StatusCode::NOT_MODIFIED && !conditions.is_empty() {
                return Ok(None);
            }
            if status != StatusCode::OK {
                return Err(FetchError::Status {
                    at: at.clone(),
                    status: status.as_u16(),
                    retry_after: retry_after(&response),
                });
            }
            let validators = validators(&response);
            let bytes = self.body(response, feed.max_bytes, at).await?;
            return Ok(Some((bytes, validators)));
        }
        Err(FetchError::RedirectLoop {
            at: at.clone(),
            limit: MAX_REDIRECTS,
        })
    }

    /// How near the feed's own server is: a redirect may lead that near. Behind a proxy only an
    /// address in the URL tells.
    fn reach_of(&self, url: &Url, response: &Response) -> Reach {
        let peer = response.remote_addr().filter(|_| !self.is_proxied(url));
        let address = redirect::literal(url).or(peer.map(|peer| peer.ip()));
        address.map_or(Reach::Global, Reach::of)
    }

    /// Asks the server that a redirect names, unless it is nearer than `reach`. A name may resolve to
    /// another address a moment later: then the answer of that is thrown away.
    async fn send_on(
        &self,
        reach: Reach,
        url: &Url,
        headers: HeaderMap,
        at: &Place,
    ) -> Result<Response, FetchError> {
        let is_proxied = self.is_proxied(url);
        let address = redirect::literal(url).map(Reach::of);
        let nearest = match address {
            None if !is_proxied => redirect::nearest(url).await,
            _ => address,
        };
        if nearest.is_some_and(|nearest| nearest > reach) {
            return Err(redirect::too_near(url, at));
        }
        let response = self.send(url, headers, at).await?;
        let peer = response.remote_addr().filter(|_| !is_proxied);
        if peer.is_some_and(|peer| Reach::of(peer.ip()) > reach) {
            return Err(redirect::too_near(url, at));
        }
        Ok(response)
    }

    /// True when a proxy asks for this host, and resolves the name.
    fn is_proxied(&self, url: &Url) -> bool {
        match self.options.proxy {
            Proxy::Direct => false,
            Proxy::Url(_) => true,
            Proxy::Environment => {
                let uri = url.as_str().parse();
                uri.is_ok_and(|uri| Matcher::from_system().intercept(&uri).is_some())
            }
        }
    }

    async fn send(
        &self,
        url: &Url,
        headers: HeaderMap,
        at: &Place,
    ) -> Result<Response, FetchError> {
        if let ("https", Some(cause)) = (url.scheme(), &self.no_roots) {
            let (at, cause) = (at.clone(), cause.clone());
            return Err(FetchError::Tls { at, cause });
        }
        let request = self.http.get(url.clone()).headers(headers);
        request.send().await.map_err(|error| self.failed(at, error))
    }

    async fn body(
        &self,
        mut response: Response,
        limit: u64,
        at: &Place,
    ) -> Result<Vec<u8>, FetchError> {
        let too_large = || FetchError::TooLarge {
            at: at.clone(),
            limit,
        };
        if response
            .content_length()
            .is_some_and(|length| length > limit)
        {
            return Err(too_large());
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.failed(at, error))?
        {
            if chunk.len() > limit - bytes.len() {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn failed(&self, at: &Place, error: reqwest::Error) -> FetchError {
        FetchError::http(at, &error.without_url(), self.options.connect_timeout)
    }
}

/// True when `to` may see the headers meant for `first`.
fn same_server(first: &Url, to: &Url) -> bool {
    let upgraded = (first.scheme(), to.scheme()) == ("http", "https")
        && first.port().is_none()
        && to.port().is_none();
    first.host() == to.host() && (first.origin() == to.origin() || upgraded)
}

fn conditions(previous: Option<&Validators>) -> HeaderMap {
    let mut map = HeaderMap::new();
    let Some(previous) = previous else { return map };
    for (name, value) in [
        (IF_NONE_MATCH, &previous.etag),
        (IF_MODIFIED_SINCE, &previous.last_modified),
    ] {
        let value = value.as_deref().map(HeaderValue::from_str);
        if let Some(Ok(value)) = value {
            map.insert(name, value);
        }
    }
    map
}

fn validators(response: &Response) -> Validators {
    Validators {
        etag: text(response, ETAG),
        last_modified: text(response, LAST_MODIFIED),
    }
}

fn text(response: &Response, name: HeaderName) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    (value.len() <= LONGEST_VALIDATOR).then(|| value.to_owned())
}

fn retry_after(response: &Response) -> Option<Duration> {
    wait(&text(response, RETRY_AFTER)?, SystemTime::now())
}

/// `Retry-After` is a number of seconds or a date (RFC 9110 section 10.2.3).
fn wait(retry_after: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = retry_after.parse() {
        return Some(Duration::from_secs(seconds));
    }
    parse_date(retry_after)?.duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::{
        config,
        fetch::{
            Pulled,
            testing::{Answer, Server, client, feed, serve},
        },
    };

    const LIST: &str = "203.0.113.9\n2001:db8::1\n";

    fn ok(headers: &str, body: &str) -> Answer {
        Answer::Bytes(format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}"))
    }

    fn status(line: &str) -> Answer {
        Answer::Bytes(format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\n\r\n"))
    }

    fn redirect(code: u16, to: &str) -> Answer {
        status(&format!("{code} Elsewhere\r\nLocation: {to}"))
    }

    async fn pull(server: &Server, path: &str) -> Result<Pulled, FetchError> {
        let feed = feed(&format!("{}{path}", server.base));
        client().pull(&feed, None).await
    }

    fn bytes(pulled: Pulled) -> Vec<u8> {
        match pulled {
            Pulled::Body { bytes, .. } => bytes,
            Pulled::Unchanged => panic!("unchanged"),
        }
    }

    #[tokio::test]
    async fn a_body_with_its_validators_and_then_not_modified() {
        let headers = "ETag: \"v1\"\r\nLast-Modified: Sat, 22 Aug 2026 01:00:29 GMT\r\n";
        let server = serve(&[
            ("/list?key=k", ok(headers, LIST)),
            ("/same", status("304 Not Modified")),
        ])
        .await;
        let pulled = pull(&server, "/list?key=k").await.unwrap();
        let Pulled::Body {
            bytes, validators, ..
        } = pulled
        else {
            panic!("unchanged");
        };
        assert_eq!(bytes, LIST.as_bytes());
        assert_eq!(validators.etag.as_deref(), Some("\"v1\""));

        let same = feed(&format!("{}/same", server.base));
        let pulled = client().pull(&same, Some(&validators)).await.unwrap();
        assert_eq!(pulled, Pulled::Unchanged);
        let [first, second] = &server.requests()[..] else {
            panic!("two requests");
        };
        assert!(first.contains("user-agent: feedgate/"), "{first}");
        assert!(!first.contains("if-none-match"), "{first}");
        assert!(second.contains("if-none-match: \"v1\""), "{second}");
        assert!(
            second.contains("if-modified-since: sat, 22 aug 2026"),
            "{second}"
        );

        // Nobody asked: there is nothing it could be the same as.
        let error = client().pull(&same, None).await.unwrap_err();
        assert!(
            matches!(error, FetchError::Status { status: 304, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_787_360_429);
        let seconds = |text| wait(text, now).map(|wait| wait.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("Sat, 22 Aug 2026 01:01:29 GMT"), Some(60));
        assert_eq!(seconds("Sat, 22 Aug 2020 01:01:29 GMT"), None);
        assert_eq!(seconds("soon"), None);
    }

    #[tokio::test]
    async fn a_chunked_body() {
        let chunked = "4\r\n1.2.\r\n4\r\n3.4\n\r\n0\r\n\r\n";
        let server = serve(&[("/", ok("Transfer-Encoding: chunked\r\n", chunked))]).await;
        assert_eq!(bytes(pull(&server, "/").await.unwrap()), b"1.2.3.4\n");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off() {
        let server = serve(&[
            ("/length", ok("Content-Length: 100\r\n", LIST)),
            (
                "/chunk",
                ok("Transfer-Encoding: chunked\r\n", "4\r\n1.2.\r\n"),
            ),
            ("/junk", Answer::Bytes("SSH-2.0-x\r\n\r\n".to_owned())),
        ])
        .await;
        for path in ["/length", "/chunk", "/junk"] {
            let error = pull(&server, path).await.unwrap_err();
            assert!(
                matches!(error, FetchError::Broken { .. }),
                "{path}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn other_answers_say_what_to_do() {
        let server = serve(&[
            ("/500", status("500 Oops")),
            ("/206", status("206 Partial Content")),
            ("/429", status("429 Slow\r\nRetry-After: 120")),
        ])
        .await;
        for (path, code, says) in [
            ("/404?token=hidden", 404, "check the url"),
            ("/500", 500, "tried again later"),
            ("/206", 206, "check the url"),
            ("/429", 429, "raise the feed's period"),
        ] {
            let error = pull(&server, path).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(says) && text.contains("feed test"), "{text}");
            assert!(!text.contains("hidden"), "{text}");
            let FetchError::Status { status, .. } = error else {
                panic!("{text}");
            };
            assert_eq!(status, code);
        }
        let error = pull(&server, "/429").await.unwrap_err();
        let FetchError::Status { retry_after, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(retry_after, Some(Duration::from_secs(120)));
    }

    #[tokio::test]
    async fn redirects_are_followed_five_times() {
        let server = serve(&[
            ("/0", redirect(301, "/1")),
            ("/1", redirect(302, "{base}/2")),
            ("/2", redirect(303, "3")),
            ("/3", redirect(307, "/4")),
            ("/4", redirect(308, "/5")),
            ("/5", ok("", LIST)),
            ("/more", redirect(302, "/0")),
            ("/loop", redirect(302, "/loop")),
        ])
        .await;
        assert_eq!(bytes(pull(&server, "/0").await.unwrap()), LIST.as_bytes());
        for path in ["/more", "/loop"] {
            let error = pull(&server, path).await.unwrap_err();
            assert!(matches!(error, FetchError::RedirectLoop { .. }), "{error}");
        }
        assert_eq!(server.requests().len(), 3 * 6);
    }

    #[tokio::test]
    async fn redirects_that_lead_nowhere() {
        let server = serve(&[
            ("/file", redirect(302, "file:///etc/passwd")),
            ("/none", status("302 Found")),
            ("/port", redirect(302, "http://[")),
        ])
        .await;
        for path in ["/file", "/none", "/port"] {
            let error = pull(&server, path).await.unwrap_err();
            assert!(matches!(error, FetchError::Redirect { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_redirect_leads_no_nearer_than_the_feeds_own_server() {
        let url: Url = "http://feeds.example/".parse().unwrap();
        let at = Place::new(&"test".parse().unwrap(), &url);
        let inside = serve(&[("/metrics", ok("", LIST))]).await;
        let local = inside.base.replace("127.0.0.1", "localhost");
        for target in [&inside.base, &local] {
            let to: Url = format!("{target}/metrics").parse().unwrap();
            for reach in [Reach::Global, Reach::Private] {
                let sent = client().send_on(reach, &to, HeaderMap::new(), &at).await;
                let error = sent.unwrap_err();
                assert!(matches!(error, FetchError::Redirect { .. }), "{error}");
            }
        }
        assert_eq!(inside.requests().len(), 0, "it was asked");
        let to: Url = format!("{local}/metrics").parse().unwrap();
        let client = client();
        let sent = client.send_on(Reach::Loopback, &to, HeaderMap::new(), &at);
        assert_eq!(sent.await.unwrap().status(), StatusCode::OK);
        // The feed's own server is on loopback here: the link is nearer still.
        let server = serve(&[(
            "/",
            redirect(302, "http://169.254.169.254/latest/meta-data/"),
        )])
        .await;
        let error = pull(&server, "/").await.unwrap_err();
        assert!(
            error
                .to_string()
                .contains("where the feed's own server is not"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn own_headers_stay_with_the_first_server() {
        let other = serve(&[("/", ok("", LIST))]).await;
        let server = serve(&[
            ("/near", redirect(302, "/last")),
            ("/last", ok("", LIST)),
            ("/far", redirect(302, &format!("{}/", other.base))),
        ])
        .await;
        for path in ["/near", "/far"] {
            let mut feed = feed(&format!("{}{path}", server.base));
            let key = config::HeaderValue::Text("s3cret".to_owned());
            feed.headers = BTreeMap::from([("X-Api-Key".to_owned(), key)]);
            client().pull(&feed, None).await.unwrap();
        }
        let requests = server.requests();
        assert_eq!(requests.len(), 3);
        assert!(
            requests
                .iter()
                .all(|head| head.contains("x-api-key: s3cret"))
        );
        assert!(!other.requests()[0].contains("s3cret"));
    }

    #[test]
    fn who_may_see_the_headers() {
        for (first, to, same) in [
            ("http://a.example/x", "http://a.example/y", true),
            ("http://a.example/x", "https://a.example/y", true),
            ("https://a.example/x", "https://a.example:443/y", true),
            ("https://a.example/x", "https://a.example:8443/y", false),
            ("http://a.example:81/x", "https://a.example/y", false),
            ("https://a.example/x", "https://b.example/x", false),
            (
                "https://a.example/x",
                "https://a.example.b.example/x",
                false,
            ),
        ] {
            let urls: [Url; 2] = [first.parse().unwrap(), to.parse().unwrap()];
            assert_eq!(same_server(&urls[0], &urls[1]), same, "{first} {to}");
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_not_read_on() {
        let head = "HTTP/1.1 200 OK\r\n\r\n".to_owned();
        let server = serve(&[
            ("/exact", ok("", LIST)),
            ("/declared", ok("Content-Length: 99999999\r\n", LIST)),
            ("/endless", Answer::Endless(head)),
        ])
        .await;
        let pull = async |path, max_bytes| {
            let mut feed = feed(&format!("{}{path}", server.base));
            feed.max_bytes = max_bytes;
            client().pull(&feed, None).await
        };
        let size = LIST.len().try_into().unwrap();
        assert_eq!(bytes(pull("/exact", size).await.unwrap()), LIST.as_bytes());
        for (path, limit) in [
            ("/exact", size - 1),
            ("/declared", 1000),
            ("/endless", 1000),
        ] {
            let error = pull(path, limit).await.unwrap_err();
            assert!(
                matches!(error, FetchError::TooLarge { .. }),
                "{path}: {error}"
            );
        }
        // What the socket buffers of both ends hold is sent, and no more.
        assert!(*server.sent.lock().unwrap() < 32 << 20);
    }

    #[tokio::test]
    async fn a_slow_body_ends_at_the_time_limit() {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n1.2.3.4\n".to_owned();
        let server = serve(&[
            ("/body", Answer::Stall(head)),
            ("/head", Answer::Stall(String::new())),
        ])
        .await;
        let limit = Duration::from_millis(100);
        let client = Client::new(Options {
            connect_timeout: Duration::from_secs(30),
            total_timeout: limit,
            proxy: crate::config::Proxy::Direct,
            ca_files: Vec::new(),
        })
        .unwrap();
        for path in ["/body", "/head"] {
            let feed = feed(&format!("{}{path}", server.base));
            let error = client.pull(&feed, None).await.unwrap_err();
            let FetchError::Timeout { limit: reached, .. } = error else {
                panic!("{error}");
            };
            assert_eq!(reached, limit);
        }
    }

    #[tokio::test]
    async fn a_connection_that_does_not_stand_in_time() {
        let limit = Duration::from_millis(100);
        let client = Client::new(Options {
            connect_timeout: limit,
            total_timeout: Duration::from_secs(60),
            proxy: crate::config::Proxy::Direct,
            ca_files: Vec::new(),
        })
        .unwrap();
        // The kernel accepts, nobody speaks TLS.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        let error = client.pull(&feed(&url), None).await.unwrap_err();
        let FetchError::Timeout { limit: reached, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(reached, limit);
    }

    #[tokio::test]
    async fn credentials_of_the_url_are_sent_and_not_shown() {
        let server = serve(&[]).await;
        let url = server.base.replace("http://", "http://user:s3cret@");
        let error = client().pull(&feed(&url), None).await.unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
        // "user:s3cret" in base64, in lower case as the server keeps it.
        let sent = "authorization: basic dxnlcjpzm2nyzxq=";
        assert!(
            server.requests()[0].contains(sent),
            "{:?}",
            server.requests()
        );
    }

    #[tokio::test]
    async fn no_connection() {
        // TCPMUX (RFC 1078), which nobody speaks. A port that was free a moment ago may be another test's.
        let refused = feed("http://127.0.0.1:1/");
        let error = client().pull(&refused, None).await.unwrap_err();
        assert!(matches!(error, FetchError::Refused { .. }), "{error}");

        // A label of more than 63 characters cannot even be asked for.
        let unknown = feed(&format!("http://{}.invalid/", "x".repeat(64)));
        let error = client().pull(&unknown, None).await.unwrap_err();
        assert!(matches!(error, FetchError::Dns { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_server_without_tls() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            std::future::pending::<()>().await;
        });
        let error = client().pull(&feed(&url), None).await.unwrap_err();
        assert!(matches!(error, FetchError::Tls { .. }), "{error}");
    }
}
