//! What the control socket's requests ask of the store of alerts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Shared, handler::value};
use crate::{
    alert::filter::{Filter, Query},
    alertdb::{AlertDb, Person, Which},
    control::{MAX_IDS, MAX_NOTE, Peer},
    helper::{Aside, reads},
};

/// What a name service may take to name who dismisses; without a name the user ID says who it was.
const NAME: Duration = Duration::from_secs(2);

/// Answers a question; blocks for the disk.
pub(super) fn answer(shared: &Shared, query: &Query) -> Result<Value, String> {
    let db = store(shared)?;
    // Before the database is read: it must hold at least what was written by now.
    let head = db.head();
    let reader = db.reader().map_err(|e| e.to_string())?;
    let snapshot = shared.path.view.current();
    let keeps_set = |feed: &str| snapshot.index.keeps_set(feed);
    let answer = reader.answer(query, head, keeps_set);
    answer.map_err(|e| e.to_string())
}

/// Dismisses in the name of the client's user; blocks until it is on disk.
pub(super) fn dismiss(
    shared: &Shared,
    peer: Peer,
    ids: Vec<String>,
    all: Option<Filter>,
    note: String,
) -> Result<Value, String> {
    if note.len() > MAX_NOTE {
        return Err(format!("a note may have at most {MAX_NOTE} bytes"));
    }
    let which = match all {
        Some(filter) if ids.is_empty() => Which::All(filter),
        Some(_) => return Err("either ids or all, not both".into()),
        None if ids.is_empty() => {
            return Err("no id is given; name ids, or all with filters".into());
        }
        None if ids.len() > MAX_IDS => {
            return Err(format!(
                "at most {MAX_IDS} ids at once; --all with filters takes more"
            ));
        }
        None => Which::Ids(ids),
    };
    let uid = peer.uid;
    let name = move |aside: &Aside| reads::user_name(aside, uid);
    let user = shared.helpers.names.ask(Instant::now() + NAME, name);
    let person = Person {
        uid,
        user: user.flatten(),
    };
    value(&store(shared)?.dismiss(which, person, note)?)
}

fn store(shared: &Shared) -> Result<Arc<AlertDb>, String> {
    let db = shared.path.db.load_full();
    db.ok_or_else(|| "there is no store of alerts: [alerts] store is \"\"".into())
}
