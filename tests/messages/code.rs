//! The texts of the code: every string literal outside of tests, with the place where it stands.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Expr, ExprCall, ExprMethodCall, ImplItemFn, Item, Lit, LitStr, Macro, Meta, Pat,
    visit::{self, Visit},
};

/// A string literal.
pub struct Text {
    /// Below `src`, such as `nft/mod.rs`.
    pub file: String,
    pub line: usize,
    /// What it stands in, outermost first: `fn name`, `const NAME`, `call`, `Type::call`, `.method`, `macro!`,
    /// `#error`.
    pub place: Vec<String>,
    pub text: String,
    /// With `…` for what differs from case to case, and one space for all white space.
    pub template: String,
}

/// A text with `…` for what differs from case to case, and one space for all white space.
fn template(text: &str) -> String {
    let mut template = String::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '{' | '}' if chars.peek() == Some(&char) => {
                chars.next();
                template.push(char);
            }
            '{' => {
                chars.by_ref().find(|char| *char == '}');
                template.push('…');
            }
            char => template.push(char),
        }
    }
    let words: Vec<&str> = template.split_whitespace().collect();
    words.join(" ")
}

/// How many letters a text has.
pub fn letters(text: &str) -> usize {
    text.chars().filter(|char| char.is_alphabetic()).count()
}

/// All texts of `src`, in the order of files.
pub fn texts() -> &'static [Text] {
    static TEXTS: LazyLock<Vec<Text>> = LazyLock::new(read);
    &TEXTS
}

fn read() -> Vec<Text> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    product_files(&root, &mut files);
    files.sort();
    let mut found = Finder::default();
    for file in files {
        found.file = file.strip_prefix(&root).unwrap().display().to_string();
        let code = fs::read_to_string(&file).unwrap();
        let code = syn::parse_file(&code).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        found.visit_file(&code);
    }
    found.texts
}

/// Rust files that are not for tests alone (`tests.rs`, `tests/...`, `..._tests.rs`, `testing.rs`).
fn product_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if name == "tests" || name.ends_with("tests.rs") || name == "testing.rs" {
            continue;
        }
        if path.is_dir() {
            product_files(&path, files);
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
}

#[derive(Default)]
struct Finder {
    file: String,
    place: Vec<String>,
    texts: Vec<Text>,
}

impl Finder {
    fn inside(&mut self, place: String, look: impl FnOnce(&mut Self)) {
        self.place.push(place);
        look(self);
        self.place.pop();
    }

    fn found(&mut self, text: String, line: usize) {
        self.texts.push(Text {
            file: self.file.clone(),
            line,
            place: self.place.clone(),
            template: template(&text),
            text,
        });
    }

    /// The inside of a macro or an attribute, which is no syntax tree: calls and macros in it are places too.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = tokens.as_slice();
        while let [first, after @ ..] = rest {
            rest = after;
            match (first, after) {
                (
                    TokenTree::Ident(name),
                    [TokenTree::Punct(mark), TokenTree::Group(group), after @ ..],
                ) if mark.as_char() == '!' => {
                    self.inside(format!("{name}!"), |it| it.tokens(group.stream()));
                    rest = after;
                }
                (TokenTree::Ident(name), [TokenTree::Group(group), after @ ..]) => {
                    self.inside(name.to_string(), |it| it.tokens(group.stream()));
                    rest = after;
                }
                (TokenTree::Group(group), _) => self.tokens(group.stream()),
                (TokenTree::Literal(literal), _) => {
                    if let Ok(Lit::Str(text)) = syn::parse_str(&literal.to_string()) {
                        self.found(text.value(), literal.span().start().line);
                    }
                }
                _ => {}
            }
        }
    }
}

impl<'a> Visit<'a> for Finder {
    /// Of attributes only the texts of errors count: the others are documents and help.
    fn visit_attribute(&mut self, attribute: &'a Attribute) {
        if attribute.path().is_ident("error")
            && let Meta::List(list) = &attribute.meta
        {
            self.inside("#error".into(), |it| it.tokens(list.tokens.clone()));
        }
    }

    fn visit_item(&mut self, item: &'a Item) {
        let (attributes, place) = match item {
            Item::Const(item) => (&item.attrs, Some(format!("const {}", item.ident))),
            Item::Static(item) => (&item.attrs, Some(format!("const {}", item.ident))),
            Item::Fn(item) => (&item.attrs, Some(format!("fn {}", item.sig.ident))),
            Item::Impl(item) => (&item.attrs, None),
            Item::Mod(item) => (&item.attrs, None),
            _ => return visit::visit_item(self, item),
        };
        if is_for_tests(attributes) {
            return;
        }
        match place {
            Some(place) => self.inside(place, |it| visit::visit_item(it, item)),
            None => visit::visit_item(self, item),
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'a ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            let place = format!("fn {}", item.sig.ident);
            self.inside(place, |it| visit::visit_impl_item_fn(it, item));
        }
    }

    fn visit_macro(&mut self, call: &'a Macro) {
        let name = call.path.segments.last().unwrap();
        self.inside(format!("{}!", name.ident), |it| {
            it.tokens(call.tokens.clone())
        });
    }

    fn visit_expr_call(&mut self, call: &'a ExprCall) {
        let place = match &*call.func {
            Expr::Path(path) => {
                let names = path.path.segments.iter().map(|part| part.ident.to_string());
                names.collect::<Vec<_>>().join("::")
            }
            _ => "call".to_owned(),
        };
        self.inside(place, |it| visit::visit_expr_call(it, call));
    }

    fn visit_expr_method_call(&mut self, call: &'a ExprMethodCall) {
        self.visit_expr(&call.receiver);
        self.inside(format!(".{}", call.method), |it| {
            call.args
                .iter()
                .for_each(|argument| it.visit_expr(argument));
        });
    }

    /// What is compared with is not said.
    fn visit_pat(&mut self, _: &'a Pat) {}

    fn visit_lit_str(&mut self, text: &'a LitStr) {
        self.found(text.value(), text.span().start().line);
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}
