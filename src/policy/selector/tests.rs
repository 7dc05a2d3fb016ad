use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn eval(selector: &str, pairs: &[(&str, &str)]) -> bool {
    selector.parse::<Selector>().unwrap().eval(&labels(pairs))
}

#[test]
fn every_operator_means_what_calico_says() {
    let nginx: &[_] = &[("unit", "nginx.service"), ("k8s.io/a_b-c", "x")];
    for (selector, here, nowhere) in [
        ("", true, true),
        ("  ", true, true),
        ("all()", true, true),
        ("!all( )", false, false),
        ("global()", true, true),
        ("has(unit)", true, false),
        ("!has(unit)", false, true),
        (r#"unit == "nginx.service""#, true, false),
        ("unit=='nginx.service'", true, false),
        (r#"unit != "nginx.service""#, false, true),
        (r#"unit != "x""#, true, true),
        (r#"unit in {"a", 'nginx.service'}"#, true, false),
        (r#"unit in {}"#, false, false),
        (r#"unit in{"a",}"#, false, false),
        (r#"unit not in {"a"}"#, true, true),
        (r#"unit not in {"nginx.service"}"#, false, true),
        (r#"unit contains "inx""#, true, false),
        (r#"!unit contains "inx""#, false, true),
        (r#"unit starts with "nginx""#, true, false),
        (r#"unit ends  with ".service""#, true, false),
        (r#"unit ends with "nginx""#, false, false),
        (r#"k8s.io/a_b-c == "x""#, true, false),
        (r#"!(unit == "nginx.service")"#, false, true),
        (r#"!!has(unit)"#, true, false),
        // && binds tighter than ||, ! tighter than both.
        (r#"all() || has(unit) && has(b)"#, true, true),
        (r#"(all() || has(unit)) && has(b)"#, false, false),
        (r#"!has(unit) || has(unit)"#, true, true),
        (r#"!(has(unit) && has(b))"#, true, true),
        // Words of the grammar are keys where a key stands.
        (r#"has != "x" && in != "x" && not not in {"x"}"#, true, true),
    ] {
        assert_eq!(eval(selector, nginx), here, "{selector}");
        assert_eq!(eval(selector, &[]), nowhere, "{selector}");
    }
}

#[test]
fn global_is_what_has_no_namespace() {
    let namespaced = labels(&[(NAMESPACE, "web")]);
    let global: Selector = "global()".parse().unwrap();
    assert!(global.eval(&Labels::new()));
    assert!(!global.eval(&namespaced));
    // A network set is in none, whatever its labels are.
    assert!(global.eval_set(&namespaced));
    assert!(eval("!global()", &[(NAMESPACE, "web")]));
}

#[test]
fn it_prints_in_one_way() {
    for (text, printed) in [
        ("", "all()"),
        ("((a=='b'))", r#"a == "b""#),
        ("!a=='b'", r#"a != "b""#),
        ("!!!has( a )", "!has(a)"),
        ("a in {'c','b', \"b\"}", r#"a in {"b", "c"}"#),
        ("!(a in {'b'})", r#"a not in {"b"}"#),
        ("a=='say \"x\"'", r#"a == 'say "x"'"#),
        ("!(a starts   with 'b')", r#"!a starts with "b""#),
        ("has(a)&&(has(b)&&has(c))", "has(a) && has(b) && has(c)"),
        ("has(a)&&(has(b)||has(c))", "has(a) && (has(b) || has(c))"),
        ("(has(a)&&has(b))||has(c)", "has(a) && has(b) || has(c)"),
        ("!(has(a)||has(b))", "!(has(a) || has(b))"),
    ] {
        let selector: Selector = text.parse().unwrap();
        assert_eq!(selector.to_string(), printed);
        assert_eq!(printed.parse(), Ok(selector));
    }
}

#[test]
fn errors_say_where_and_what_to_write() {
    for (text, at, message) in [
        (
            "unit == foo",
            9,
            r#"expected a quoted value after ==, found `foo`; write "foo" in quotes"#,
        ),
        (
            "unit == ",
            9,
            "expected a quoted value after ==, found the end",
        ),
        ("unit = 'x'", 6, "write == for equality"),
        (
            "ünit == 'x'",
            1,
            r#"expected a condition such as has(key), key == "value", !, or (, found `ü`"#,
        ),
        (
            "a == 'ü' && ",
            13,
            r#"expected a condition such as has(key), key == "value", !, or (, found the end"#,
        ),
        ("a == 'ü' & has(b)", 10, "write &&"),
        ("a == 'ü' b", 10, "expected &&, || or the end, found `b`"),
        ("a == 'x", 6, "the value has no closing '"),
        ("a == 'x\u{7}'", 8, "a value holds a control character"),
        (
            "a is 'x'",
            3,
            "expected ==, !=, in, not in, contains, starts with or ends with, found `is`",
        ),
        ("a not 'x'", 7, "expected in after not, found `'`"),
        ("a starts 'x'", 10, "expected with after starts, found `'`"),
        (
            "a in 'x'",
            6,
            r#"expected a { after in, found `'`; write {"a", "b"}"#,
        ),
        ("a in {'x' 'y'}", 11, "expected a , or a }, found `'`"),
        (
            "a in {x}",
            7,
            r#"expected a quoted value after {, found `x`; write "x" in quotes"#,
        ),
        (
            "'a' == 'b'",
            1,
            "expected the key of a label, found `'`; the key of a label is written without quotes",
        ),
        (
            "has('a')",
            5,
            "expected the key of a label after has(, found `'`; it is written without quotes",
        ),
        ("has(a", 6, "expected a ) to end has(, found the end"),
        (
            "any()",
            1,
            "there is no function `any`, only all(), global() and has(key)",
        ),
        (
            " (has(a) ",
            10,
            "expected &&, || or a ) for the ( at character 2, found the end",
        ),
        ("has(a))", 7, "expected &&, || or the end, found `)`"),
    ] {
        let error = text.parse::<Selector>().unwrap_err();
        assert_eq!((error.at, error.message.as_str()), (at, message), "{text}");
    }
}

#[test]
fn there_are_limits() {
    let nested = |depth| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert!(nested(MAX_DEPTH).parse::<Selector>().is_ok());
    let error = nested(MAX_DEPTH + 1).parse::<Selector>().unwrap_err();
    assert_eq!(error.at, MAX_DEPTH + 1);

    let padded = |length: usize| format!("all(){}", " ".repeat(length - 5));
    assert!(padded(MAX_LENGTH).parse::<Selector>().is_ok());
    assert!(padded(MAX_LENGTH + 1).parse::<Selector>().is_err());
    // It would be longer than that when it is printed.
    let dense = vec!["has(a)"; MAX_LENGTH / 8].join("&&");
    assert!(dense.len() <= MAX_LENGTH && dense.parse::<Selector>().is_err());

    let key = |length| format!("has({})", "k".repeat(length));
    assert!(key(MAX_KEY).parse::<Selector>().is_ok());
    assert!(key(MAX_KEY + 1).parse::<Selector>().is_err());
    let negated = format!("{}has(a)", "!".repeat(4000));
    assert_eq!(negated.parse(), "has(a)".parse::<Selector>());
}

/// A selector as a tree that knows nothing of the parser: its text, and its meaning.
#[derive(Clone, Debug)]
enum Tree {
    All,
    Global,
    Has(&'static str),
    Is(&'static str, &'static str, bool),
    In(&'static str, Vec<&'static str>, bool),
    Part(&'static str, &'static str, &'static str),
    Not(Box<Tree>),
    And(Vec<Tree>),
    Or(Vec<Tree>),
}

impl Tree {
    fn text(&self) -> String {
        let list = |parts: &[Self], word: &str| {
            let parts: Vec<String> = parts
                .iter()
                .map(|part| format!("({})", part.text()))
                .collect();
            parts.join(word)
        };
        match self {
            Self::All => "all()".to_owned(),
            Self::Global => "global()".to_owned(),
            Self::Has(key) => format!("has( {key} )"),
            Self::Is(key, value, true) => format!("{key} =='{value}'"),
            Self::Is(key, value, false) => format!("{key}!= \"{value}\""),
            Self::In(key, values, is) => {
                let not = if *is { "" } else { "not " };
                format!("{key} {not}in {{'{}'}}", values.join("', '"))
            }
            Self::Part(key, word, value) => format!("{key} {word} '{value}'"),
            Self::Not(tree) => format!("!({})", tree.text()),
            Self::And(parts) => list(parts, "&&"),
            Self::Or(parts) => list(parts, " || "),
        }
    }

    fn is_true(&self, labels: &Labels) -> bool {
        let value = |key: &str| labels.get(key).map(String::as_str);
        match self {
            Self::All => true,
            Self::Global => value(NAMESPACE).is_none(),
            Self::Has(key) => value(key).is_some(),
            Self::Is(key, wanted, is) => (value(key) == Some(wanted)) == *is,
            Self::In(key, wanted, is) => value(key).is_some_and(|v| wanted.contains(&v)) == *is,
            Self::Part(key, word, part) => value(key).is_some_and(|value| match *word {
                "contains" => value.contains(part),
                "starts with" => value.starts_with(part),
                _ => value.ends_with(part),
            }),
            Self::Not(tree) => !tree.is_true(labels),
            Self::And(parts) => parts.iter().all(|part| part.is_true(labels)),
            Self::Or(parts) => parts.iter().any(|part| part.is_true(labels)),
        }
    }
}

const KEYS: [&str; 3] = ["a", "x/y.z", NAMESPACE];
const VALUES: [&str; 5] = ["", "a", "ab", "ba", "aba"];

fn trees() -> impl Strategy<Value = Tree> {
    let key = || prop::sample::select(&KEYS[..]);
    let value = || prop::sample::select(&VALUES[..]);
    let word = prop::sample::select(&["contains", "starts with", "ends with"][..]);
    let leaf = prop_oneof![
        1 => Just(Tree::All),
        1 => Just(Tree::Global),
        2 => key().prop_map(Tree::Has),
        3 => (key(), value(), any::<bool>()).prop_map(|(k, v, is)| Tree::Is(k, v, is)),
        2 => (key(), vec(value(), 1..4), any::<bool>()).prop_map(|(k, v, is)| Tree::In(k, v, is)),
        3 => (key(), word, value()).prop_map(|(k, w, v)| Tree::Part(k, w, v)),
    ];
    leaf.prop_recursive(4, 24, 3, |tree| {
        prop_oneof![
            tree.clone().prop_map(|tree| Tree::Not(Box::new(tree))),
            vec(tree.clone(), 1..4).prop_map(Tree::And),
            vec(tree, 1..4).prop_map(Tree::Or),
        ]
    })
}

fn some_labels() -> impl Strategy<Value = Labels> {
    let value = prop::option::of(prop::sample::select(&VALUES[..]));
    [value.clone(), value.clone(), value].prop_map(|values| {
        let pairs = KEYS.into_iter().zip(values);
        let known = pairs.filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
        known.collect::<BTreeMap<_, _>>()
    })
}

/// Text made of the grammar's words in any order.
fn near_selectors() -> impl Strategy<Value = String> {
    let words = [
        "has(", "all()", "global()", "(", ")", "!", "&&", "||", "==", "!=", "in", "not", "{", "}",
        ",", "'a'", "\"b\"", "'", "a", "b/c", "contains", "starts", "ends", "with", " ", "ü", "&",
        "=",
    ];
    vec(prop::sample::select(words.to_vec()), 0..40).prop_map(|words| words.concat())
}

fn check(text: &str) -> Result<(), TestCaseError> {
    match text.parse::<Selector>() {
        Ok(selector) => prop_assert_eq!(selector.to_string().parse(), Ok(selector)),
        Err(error) => prop_assert!(error.at >= 1 && error.at <= text.chars().count() + 1),
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        check(&text)?;
    }

    #[test]
    fn any_words_are_read_or_refused(text in near_selectors()) {
        check(&text)?;
    }

    #[test]
    fn it_means_what_the_tree_means(tree in trees(), labels in some_labels()) {
        let selector: Selector = tree.text().parse().unwrap();
        prop_assert_eq!(selector.eval(&labels), tree.is_true(&labels));
        prop_assert_eq!(selector.to_string().parse(), Ok(selector));
    }
}
