//! Interface index to name.

use std::{
    cell::RefCell,
    collections::HashMap,
    time::{Duration, Instant},
};

use nix::net::if_::if_indextoname;

/// A renamed interface shows its new name after at most this time.
const FRESH: Duration = Duration::from_secs(2);

/// Interfaces remembered; a host with more of them asks the kernel again.
const CAPACITY: usize = 1024;

/// The name of the interface with this index in the calling thread's network namespace, `None`
/// where there is none. Answers are at most two seconds old.
pub fn name(index: u32) -> Option<String> {
    thread_local! {
        static NAMES: RefCell<Names> = RefCell::default();
    }
    NAMES.with_borrow_mut(|names| names.get(index, Instant::now(), ask_kernel))
}

fn ask_kernel(index: u32) -> Option<String> {
    let name = if_indextoname(index).ok()?;
    // An index above i32::MAX gives an empty name instead of an error.
    (!name.is_empty()).then(|| name.to_string_lossy().into_owned())
}

/// Names by index, with the time each was read.
#[derive(Default)]
struct Names(HashMap<u32, (Instant, Option<String>)>);

impl Names {
    fn get(
        &mut self,
        index: u32,
        now: Instant,
        ask: impl FnOnce(u32) -> Option<String>,
    ) -> Option<String> {
        if let Some((read, name)) = self.0.get(&index)
            && now.duration_since(*read) < FRESH
        {
            return name.clone();
        }
        let name = ask(index);
        if self.0.len() >= CAPACITY {
            self.0.clear();
        }
        self.0.insert(index, (now, name.clone()));
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_interface_is_lo() {
        assert_eq!(name(1).as_deref(), Some("lo"));
        assert_eq!(name(u32::MAX), None);
        assert_eq!(name(0), None);
    }

    #[test]
    fn a_rename_is_followed() {
        let mut names = Names::default();
        let start = Instant::now();
        let ask = |name: &'static str| move |_| Some(name.to_owned());
        assert_eq!(names.get(2, start, ask("eth0")).as_deref(), Some("eth0"));
        assert_eq!(names.get(2, start, ask("wan")).as_deref(), Some("eth0"));
        assert_eq!(
            names.get(2, start + FRESH, ask("wan")).as_deref(),
            Some("wan")
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut names = Names::default();
        let now = Instant::now();
        for index in 0..5000 {
            names.get(index, now, |_| None);
        }
        assert!(names.0.len() <= CAPACITY);
    }
}
