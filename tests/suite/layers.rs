//! Arrows point one way: which folder of the code may know which, as docs/explain/architecture.md has it.

use crate::bed::tree;
use std::collections::BTreeSet;
use std::path::Path;

/// A folder, or a file beside it, and all that it may know.
const MAY_KNOW: [(&str, &[&str]); 5] = [
    ("core", &["core", "error"]),
    ("error", &["core", "error"]),
    ("protocol", &["core", "error", "protocol"]),
    ("gateway", &["core", "error", "protocol", "gateway", "clock", "keyring"]),
    ("front", &["core", "error", "protocol", "gateway", "front", "clock", "answer"]),
];

fn sources(place: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The modules that a text names after `crate::`.
fn known(text: &str) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let names = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => rest,
        };
        let is_list = names.len() < rest.len();
        for name in names.split(',').take(if is_list { usize::MAX } else { 1 }) {
            let name: String = name
                .trim()
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || matches!(c, '_' | '0'..='9'))
                .collect();
            if !name.is_empty() {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn no_folder_knows_what_it_may_not() {
    for (folder, may_know) in MAY_KNOW {
        let mut files = vec![];
        sources(&tree("src").join(folder), &mut files);
        if let Ok(text) = std::fs::read_to_string(tree("src").join(format!("{folder}.rs"))) {
            files.push((format!("src/{folder}.rs"), text));
        }
        assert!(!files.is_empty(), "{folder}");
        for (file, text) in files {
            for module in known(&text) {
                assert!(may_know.contains(&module.as_str()), "{file} knows {module}");
            }
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let names_pgrx =
                code.clone().any(|line| line.contains("pgrx") || line.contains("pg_sys"));
            assert!(!names_pgrx, "{file} names pgrx");
        }
    }
}

#[test]
fn what_a_text_knows_is_seen() {
    let text = "use crate::core::json;\n// crate::worker\nuse crate::{settings, sqlstate};\nlet a = crate::time::now();";
    assert_eq!(
        known(text).into_iter().collect::<Vec<_>>(),
        ["core", "settings", "sqlstate", "time"]
    );
}
