//! What some entries carry beside their prefix, apart from them: most carry nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Span, collect::printable};

/// Distinct tags of one feed that are kept; those of further entries are dropped. A tag only
/// explains an entry, and a hostile feed must not fill the memory with them.
const MAX_TAGS: usize = 65_536;

/// Characters of a tag that are kept.
const TAG: usize = 64;

/// What an entry carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Note {
    /// The feed's score, rounded down.
    pub score: Option<u32>,
    /// The feed's word for it: an SBL number, a malware family, a comment. Printable, at most 64
    /// characters.
    pub tag: Option<Arc<str>>,
    /// The range or prefix that the entry is a piece of.
    pub written: Option<Box<Span>>,
}

/// The notes of a feed: each distinct one is stored once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// A note for each entry, by number from 1; 0 and what is missing at the end: none.
    ids: Vec<u32>,
    table: Vec<Note>,
}

impl Notes {
    /// The note of the entry at `index`.
    pub fn of_entry(&self, index: usize) -> Option<&Note> {
        self.by_id(*self.ids.get(index)?)
    }

    /// Number of distinct notes.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True when no entry carries anything.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn by_id(&self, id: u32) -> Option<&Note> {
        self.table.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }

    pub(super) fn id_of_entry(&self, index: usize) -> u32 {
        self.ids.get(index).copied().unwrap_or(0)
    }

    /// Gives the entry at `index` the note `id`; entries are numbered upwards.
    pub(super) fn set(&mut self, index: usize, id: u32) {
        if id != 0 {
            self.ids.resize(index, 0);
            self.ids.push(id);
        }
    }

    /// Forgets which entry has which note.
    pub(super) fn clear_ids(&mut self) {
        self.ids = Vec::new();
    }
}

/// Numbers notes while a text is read.
#[derive(Default)]
pub(super) struct Interner {
    tags: HashSet<Arc<str>>,
    seen: HashMap<Note, u32>,
}

impl Interner {
    /// The number of a note in `notes`; 0 when there is nothing to note.
    pub(super) fn id(
        &mut self,
        notes: &mut Notes,
        score: Option<u32>,
        tag: Option<&[u8]>,
        written: Option<Span>,
    ) -> u32 {
        let note = Note {
            score,
            tag: tag.and_then(|tag| self.tag(tag)),
            written: written.map(Box::new),
        };
        if note == Note::default() {
            return 0;
        }
        if let Some(id) = self.seen.get(&note) {
            return *id;
        }
        let Ok(id) = u32::try_from(notes.table.len() + 1) else {
            return 0;
        };
        notes.table.push(note.clone());
        self.seen.insert(note, id);
        id
    }

    fn tag(&mut self, tag: &[u8]) -> Option<Arc<str>> {
        let text = printable(tag, TAG);
        if text.is_empty() {
            return None;
        }
        if let Some(known) = self.tags.get(text.as_str()) {
            return Some(Arc::clone(known));
        }
        if self.tags.len() >= MAX_TAGS {
            return None;
        }
        let tag: Arc<str> = text.into();
        self.tags.insert(Arc::clone(&tag));
        Some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_distinct_note_is_stored_once() {
        let mut notes = Notes::default();
        let mut interner = Interner::default();
        for (index, score) in [(0, 3), (5, 7), (6, 3)] {
            let id = interner.id(&mut notes, Some(score), Some(b"x"), None);
            notes.set(index, id);
        }
        assert_eq!(interner.id(&mut notes, None, Some(b" "), None), 0);
        assert_eq!(notes.len(), 2);
        let score = |index| notes.of_entry(index).map(|note| note.score);
        assert_eq!(score(0), Some(Some(3)));
        assert_eq!(score(1), None);
        assert_eq!(score(6), Some(Some(3)));
        assert_eq!(score(7), None);
    }

    #[test]
    fn tags_are_bounded() {
        let mut notes = Notes::default();
        let mut interner = Interner::default();
        for number in 0..MAX_TAGS + 10 {
            interner.id(&mut notes, None, Some(number.to_string().as_bytes()), None);
        }
        assert_eq!(notes.len(), MAX_TAGS);
    }
}
