//! STIX patterns (OASIS STIX 2.1, section 9), as far as they are lists of addresses.
//!
//! Only alternatives can be taken apart: one address of `A OR B` is enough for a match. A pattern
//! with AND, NOT, a sequence or a time window means more than its addresses, and is left alone.

/// Longest pattern that is read, in bytes, and the deepest nesting.
const LONGEST: usize = 1 << 16;
const DEEPEST: usize = 32;

/// What a pattern is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// Any of these addresses or prefixes.
    Addresses(Vec<String>),
    /// It names no address.
    Other,
    /// Its addresses are part of a condition.
    Condition,
    /// It is no pattern.
    Malformed,
}

/// Reads a pattern.
pub(super) fn parse(text: &str) -> Pattern {
    if text.len() > LONGEST {
        return Pattern::Malformed;
    }
    let Some(tokens) = tokens(text) else {
        return Pattern::Malformed;
    };
    let about = |token: &Token| matches!(token, Token::Word(word) if is_address_path(word));
    if !matches!(tokens.first(), Some(Token::Mark('[' | '('))) {
        return Pattern::Malformed;
    }
    if !tokens.iter().any(about) {
        return Pattern::Other;
    }
    let mut parser = Parser {
        tokens: tokens.into_iter().peekable(),
        found: Vec::new(),
    };
    match parser.observations(0) {
        Some(()) if parser.tokens.peek().is_none() => Pattern::Addresses(parser.found),
        _ => Pattern::Condition,
    }
}

/// Where an object holds the address of the far end.
fn is_address_path(path: &str) -> bool {
    matches!(
        path,
        "ipv4-addr:value" | "ipv6-addr:value" | "network-traffic:dst_ref.value"
    )
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A bracket, a parenthesis or a comma.
    Mark(char),
    /// `=`, `!=`, `<`, ...
    Operator(String),
    /// A path, a keyword or a number.
    Word(String),
    /// A text in quotes, unescaped.
    Text(String),
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    found: Vec<String>,
}

/// `None` stands for all that is more than alternatives.
impl Parser {
    /// `[...] OR [...]`
    fn observations(&mut self, depth: usize) -> Option<()> {
        loop {
            match self.tokens.next()? {
                Token::Mark('[') => {
                    self.comparisons(depth)?;
                    self.mark(']')?;
                }
                Token::Mark('(') if depth < DEEPEST => {
                    self.observations(depth + 1)?;
                    self.mark(')')?;
                }
                _ => return None,
            }
            if !self.or() {
                return Some(());
            }
        }
    }

    /// `a = 'x' OR (b IN ('y', 'z'))`
    fn comparisons(&mut self, depth: usize) -> Option<()> {
        loop {
            match self.tokens.next()? {
                Token::Mark('(') if depth < DEEPEST => {
                    self.comparisons(depth + 1)?;
                    self.mark(')')?;
                }
                Token::Word(path) => self.comparison(&path)?,
                _ => return None,
            }
            if !self.or() {
                return Some(());
            }
        }
    }

    fn comparison(&mut self, path: &str) -> Option<()> {
        let values = match self.tokens.next()? {
            Token::Operator(operator) if operator == "=" => vec![self.value()?],
            Token::Word(word) if word == "ISSUBSET" => vec![self.value()?],
            Token::Word(word) if word == "IN" => self.list()?,
            _ => return None,
        };
        if is_address_path(path) {
            self.found.extend(values);
        }
        Some(())
    }

    fn list(&mut self) -> Option<Vec<String>> {
        self.mark('(')?;
        let mut values = vec![self.value()?];
        while self.tokens.next_if_eq(&Token::Mark(',')).is_some() {
            values.push(self.value()?);
        }
        self.mark(')')?;
        Some(values)
    }

    fn value(&mut self) -> Option<String> {
        match self.tokens.next()? {
            Token::Text(text) | Token::Word(text) => Some(text),
            _ => None,
        }
    }

    fn or(&mut self) -> bool {
        let or = |token: &Token| matches!(token, Token::Word(word) if word == "OR");
        self.tokens.next_if(or).is_some()
    }

    fn mark(&mut self, mark: char) -> Option<()> {
        self.tokens.next_if_eq(&Token::Mark(mark)).map(|_| ())
    }
}

/// The tokens of `text`; `None` for a quote that is not closed or a character that fits nowhere.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.trim_start().chars().next() {
        rest = rest.trim_start();
        let (token, behind) = match first {
            '[' | ']' | '(' | ')' | ',' => (Token::Mark(first), rest.get(1..)?),
            '\'' => quoted(rest.get(1..)?)?,
            '=' | '!' | '<' | '>' => {
                let end = rest.find(|c| !"=!<>".contains(c)).unwrap_or(rest.len());
                let (operator, behind) = rest.split_at_checked(end)?;
                (Token::Operator(operator.to_owned()), behind)
            }
            _ => word(rest)?,
        };
        tokens.push(token);
        rest = behind;
    }
    Some(tokens)
}

