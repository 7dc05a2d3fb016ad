//! The syslog socket of a test, and a reader of the alert line that shares no code with its writer.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{Lab, eventually};

/// One line as it came, and the keys of its structured data.
#[derive(Clone, Debug)]
pub(crate) struct Alert {
    pub(crate) line: String,
    pub(crate) keys: BTreeMap<String, String>,
}

impl Alert {
    /// Reads a line; `None` when it has no `[feedgate@32473 ...]`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let (_, element) = line.split_once("[feedgate@32473")?;
        let keys = parameters(element)?;
        Some(Self {
            line: line.to_owned(),
            keys,
        })
    }

    /// The value of a key; empty when absent.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.keys.get(key).map_or("", String::as_str)
    }

    /// Fails the test unless every key has its value.
    #[track_caller]
    pub(crate) fn assert(&self, wanted: &[(&str, &str)]) {
        for (key, value) in wanted {
            assert_eq!(self.get(key), *value, "{key} in {}", self.line);
        }
    }
}

/// SD-PARAMs up to the closing bracket (RFC 5424 section 6.3.3); `None` when they are not well formed.
fn parameters(text: &str) -> Option<BTreeMap<String, String>> {
    let mut keys = BTreeMap::new();
    let mut rest = text;
    while let Some(parameter) = rest.strip_prefix(' ') {
        let (key, after) = parameter.split_once("=\"")?;
        let (value, after) = value(after)?;
        assert!(
            keys.insert(key.to_owned(), value).is_none(),
            "{key} twice in {text}"
        );
        rest = after;
    }
    rest.starts_with(']').then_some(keys)
}

/// A value up to its quote, unescaped, and what follows.
fn value(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            ']' => return None, // must be escaped
            _ => value.push(char),
        }
    }
    None
}

/// A syslog socket that keeps what comes.
pub(crate) struct Alerts {
    lines: Arc<Mutex<Vec<String>>>,
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Alerts {
    /// Listens on a socket in the lab's folder.
    pub(crate) fn listen(lab: &Lab) -> Self {
        Self::at(lab.path("log"))
    }

    /// Listens on this socket.
    pub(crate) fn at(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (into, stopped) = (Arc::clone(&lines), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(length) = socket.recv(&mut buffer) {
                    let line = String::from_utf8(buffer[..length].to_vec()).expect("UTF-8");
                    into.lock().unwrap().push(line);
                }
            }
        });
        Self {
            lines,
            path,
            stop,
            thread: Some(thread),
        }
    }

    /// Its address in a configuration.
    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// The alerts so far.
    pub(crate) fn all(&self) -> Vec<Alert> {
        let lines = self.lines.lock().unwrap();
        lines.iter().filter_map(|line| Alert::parse(line)).collect()
    }

    /// Waits for an alert with these values.
    #[track_caller]
    pub(crate) fn wait(&self, wanted: &[(&str, &str)]) -> Alert {
        let fits = |alert: &Alert| wanted.iter().all(|(key, value)| alert.get(key) == *value);
        eventually(&format!("an alert with {wanted:?}"), || {
            self.all().into_iter().find(&fits)
        })
    }
}

impl Drop for Alerts {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        if std::thread::panicking() {
            eprintln!(
                "--- syslog got:\n{}\n---",
                self.lines.lock().unwrap().join("\n")
            );
        }
    }
}

#[test]
fn a_line_is_read_with_its_escapes() {
    let line = r#"<84>Jan  1 00:00:00 feedgate[1]: [feedgate@32473 id="1" comm="a\"b\]c\\d"] text"#;
    let alert = Alert::parse(line).unwrap();
    assert_eq!(alert.get("comm"), r#"a"b]c\d"#);
    assert_eq!(alert.get("id"), "1");
    assert!(Alert::parse(r#"[feedgate@32473 comm="a]b"] text"#).is_none());
    assert!(Alert::parse("no element").is_none());
}
