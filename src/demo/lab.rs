//! The demo's hosts: red (with feedgate), a gateway, the bad server and the feed's web server.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{
    DemoError,
    daemon::{Daemon, TICK},
    guard::Guard,
    http::{Response, Server},
    netns::{Netns, sweep},
};

/// What the feed's URL serves.
pub(super) const FEED: &str = include_str!("threat-feed.txt");
/// The feed's name, as in the lab.
pub(super) const FEED_NAME: &str = "training.ip.threatfeed";
/// The bad server.
pub(super) const BAD: &str = "10.48.255.194";

const FEED_AT: &str = "127.0.0.1:8099";
const PREFIX: &str = "fgdemo";

/// `red` of the lab, once a second instead of once a minute. Its first line gives it its name also
/// where /tmp must not run programs.
const RED: &str = r#"printf red >/proc/$$/comm
cd "$1" || exit 1
while :; do
    if curl -sI -m 2 http://10.48.255.194 >answer; then
        IFS= read -r line <answer
        printf '%s\n' "${line%?}" >>red.log
    else
        echo Timeout >>red.log
    fi
    sleep 1
done
"#;

/// The lab; taken down on drop, and by its guard if the process dies.
#[derive(Debug)]
pub(super) struct Lab {
    // Dropped in this order: processes, servers, namespaces, and the guard last.
    pub(super) daemon: Option<Daemon>,
    red_process: Option<Child>,
    servers: Vec<Server>,
    pub(super) alerts: UnixDatagram,
    pub(super) red: Netns,
    _gateway: Netns,
    bad: Netns,
    pub(super) dir: PathBuf,
    _guard: Guard,
}

impl Lab {
    /// Makes the namespaces, joins them and starts both web servers.
    pub(super) fn build() -> Result<Self, DemoError> {
        sweep(PREFIX);
        let dir = temp_dir()?;
        let names = ["red", "gateway", "bad"].map(name);
        let guard = Guard::start(&dir, &names).map_err(DemoError::io("the guard process"))?;
        let [red, gateway, bad] = names;
        let (red, gateway, bad) = (
            Netns::create(red)?,
            Netns::create(gateway)?,
            Netns::create(bad)?,
        );
        join(&red, &gateway, &bad)?;
        let log = dir.join("log");
        let alerts = UnixDatagram::bind(&log).map_err(DemoError::io("the syslog socket"))?;
        alerts
            .set_read_timeout(Some(TICK))
            .map_err(DemoError::io("the syslog socket"))?;
        let mut lab = Self {
            daemon: None,
            red_process: None,
            servers: Vec::new(),
            alerts,
            red,
            _gateway: gateway,
            bad,
            dir,
            _guard: guard,
        };
        lab.serve()?;
        Ok(lab)
    }

    /// Writes the configuration with this `action` for the feed; gives its path.
    pub(super) fn configure(&self, action: &str) -> Result<PathBuf, DemoError> {
        let path = self.dir.join("feedgate.toml");
        fs::write(&path, config(&self.dir, action)).map_err(DemoError::io("the configuration"))?;
        Ok(path)
    }

    /// Starts `red`; gives its process ID.
    pub(super) fn start_red(&mut self) -> Result<u32, DemoError> {
        let script = self.dir.join("red");
        fs::write(&script, RED).map_err(DemoError::io("red's script"))?;
        let child = self
            .red
            .command("sh")
            .arg(&script)
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(DemoError::io("red"))?;
        let pid = child.id();
        self.red_process = Some(child);
        Ok(pid)
    }

    /// Ends `red`; its last curl ends by itself.
    pub(super) fn stop_red(&mut self) {
        if let Some(mut child) = self.red_process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The lines of red's log so far.
    pub(super) fn red_log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("red.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The names of its namespaces.
    pub(super) fn names(&self) -> [String; 3] {
        ["red", "gateway", "bad"].map(name)
    }

    fn serve(&mut self) -> Result<(), DemoError> {
        let feed = bind(&self.red, FEED_AT)?;
        let bad = bind(&self.bad, "10.48.255.194:80")?;
        let servers = [
            Server::start(feed, |_| Response::text(FEED)),
            Server::start(bad, |_| Response::text("you should not be here\n")),
        ];
        for server in servers {
            self.servers
                .push(server.map_err(DemoError::io("a web server"))?);
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop_red();
    }
}

/// The number of entries in [`FEED`].
pub(super) fn feed_entries() -> usize {
    let lines = FEED.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .count()
}

/// The rules of a namespace as `nft` lists them.
pub(super) fn ruleset(netns: &Netns) -> Result<String, DemoError> {
    let mut command: Command = netns.command("nft");
    let output = command
        .args(["list", "ruleset"])
        .output()
        .map_err(DemoError::io("nft"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn name(host: &str) -> String {
    format!("{PREFIX}-{}-{host}", std::process::id())
}

/// red 192.0.2.2 -- 192.0.2.1 gateway 10.48.255.1 -- 10.48.255.194 bad.
fn join(red: &Netns, gateway: &Netns, bad: &Netns) -> Result<(), DemoError> {
    red.link("eth0", gateway, "lan0")?;
    bad.link("eth0", gateway, "wan0")?;
    red.ip(&[
        "addr add 192.0.2.2/24 dev eth0",
        "route add default via 192.0.2.1",
    ])?;
    gateway.ip(&[
        "addr add 192.0.2.1/24 dev lan0",
        "addr add 10.48.255.1/24 dev wan0",
    ])?;
    bad.ip(&[
        "addr add 10.48.255.194/24 dev eth0",
        "route add default via 10.48.255.1",
    ])?;
    Ok(gateway.forward()?)
}

fn bind(netns: &Netns, address: &str) -> Result<TcpListener, DemoError> {
    netns
        .enter(|| TcpListener::bind(address))?
        .map_err(DemoError::io("a web server"))
}

/// A folder only root can look into, with a name nobody could guess before.
fn temp_dir() -> Result<PathBuf, DemoError> {
    let template = std::env::temp_dir().join("fgdemo-XXXXXX");
    nix::unistd::mkdtemp(&template)
        .map_err(io::Error::from)
        .map_err(DemoError::io("a temporary folder"))
}

fn config(dir: &Path, action: &str) -> String {
    let dir = dir.display();
    format!(
        r#"[daemon]
state-dir = "{dir}/state"
control-socket = "{dir}/control.sock"

# Who it was is shown on a busy machine too.
[attribution]
timeout = "5s"

[[feed]]
name = "{FEED_NAME}"
url = "http://{FEED_AT}/threat_feed_list?token=lab"
action = "{action}"

[alerts]
suppress = "0s"

[[alerts.syslog]]
address = "unix:{dir}/log"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bad_server_is_in_the_feed() {
        assert!(FEED.lines().any(|line| line == BAD));
        assert!(feed_entries() > 100);
    }

    #[test]
    fn the_configuration_has_no_mistake() {
        for action in ["alert", "deny"] {
            let outcome = crate::config::parse(&config(Path::new("/tmp/x"), action), "demo");
            assert_eq!(outcome.diagnostics, []);
        }
    }

    #[test]
    fn every_line_of_the_feed_is_an_entry() {
        let parsed = crate::feed::parse_plain(FEED.as_bytes(), &crate::feed::Limits::default());
        assert_eq!(
            (parsed.entries.len(), parsed.bad.count),
            (feed_entries(), 0)
        );
    }
}
