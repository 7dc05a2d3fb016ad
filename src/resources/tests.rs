use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use super::*;
use crate::manifest::{self, Id, Kind, Resource};

fn resources(text: &str) -> Vec<Resource> {
    let parsed = manifest::parse(text);
    assert!(!parsed.has_errors(), "{:?}", parsed.mistakes);
    parsed
        .resources
        .into_iter()
        .map(|found| found.resource)
        .collect()
}

fn set(name: &str) -> Resource {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{name: {name}, labels: {{a: b}}}}\n\
         spec: {{nets: [203.0.113.0/24]}}\n"
    );
    resources(&text).remove(0)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_saved_is_loaded_and_private() {
    let state = tempfile::tempdir().unwrap();
    let applied = Applied::open(state.path()).unwrap();
    let (one, two) = (set("one"), set("two"));
    for resource in [&two, &one] {
        applied.save(&resource.id(), &resource.to_yaml()).unwrap();
    }
    let folder = state.path().join("resources");
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join("globalnetworkset.one.yaml")), 0o600);
    fs::write(folder.join(".globalnetworkset.x.yaml.tmp"), "half").unwrap();
    let applied = Applied::open(state.path()).unwrap();
    let loaded = applied.load().unwrap();
    assert_eq!(loaded.resources, [one.clone(), two]);
    assert!(loaded.damaged.is_empty());
    assert!(applied.remove(&one.id()).unwrap());
    assert!(!applied.remove(&one.id()).unwrap());
    assert_eq!(applied.load().unwrap().resources.len(), 1);
}

#[test]
fn damage_is_moved_aside_and_told_until_it_is_mended() {
    let state = tempfile::tempdir().unwrap();
    let applied = Applied::open(state.path()).unwrap();
    let one = set("one");
    let text = one.to_yaml();
    let file = "globalnetworkset.one.yaml";
    let path = state.path().join("resources").join(file);
    applied.save(&one.id(), &text).unwrap();
    let good = fs::read(&path).unwrap();
    let cases: [(&str, Vec<u8>); 6] = [
        ("cut short", good[..good.len() - 3].to_vec()),
        (
            "changed",
            String::from_utf8(good.clone())
                .unwrap()
                .replace("203", "204")
                .into_bytes(),
        ),
        ("without a head", text.clone().into_bytes()),
        ("no text", vec![0xff; 40]),
        (
            "another's",
            (sealed::head(&set("two").to_yaml()) + &set("two").to_yaml()).into_bytes(),
        ),
        ("no manifest", (sealed::head("a: [") + "a: [").into_bytes()),
    ];
    for (what, bytes) in cases {
        fs::write(&path, bytes).unwrap();
        let loaded = applied.load().unwrap();
        assert!(loaded.resources.is_empty(), "{what}");
        assert!(loaded.damaged.contains_key(file), "{what}");
        assert!(!path.exists(), "{what}");
        // And after a restart.
        assert!(applied.load().unwrap().damaged.contains_key(file), "{what}");
        applied.save(&one.id(), &text).unwrap();
        let loaded = applied.load().unwrap();
        assert_eq!(
            (loaded.resources.len(), loaded.damaged.len()),
            (1, 0),
            "{what}"
        );
    }
}

/// A set that goes and two that come, and the change that does it.
fn a_change() -> ([Resource; 3], [(Id, Option<String>); 3]) {
    let [old, new, other] = [set("old"), set("new"), set("other")];
    let changes = [
        (new.id(), Some(new.to_yaml())),
        (other.id(), Some(other.to_yaml())),
        (old.id(), None),
    ];
    ([old, new, other], changes)
}

