//! The text of a selector into its tree; every complaint has its place and says what to write.

use super::{Atom, MAX_DEPTH, MAX_KEY, MAX_LENGTH, Node, SelectorError, Test};

type Result<T> = std::result::Result<T, SelectorError>;

/// What a condition may start with, for messages.
const CONDITION: &str = r#"a condition such as has(key), key == "value", !, or ("#;
/// What may follow a key, for messages.
const OPERATORS: &str = "==, !=, in, not in, contains, starts with or ends with";
/// Characters of the text that a message repeats.
const SHOWN: usize = 40;

/// The tree of `text`; of an empty one, `all()`.
pub(super) fn parse(text: &str) -> Result<Node> {
    let mut parser = Parser { text, at: 0 };
    if text.chars().count() > MAX_LENGTH {
        let message = format!("the selector is longer than {MAX_LENGTH} characters");
        let at = MAX_LENGTH + 1;
        return Err(SelectorError { message, at });
    }
    if parser.peek().is_none() {
        return Ok(Node::Atom(Atom::All));
    }
    let node = parser.any(0)?;
    if parser.peek().is_some() {
        return Err(parser.expected("&&, || or the end"));
    }
    // The canonical text has spaces that this one may lack, and has to parse as well.
    if node.to_string().chars().count() > MAX_LENGTH {
        let message = format!(
            "the selector is longer than {MAX_LENGTH} characters with a space between words"
        );
        return Err(SelectorError { message, at: 1 });
    }
    Ok(node)
}

