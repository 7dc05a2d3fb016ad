//! MISP warninglists: ranges that are known to be good. They are for exceptions and lint; as a feed
//! they are refused, since denying what they list is what they warn of.

use serde_json::Value;

use super::document;
use crate::{
    feed::{
        Refusal,
        collect::{printable, without_mark},
    },
    prefix::Prefix,
};

/// Characters of a name that are kept.
const NAME: usize = 100;

/// A list of known-good ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warninglist {
    /// Its name, printable.
    pub name: String,
    /// Its ranges.
    pub prefixes: Vec<Prefix>,
    /// Items that are no address or prefix.
    pub bad: usize,
}

/// Reads a warninglist of type `cidr`; other types hold names and are refused.
pub fn parse_warninglist(text: &[u8]) -> Result<Warninglist, Refusal> {
    let text = without_mark(text);
    let document = document(text)?;
    let wrong = |cause: String| Refusal::NotJson { cause };
    let items = document.get("list").and_then(Value::as_array);
    let Some(items) = items else {
        return Err(wrong("a warninglist has a \"list\"".to_owned()));
    };
    match document.get("type").and_then(Value::as_str) {
        Some("cidr") => {}
        other => {
            let kind = printable(other.unwrap_or("none").as_bytes(), NAME);
            return Err(wrong(format!(
                "a warninglist of type {kind}; only type cidr holds addresses"
            )));
        }
    }
    let prefixes: Vec<Prefix> = items
        .iter()
        .filter_map(|item| item.as_str()?.parse().ok())
        .collect();
    Ok(Warninglist {
        name: name(&document),
        bad: items.len() - prefixes.len(),
        prefixes,
    })
}

/// Refuses a document that is a warninglist.
pub(super) fn refuse(document: &Value) -> Result<(), Refusal> {
    let has = |key: &str| document.get(key).is_some_and(Value::is_array);
    if has("list") && has("matching_attributes") {
        return Err(Refusal::AllowList {
            name: name(document),
        });
    }
    Ok(())
}

fn name(document: &Value) -> String {
    let name = document.get("name").and_then(Value::as_str);
    printable(name.unwrap_or("without a name").as_bytes(), NAME)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::feed::{
        Limits,
        formats::{JsonPath, parse_json},
    };

    const LIST: &[u8] = include_bytes!("../../../tests/fixtures/formats/misp-warninglist.json");

    #[test]
    fn ranges_of_both_families() {
        let list = parse_warninglist(LIST).unwrap();
        assert_eq!(list.name, "Ranges of an example network");
        let shown: Vec<String> = list.prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.0/24", "2001:db8::/32", "198.51.100.53"]);
        assert_eq!(list.bad, 1);
    }

    #[test]
    fn other_types_are_refused() {
        let text = br#"{"list": ["a.example"], "type": "hostname", "name": "x"}"#;
        let refusal = parse_warninglist(text).unwrap_err();
        assert!(refusal.to_string().contains("type hostname"), "{refusal}");
        assert!(parse_warninglist(b"{}").is_err());
        assert!(parse_warninglist(b"192.0.2.1").is_err());
    }

    #[test]
    fn never_a_feed() {
        let path: JsonPath = "$.list".parse().unwrap();
        let refusal = parse_json(LIST, &path.into(), &Limits::default()).unwrap_err();
        assert!(matches!(refusal, Refusal::AllowList { .. }), "{refusal}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            let _ = parse_warninglist(&text);
        }
    }
}