#[test]
fn a_change_that_was_cut_short_is_finished_at_the_next_start() {
    let state = tempfile::tempdir().unwrap();
    let applied = Applied::open(state.path()).unwrap();
    let ([old, new, other], changes) = a_change();
    applied.save(&old.id(), &old.to_yaml()).unwrap();
    // Killed after none, one, two and all of the files.
    for files in 0..=changes.len() {
        let applied = Applied::open(state.path()).unwrap();
        applied.save(&old.id(), &old.to_yaml()).unwrap();
        for resource in [&new, &other] {
            applied.remove(&resource.id()).unwrap();
        }
        applied.begin(&changes).unwrap();
        for (id, text) in changes.iter().take(files) {
            match text {
                Some(text) => applied.save(id, text).unwrap(),
                None => assert!(applied.remove(id).unwrap()),
            }
        }
        let applied = Applied::open(state.path()).unwrap();
        let loaded = applied.load().unwrap();
        assert_eq!(loaded.resources, [new.clone(), other.clone()], "{files}");
        assert!(loaded.damaged.is_empty());
        assert!(!state.path().join("resources/journal").exists());
    }
    // What is over is not done again, also when a single change came after it.
    applied.begin(&changes).unwrap();
    applied.end().unwrap();
    applied.begin(&changes[..1]).unwrap();
    applied.save(&old.id(), &old.to_yaml()).unwrap();
    let loaded = Applied::open(state.path()).unwrap().load().unwrap();
    assert_eq!(loaded.resources.len(), 3);
}

/// The disk that does not take the rest of a change stops no daemon, and the change counts as a whole.
#[test]
fn a_change_that_the_disk_does_not_take_is_in_force_and_finished_later() {
    let state = tempfile::tempdir().unwrap();
    let applied = Applied::open(state.path()).unwrap();
    let ([old, new, other], changes) = a_change();
    applied.save(&old.id(), &old.to_yaml()).unwrap();
    applied.begin(&changes).unwrap();
    let folder = state.path().join("resources");
    let obstacle = folder.join("globalnetworkset.other.yaml");
    fs::create_dir(&obstacle).unwrap();
    let applied = Applied::open(state.path()).unwrap();
    let whole = [new.clone(), other.clone()];
    let loaded = applied.load().unwrap();
    assert_eq!(loaded.resources, whole);
    assert!(loaded.damaged.is_empty(), "{:?}", loaded.damaged);
    // No other change before it.
    let third = [(set("third").id(), Some(set("third").to_yaml()))];
    assert!(applied.begin(&third).is_err());
    assert!(folder.join("journal").exists());
    fs::remove_dir(&obstacle).unwrap();
    applied.begin(&third).unwrap();
    assert!(!folder.join("journal").exists());
    assert_eq!(applied.load().unwrap().resources, whole);
}

#[test]
fn a_damaged_journal_is_kept_aside_and_leaves_no_folder() {
    let state = tempfile::tempdir().unwrap();
    Applied::open(state.path()).unwrap();
    let folder = state.path().join("resources");
    let outside = r#"[{"file":"../x.yaml","text":"a"},{"file":"a.yaml","text":null}]"#;
    for text in ["", "[", &(sealed::head(outside) + outside)] {
        fs::write(folder.join("journal"), text).unwrap();
        Applied::open(state.path()).unwrap();
        assert!(folder.join("journal.damaged").exists(), "{text}");
        assert!(!folder.join("journal").exists() && !state.path().join("x.yaml").exists());
    }
}

#[test]
fn the_longest_names_fit_a_file_and_differ() {
    let long =
        |end: &str| Kind::StagedGlobalNetworkPolicy.id(&format!("t.{}{end}", "x".repeat(240)));
    let (a, b) = (Applied::file(&long("a")), Applied::file(&long("b")));
    assert_ne!(a, b);
    assert!(format!(".{a}.corrupt.tmp").len() <= 255, "{a}");
}

