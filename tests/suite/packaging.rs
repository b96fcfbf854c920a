//! What is published beside the code tells the same version, in the forms that others read.

use crate::bed::tree;
use serde_json::{Map, Value};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn file(name: &str) -> String {
    std::fs::read_to_string(tree(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn object<'a>(map: &'a Map<String, Value>, key: &str) -> &'a Map<String, Value> {
    map.get(key).and_then(Value::as_object).unwrap_or_else(|| panic!("{key} is no object"))
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    let text = map.get(key).and_then(Value::as_str).unwrap_or_else(|| panic!("{key} is no text"));
    assert!(!text.is_empty() && !text.chars().any(char::is_control), "{key}");
    text
}

/// Three numbers without leading zeros, as PGXN wants them.
fn is_semantic(version: &str) -> bool {
    let parts: Vec<_> = version.split('.').collect();
    parts.len() == 3
        && parts.iter().all(|part| part.parse::<u32>().is_ok_and(|n| n.to_string() == **part))
}

/// The rules of PGXN Meta Spec 1.0.0 (<https://pgxn.org/meta/spec.txt>).
#[test]
fn pgxn_takes_the_metadata() {
    const KEYS: [&str; 15] = [
        "abstract",
        "date",
        "description",
        "generated_by",
        "license",
        "maintainer",
        "meta-spec",
        "name",
        "no_index",
        "prereqs",
        "provides",
        "release_status",
        "resources",
        "tags",
        "version",
    ];
    let meta: Value = serde_json::from_str(&file("META.json")).unwrap();
    let meta = meta.as_object().unwrap();
    for key in meta.keys() {
        assert!(KEYS.contains(&key.as_str()) || key.starts_with("x_"), "{key} is unknown");
    }
    let name = text(meta, "name");
    assert!(name.len() >= 2 && !name.contains(['/', '\\', ':', ' ']), "{name}");
    for key in ["abstract", "description", "generated_by"] {
        text(meta, key);
    }
    assert_eq!(text(meta, "version"), VERSION);
    assert!(is_semantic(VERSION));
    // A list is allowed too; this is one name.
    text(meta, "maintainer");
    const LICENSES: [&str; 6] = ["postgresql", "apache_2_0", "bsd", "mit", "gpl_3", "unrestricted"];
    assert!(LICENSES.contains(&text(meta, "license")));
    assert!(["stable", "testing", "unstable"].contains(&text(meta, "release_status")));
    let spec = object(meta, "meta-spec");
    assert_eq!(text(spec, "version"), "1.0.0");
    assert!(text(spec, "url").starts_with("https://pgxn.org/meta/spec"));
    let provides = object(meta, "provides");
    assert!(!provides.is_empty());
    for (name, _) in provides {
        let provided = object(provides, name);
        assert_eq!(text(provided, "version"), VERSION);
        file(text(provided, "file"));
        file(text(provided, "docfile"));
    }
    let prereqs = object(meta, "prereqs");
    for (phase, _) in prereqs {
        assert!(["configure", "build", "test", "runtime", "develop"].contains(&phase.as_str()));
        let relations = object(prereqs, phase);
        for (relation, _) in relations {
            let known = ["requires", "recommends", "suggests", "conflicts"];
            assert!(known.contains(&relation.as_str()), "{relation}");
            let wanted = object(relations, relation);
            assert!(wanted.keys().all(|name| is_semantic(text(wanted, name))), "{wanted:?}");
        }
    }
    for tag in meta["tags"].as_array().unwrap() {
        let tag = tag.as_str().unwrap();
        assert!(!tag.is_empty() && tag.len() <= 255 && !tag.contains(['/', '\\']), "{tag}");
    }
}

#[test]
fn the_changelog_and_the_image_are_of_this_version() {
    let changelog = file("CHANGELOG.md");
    let latest = changelog.lines().find(|line| line.starts_with("## ")).unwrap();
    let headings = [format!("## [Unreleased] - {VERSION}"), format!("## [{VERSION}] - ")];
    assert!(headings.iter().any(|heading| latest.starts_with(heading)), "{latest}");
    // The tests' own package is of the version that it tests.
    assert!(file("Cargo.toml").contains(&format!("\nversion = \"{VERSION}\"\n")));
    assert!(file("LICENSE").starts_with("PostgreSQL License\n"));
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert!(file("Cargo.toml").contains(&format!("\nrust-version = \"{rust}\"\n")));
    assert!(file("Dockerfile").contains(&format!("\nFROM rust:{rust}-")), "not Rust {rust}");
    assert!(file("docs/operate/install.md").contains(&format!("Rust {rust} or later")));
}