/// Where in the text it is: a byte, always at the start of a character.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    /// Conditions with `||` between them.
    fn any(&mut self, depth: usize) -> Result<Node> {
        let mut parts = vec![self.every(depth)?];
        while self.operator("||")? {
            parts.push(self.every(depth)?);
        }
        Ok(Node::or(parts))
    }

    /// Conditions with `&&` between them.
    fn every(&mut self, depth: usize) -> Result<Node> {
        let mut parts = vec![self.one(depth)?];
        while self.operator("&&")? {
            parts.push(self.one(depth)?);
        }
        Ok(Node::and(parts))
    }

    /// One condition or group, with any number of `!` before it.
    fn one(&mut self, depth: usize) -> Result<Node> {
        let mut negated = false;
        while self.eat("!") {
            negated = !negated;
        }
        let node = match self.peek() {
            Some('(') => self.group(depth)?,
            Some(char) if is_key(char) => self.condition()?,
            Some('"' | '\'') => {
                let hint = "; the key of a label is written without quotes";
                return Err(self.expected_with("the key of a label", hint));
            }
            _ => return Err(self.expected(CONDITION)),
        };
        Ok(if negated { node.negated() } else { node })
    }

    /// `( ... )`.
    fn group(&mut self, depth: usize) -> Result<Node> {
        if depth >= MAX_DEPTH {
            let message = format!("more than {MAX_DEPTH} parentheses inside each other");
            return Err(self.error(message));
        }
        let open = self.at;
        self.eat("(");
        let node = self.any(depth + 1)?;
        if self.eat(")") {
            return Ok(node);
        }
        let at = self.position(open);
        Err(self.expected(&format!("&&, || or a ) for the ( at character {at}")))
    }

    /// `all()`, `global()`, `has(key)` or a key with an operator and its value.
    fn condition(&mut self) -> Result<Node> {
        let start = self.at;
        let word = self.word();
        if self.peek() == Some('(') {
            return self.call(start, word).map(Node::Atom);
        }
        let key = self.key(start, word)?;
        let (test, negated) = self.test()?;
        let node = Node::Atom(Atom::Label(key, test));
        Ok(if negated { node.negated() } else { node })
    }

    /// What follows the name of a function.
    fn call(&mut self, start: usize, name: &str) -> Result<Atom> {
        let atom = match name {
            "all" | "global" | "has" => name,
            _ => {
                let name = clip(name);
                let message =
                    format!("there is no function `{name}`, only all(), global() and has(key)");
                return Err(self.error_at(start, message));
            }
        };
        self.eat("(");
        let atom = match atom {
            "all" => Atom::All,
            "global" => Atom::Global,
            _ => {
                self.peek();
                let start = self.at;
                let word = self.word();
                if word.is_empty() {
                    let hint = "; it is written without quotes";
                    return Err(self.expected_with("the key of a label after has(", hint));
                }
                Atom::Label(self.key(start, word)?, Test::Exists)
            }
        };
        if self.eat(")") {
            return Ok(atom);
        }
        Err(self.expected(&format!("a ) to end {name}(")))
    }

    /// The operator behind a key, with its value; true when it is the negation of the test.
    fn test(&mut self) -> Result<(Test, bool)> {
        if self.eat("==") {
            return Ok((Test::Equals(self.value("==")?), false));
        }
        if self.eat("!=") {
            return Ok((Test::Equals(self.value("!=")?), true));
        }
        if self.peek() == Some('=') {
            return Err(self.error("write == for equality".to_owned()));
        }
        let start = self.at;
        let test = match self.word() {
            "in" => (Test::In(self.values("in")?), false),
            "not" if self.eat_word("in") => (Test::In(self.values("not in")?), true),
            "not" => return Err(self.expected("in after not")),
            "contains" => (Test::Contains(self.value("contains")?), false),
            "starts" if self.eat_word("with") => {
                (Test::StartsWith(self.value("starts with")?), false)
            }
            "starts" => return Err(self.expected("with after starts")),
            "ends" if self.eat_word("with") => (Test::EndsWith(self.value("ends with")?), false),
            "ends" => return Err(self.expected("with after ends")),
            _ => {
                self.at = start;
                return Err(self.expected(OPERATORS));
            }
        };
        Ok(test)
    }

    /// `{"a", "b"}`, sorted and without duplicates; a comma may follow the last.
    fn values(&mut self, after: &str) -> Result<Vec<String>> {
        if !self.eat("{") {
            let hint = r#"; write {"a", "b"}"#;
            return Err(self.expected_with(&format!("a {{ after {after}"), hint));
        }
        let mut values = Vec::new();
        while !self.eat("}") {
            let after = if values.is_empty() { "{" } else { "," };
            values.push(self.value(after)?);
            if !self.eat(",") && self.peek() != Some('}') {
                return Err(self.expected("a , or a }"));
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    /// A value in single or double quotes. There are no escapes.
    fn value(&mut self, after: &str) -> Result<String> {
        let quote = match self.peek() {
            Some(quote @ ('"' | '\'')) => quote,
            Some(char) if is_key(char) => {
                let start = self.at;
                let word = clip(self.word());
                self.at = start;
                let hint = format!("; write \"{word}\" in quotes");
                return Err(self.expected_with(&format!("a quoted value after {after}"), &hint));
            }
            _ => return Err(self.expected(&format!("a quoted value after {after}"))),
        };
        let rest = self.rest().get(1..).unwrap_or_default();
        let Some((value, _)) = rest.split_once(quote) else {
            return Err(self.error(format!("the value has no closing {quote}")));
        };
        let start = self.at + 1;
        if let Some((at, _)) = value.char_indices().find(|(_, char)| char.is_control()) {
            let message = "a value holds a control character".to_owned();
            return Err(self.error_at(start + at, message));
        }
        self.at = start + value.len() + 1;
        Ok(value.to_owned())
    }

    fn key(&self, start: usize, word: &str) -> Result<String> {
        if word.len() > MAX_KEY {
            let message = format!("the key of a label is longer than {MAX_KEY} characters");
            return Err(self.error_at(start, message));
        }
        Ok(word.to_owned())
    }

    /// `&&` or `||`; half of one is an error.
    fn operator(&mut self, operator: &str) -> Result<bool> {
        if self.eat(operator) {
            return Ok(true);
        }
        let half = operator.chars().next();
        if self.peek() == half {
            return Err(self.error(format!("write {operator}")));
        }
        Ok(false)
    }

    /// Takes `text` when it comes next.
    fn eat(&mut self, text: &str) -> bool {
        self.peek();
        let is_next = self.rest().starts_with(text);
        if is_next {
            self.at += text.len();
        }
        is_next
    }

    /// Takes the word when it comes next.
    fn eat_word(&mut self, wanted: &str) -> bool {
        self.peek();
        let start = self.at;
        let is_next = self.word() == wanted;
        if !is_next {
            self.at = start;
        }
        is_next
    }

    /// Takes the characters of a key that come next, perhaps none.
    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|char| !is_key(char)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or_default()
    }

    /// Skips white space; the character after it.
    fn peek(&mut self) -> Option<char> {
        let rest = self.rest();
        let after = rest.trim_start();
        self.at += rest.len() - after.len();
        after.chars().next()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn expected(&mut self, what: &str) -> SelectorError {
        self.expected_with(what, "")
    }

    fn expected_with(&mut self, what: &str, hint: &str) -> SelectorError {
        let found = match self.peek() {
            None => "the end".to_owned(),
            Some(char) if is_key(char) => {
                let start = self.at;
                let word = clip(self.word());
                self.at = start;
                format!("`{word}`")
            }
            Some(char) if char.is_control() => format!("`{}`", char.escape_default()),
            Some(char) => format!("`{char}`"),
        };
        self.error(format!("expected {what}, found {found}{hint}"))
    }

    fn error(&self, message: String) -> SelectorError {
        self.error_at(self.at, message)
    }

    fn error_at(&self, at: usize, message: String) -> SelectorError {
        let at = self.position(at);
        SelectorError { message, at }
    }

    /// The byte as a character from 1.
    fn position(&self, at: usize) -> usize {
        self.text.get(..at).unwrap_or_default().chars().count() + 1
    }
}

/// A character of a key.
fn is_key(char: char) -> bool {
    char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '/' | '-')
}

/// A word of the text as far as a message repeats it.
fn clip(word: &str) -> &str {
    word.get(..SHOWN).unwrap_or(word)
}