/// A text behind its opening quote; `\` escapes the next character.
fn quoted(text: &str) -> Option<(Token, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((Token::Text(value), text.get(at + 1..)?)),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// A path such as `file:hashes.'SHA-256'` or `x:y[0].z`, a keyword, or a number.
fn word(text: &str) -> Option<(Token, &str)> {
    let mut end = 0;
    loop {
        let rest = text.get(end..)?;
        let part = rest.find(|c: char| !(c.is_alphanumeric() || "-_:.+*".contains(c)));
        let part = part.unwrap_or(rest.len());
        end += part;
        let behind = text.get(end..)?;
        let so_far = text.get(..end)?;
        if let Some(name) = behind.strip_prefix('\'').filter(|_| so_far.ends_with('.')) {
            end += name.find('\'')? + 2;
        } else if let Some(index) = behind.strip_prefix('[').filter(|_| part > 0)
            && let Some(close) = index.find(']')
            && index
                .get(..close)?
                .chars()
                .all(|c| c.is_ascii_digit() || c == '*')
        {
            end += close + 2;
        } else if so_far.is_empty() {
            return None;
        } else {
            return Some((Token::Word(so_far.to_owned()), behind));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn alternatives_are_addresses() {
        for (text, addresses) in [
            (
                "[ipv4-addr:value = '198.51.100.42']",
                &["198.51.100.42"][..],
            ),
            ("[ipv4-addr:value='198.51.100.42']", &["198.51.100.42"]),
            (
                "[ipv4-addr:value = '192.0.2.1' OR ipv6-addr:value = '2001:db8::1']",
                &["192.0.2.1", "2001:db8::1"],
            ),
            (
                "[ipv4-addr:value IN ('192.0.2.1', '192.0.2.2')]",
                &["192.0.2.1", "192.0.2.2"],
            ),
            (
                "[ipv4-addr:value ISSUBSET '198.51.100.0/24']",
                &["198.51.100.0/24"],
            ),
            (
                "[network-traffic:dst_ref.value = '192.0.2.9']",
                &["192.0.2.9"],
            ),
            (
                "([ipv4-addr:value = '192.0.2.1'] OR [ipv4-addr:value = '192.0.2.2'])",
                &["192.0.2.1", "192.0.2.2"],
            ),
            (
                "[(domain-name:value = 'a.example' OR ipv4-addr:value = '192.0.2.1')]",
                &["192.0.2.1"],
            ),
            (
                "[file:hashes.'SHA-256' = 'ab' OR x:y[0].z = 1 OR ipv4-addr:value = '192.0.2.1']",
                &["192.0.2.1"],
            ),
        ] {
            let Pattern::Addresses(found) = parse(text) else {
                panic!("{text}")
            };
            assert_eq!(found, addresses, "{text}");
        }
    }

    #[test]
    fn conditions_are_left_alone() {
        for text in [
            "[ipv4-addr:value = '192.0.2.1' AND network-traffic:dst_port = 443]",
            "[ipv4-addr:value != '192.0.2.1']",
            "[ipv4-addr:value NOT = '192.0.2.1']",
            "[NOT ipv4-addr:value = '192.0.2.1']",
            "[ipv4-addr:value LIKE '192.0.2.%']",
            "[ipv4-addr:value ISSUPERSET '192.0.2.0/24']",
            "[ipv4-addr:value = '192.0.2.1'] FOLLOWEDBY [domain-name:value = 'a.example']",
            "[ipv4-addr:value = '192.0.2.1'] WITHIN 300 SECONDS",
            "[ipv4-addr:value = '192.0.2.1'] AND [ipv4-addr:value = '192.0.2.2']",
            "[ipv4-addr:value = '192.0.2.1' OR ipv4-addr:value != '192.0.2.2']",
            "[ipv4-addr:value = '192.0.2.1'",
        ] {
            assert_eq!(parse(text), Pattern::Condition, "{text}");
        }
        let deep = "(".repeat(10_000) + "[ipv4-addr:value = '192.0.2.1']";
        assert_eq!(parse(&deep), Pattern::Condition);
    }

    #[test]
    fn other_objects_and_no_patterns() {
        assert_eq!(parse("[domain-name:value = 'a.example']"), Pattern::Other);
        assert_eq!(parse("[file:name = '[ipv4-addr:value']"), Pattern::Other);
        for text in [
            "",
            "192.0.2.1",
            "[ipv4-addr:value = '192.0.2.1]",
            "[a = \"x\"]",
        ] {
            assert_eq!(parse(text), Pattern::Malformed, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,80}|(\\[|\\]|\\(|\\)|,|'|=|\\\\| OR | IN |ipv4-addr:value|x[*]|[0-9]){0,40}") {
            let _ = parse(&text);
        }
    }
}