#[test]
fn last_good_texts_are_of_one_folder() {
    let state = tempfile::tempdir().unwrap();
    let texts = LastGoodTexts::open(state.path()).unwrap();
    let dir = Path::new("/etc/feedgate/manifests.d");
    texts.claim(dir).unwrap();
    texts.save("a.yaml", "one").unwrap();
    texts.claim(dir).unwrap();
    assert_eq!(texts.load("a.yaml"), Ok(Some("one".to_owned())));
    assert_eq!(texts.load("b.yaml"), Ok(None));
    assert_eq!(texts.names().unwrap(), ["a.yaml"]);
    let path = state.path().join("manifests-lastgood/a.yaml.good");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + "more").unwrap();
    assert!(texts.load("a.yaml").unwrap_err().contains("checksum"));
    texts.claim(Path::new("/other")).unwrap();
    assert_eq!(texts.names().unwrap(), [""; 0]);
}

#[test]
fn only_manifests_are_read_and_what_cannot_be_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert_eq!(read(&at("nowhere")).unwrap(), []);
    assert_eq!(seen(&at("nowhere")), Seen::default());
    for name in [
        "b.yml",
        "a.yaml",
        "c.json",
        ".hidden.yaml",
        "a.yaml~",
        "README",
        "a.yaml.swp",
    ] {
        fs::write(at(name), name).unwrap();
    }
    fs::write(at("latin.yaml"), b"a: b\nc: \xff\n").unwrap();
    fs::create_dir(at("folder.yaml")).unwrap();
    nix::unistd::mkfifo(&at("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink(at("a.yaml"), at("link.yaml")).unwrap();
    symlink(at("gone"), at("dangling.yaml")).unwrap();
    fs::write(at(&format!("{}.yaml", "n".repeat(220))), "").unwrap();
    let files = read(dir.path()).unwrap();
    let texts: Vec<(&str, &Result<String, String>)> = files
        .iter()
        .map(|file| (file.name.as_str(), &file.text))
        .collect();
    let good = |name: &str, text: &str| texts.contains(&(name, &Ok(text.to_owned())));
    assert!(good("a.yaml", "a.yaml") && good("b.yml", "b.yml") && good("c.json", "c.json"));
    assert!(good("link.yaml", "a.yaml"));
    assert_eq!(files.len(), 9, "{texts:?}");
    let why = |name: &str| {
        let found = texts
            .iter()
            .find(|(file, _)| file.starts_with(name))
            .unwrap();
        found.1.clone().unwrap_err()
    };
    assert!(why("latin").contains("line 2 is not UTF-8"));
    assert_eq!(
        (why("folder"), why("pipe")),
        ("not a file".into(), "not a file".into())
    );
    assert!(why("dangling").contains("cannot be read"));
    assert!(why("nnn").contains("its name has more than"));
}

/// Waits until there is something to look at, at most as long as a busy machine may take.
fn changes(watch: &mut Watch, dir: &Path, before: &Seen) -> bool {
    (0..600).any(|_| watch.wait(dir, Duration::from_millis(100)) && seen(dir) != *before)
}

#[test]
fn a_change_is_noticed_however_it_is_made() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("manifests.d");
    let mut watch = Watch::default();
    let mut before = seen(&dir);
    let mut step = |what: &str, change: &dyn Fn()| {
        // It listens, or has looked and found nothing.
        let _ = watch.wait(&dir, Duration::from_millis(1));
        change();
        assert!(changes(&mut watch, &dir, &before), "{what}");
        before = seen(&dir);
    };
    step("the folder comes with a file", &|| {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a.yaml"), "1").unwrap();
    });
    step("written in place", &|| {
        fs::write(dir.join("a.yaml"), "22").unwrap()
    });
    step("renamed into place", &|| {
        fs::write(dir.join(".a.new"), "33").unwrap();
        fs::rename(dir.join(".a.new"), dir.join("a.yaml")).unwrap();
    });
    step("removed", &|| fs::remove_file(dir.join("a.yaml")).unwrap());
    step("the folder is replaced", &|| {
        fs::rename(&dir, above.path().join("old")).unwrap();
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("b.yaml"), "1").unwrap();
    });
    step("in the new one", &|| {
        fs::write(dir.join("c.yaml"), "1").unwrap()
    });
}
