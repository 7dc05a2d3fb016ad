//! The words of `apply`, `get`, `describe` and `delete`.

use std::path::PathBuf;

use crate::control::Window;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Apply {
    #[command(flatten)]
    pub(super) files: Files,
    #[command(flatten)]
    pub(super) dry: Dry,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Files {
    /// A manifest, a folder of them, or `-`: standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
}

/// `--dry-run`
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Dry {
    /// Only say what would be done; `server` and `client` mean the same here
    #[arg(long, value_enum, value_name = "WORD", num_args = 0..=1, require_equals = true,
        default_value = "none", default_missing_value = "server", hide_default_value = true)]
    dry_run: DryWord,
}

impl Dry {
    pub(super) fn run(self) -> bool {
        self.dry_run != DryWord::None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DryWord {
    None,
    Server,
    Client,
}

/// Which resources.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Which {
    /// KIND, KIND,KIND, KIND NAME..., KIND/NAME..., or all. Kinds: globalthreatfeeds (gtf), globalnetworksets (gns),
    /// globalnetworkpolicies (gnp), stagedglobalnetworkpolicies (sgnp), tiers
    #[arg(value_name = "KIND", required = true)]
    pub(super) words: Vec<String>,
    /// Only those with such labels: `a=b`, `a!=b`, `a in (b,c)`, `a notin (b)`, `a`, `!a`, with commas between
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(super) selector: Option<String>,
    /// So many nets of each network set; 0: all. Without it 1,000 of those that a feed keeps
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Leave out so many nets before them
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    offset: usize,
}

impl Which {
    #[cfg(test)]
    pub(super) fn of(words: &[&str]) -> Self {
        Self {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            selector: None,
            limit: None,
            offset: 0,
        }
    }

    pub(super) fn window(&self) -> Window {
        Window {
            limit: self.limit,
            offset: self.offset,
        }
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Get {
    #[command(flatten)]
    pub(super) which: Which,
    /// How it is printed; a table without it
    #[arg(short, long, value_enum, value_name = "FORM", conflicts_with = "json")]
    output: Option<Form>,
    /// Print JSON, as `-o json`
    #[arg(long)]
    json: bool,
}

impl Get {
    pub(super) fn form(&self) -> Option<Form> {
        if self.json {
            Some(Form::Json)
        } else {
            self.output
        }
    }
}

/// `-o`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    Yaml,
    Json,
    Wide,
    Name,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Describe {
    #[command(flatten)]
    pub(super) which: Which,
    /// Print JSON, as `get -o json`
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Delete {
    /// KIND NAME... or KIND/NAME...
    #[arg(
        value_name = "KIND",
        required_unless_present = "files",
        conflicts_with = "files"
    )]
    pub(super) words: Vec<String>,
    /// What these manifests hold: a manifest, a folder of them, or `-`: standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// All applied ones of the kinds
    #[arg(long, conflicts_with = "files")]
    pub(super) all: bool,
    /// One that is not there is fine
    #[arg(long)]
    pub(super) ignore_not_found: bool,
    #[command(flatten)]
    pub(super) dry: Dry,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}
