//! The source of a flow as far as a level tells it.

use serde_json::{Map, Value};

use crate::attribution::Source;

/// Who it was: a process, with all it belongs to, or only the workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Who {
    pid: Option<u32>,
    start: Option<u64>,
    exe: Option<String>,
    comm: Option<String>,
    uid: Option<u32>,
    user: Option<String>,
    unit: Option<String>,
    container: Option<String>,
    image: Option<String>,
    pod: Option<String>,
    namespace: Option<String>,
    mac: Option<String>,
    client: Option<String>,
}

impl Who {
    /// The process.
    pub(super) fn process(source: &Source) -> Self {
        Self {
            pid: source.pid,
            start: source.start,
            exe: source.exe.clone(),
            comm: source.comm.clone(),
            ..Self::workload(source)
        }
    }

    /// The unit, container, pod, client and user: what stays when processes come and go.
    pub(super) fn workload(source: &Source) -> Self {
        Self {
            uid: source.uid,
            user: source.user.clone(),
            unit: source.unit.clone(),
            container: source.container.clone(),
            image: source.image.clone(),
            pod: source.pod.clone(),
            namespace: source.namespace.clone(),
            mac: source.mac.clone(),
            client: source.client.clone(),
            ..Self::default()
        }
    }

    /// True when nothing is known of it.
    pub(super) fn is_unknown(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what is known, by the names of the alert line.
    pub(super) fn write(&self, line: &mut Map<String, Value>) {
        let number = |value: Option<u32>| value.map(Value::from);
        let text = |value: &Option<String>| value.as_deref().map(Value::from);
        for (key, value) in [
            ("pid", number(self.pid)),
            ("exe", text(&self.exe)),
            ("comm", text(&self.comm)),
            ("uid", number(self.uid)),
            ("user", text(&self.user)),
            ("unit", text(&self.unit)),
            ("container", text(&self.container)),
            ("image", text(&self.image)),
            ("pod", text(&self.pod)),
            ("namespace", text(&self.namespace)),
            ("mac", text(&self.mac)),
            ("client", text(&self.client)),
        ] {
            if let Some(value) = value {
                line.insert(key.to_owned(), value);
            }
        }
    }
}
