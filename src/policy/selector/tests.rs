use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::policy::tree_tests::{VALUES, trees};

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

const KEYS: [&str; 3] = ["a", "x/y.z", NAMESPACE];

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
    fn it_means_what_the_tree_means(tree in trees(&KEYS), labels in some_labels()) {
        let selector: Selector = tree.text().parse().unwrap();
        prop_assert_eq!(selector.eval(&labels), tree.is_true(&labels));
        prop_assert_eq!(selector.to_string().parse(), Ok(selector));
    }
}
