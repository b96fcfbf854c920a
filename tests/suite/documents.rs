//! What the documents beside the README say: their SQL runs, and the tests that they name exist.

use crate::bed::{self, nodes, rows, tree, value};

fn read(name: &str) -> String {
    std::fs::read_to_string(tree(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The documents beside the pages.
const DOCUMENTS: [&str; 6] = [
    "README.md",
    "SECURITY.md",
    "SCALING.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "packaging/RELEASE.md",
];

/// The pages below docs, in the order of their names.
pub fn pages() -> Vec<String> {
    let mut found = vec![];
    for folder in std::fs::read_dir(tree("docs")).unwrap().flatten() {
        let Ok(files) = std::fs::read_dir(folder.path()) else { continue };
        for file in files.flatten() {
            let (folder, file) = (folder.file_name(), file.file_name());
            let page = format!("docs/{}/{}", folder.display(), file.display());
            assert!(page.ends_with(".md"), "{page}");
            found.push(page);
        }
    }
    found.sort();
    assert!(found.len() > 8, "{found:?}");
    found
}

/// What GitHub calls a heading in links.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().replace(' ', "-")
}

/// A document without its fenced blocks.
fn prose(document: &str) -> Vec<&str> {
    let mut is_inside = false;
    let lines = document.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_inside ^= is_fence;
        !is_inside && !is_fence
    });
    lines.collect()
}

#[test]
fn every_link_between_the_documents_leads_somewhere() {
    let documents = DOCUMENTS.into_iter().map(str::to_owned).chain(pages());
    let mut links = 0;
    for document in documents {
        let text = read(&document);
        for line in prose(&text) {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if link.starts_with("https://") {
                    continue;
                }
                links += 1;
                let (file, heading) = link.split_once('#').unwrap_or((link, ""));
                let folder = tree(&document);
                let target = match file {
                    "" => folder,
                    file => folder.parent().unwrap().join(file),
                };
                assert!(target.exists(), "{document}: {link} leads nowhere");
                if heading.is_empty() {
                    continue;
                }
                let target = std::fs::read_to_string(target).unwrap();
                let is_there = prose(&target)
                    .iter()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| anchor(line.trim_start_matches('#')) == heading);
                assert!(is_there, "{document}: {link} leads to no heading");
            }
        }
    }
    assert!(links > 40, "{links}");
}

/// The text of the fenced blocks that begin with this word.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let mut found = vec![];
    let mut inside = false;
    for line in document.lines() {
        if let Some(kind) = line.strip_prefix("```") {
            inside = kind == language;
            if inside {
                found.push(String::new());
            }
        } else if inside {
            let block = found.last_mut().expect("a block is open");
            *block += line;
            block.push('\n');
        }
    }
    found
}

/// What stands between single backticks.
fn quoted_code(document: &str) -> impl Iterator<Item = &str> {
    document.split('`').skip(1).step_by(2)
}

/// Tests that a document names, as `file::test`.
fn named_tests(document: &str) -> Vec<(&str, &str)> {
    quoted_code(document).filter_map(|code| code.split_once(".rs::")).collect()
}

fn assert_is_a_test(document: &str, file: &str, test: &str) {
    let source = ["tests/suite/", "src/"]
        .iter()
        .find_map(|folder| std::fs::read_to_string(tree(&format!("{folder}{file}.rs"))).ok());
    let source = source.unwrap_or_else(|| panic!("{document}: there is no {file}.rs"));
    let before = source
        .split_once(&format!("fn {test}()"))
        .unwrap_or_else(|| panic!("{document}: {file}.rs has no test {test}"))
        .0;
    let before = before.trim_end().trim_end_matches("async").trim_end();
    let attribute = before.lines().next_back().unwrap_or_default().trim();
    let is_test = attribute.starts_with("#[") && attribute.contains("test");
    assert!(is_test, "{document}: {file}.rs::{test} is no test: {attribute}");
}

/// The lines of a document's tables, without their heads.
fn table_lines(document: &str) -> impl Iterator<Item = &str> {
    document
        .lines()
        .filter(|line| line.starts_with("| ") && !line.ends_with("| Test |"))
        .filter(|line| !line.starts_with("| ---"))
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let mut documents = pages();
    documents.extend(DOCUMENTS.map(str::to_owned));
    for document in &documents {
        let text = read(document);
        // A fence would turn what is code and what is not round.
        let text = prose(&text).join("\n");
        for (file, test) in named_tests(&text) {
            if file != "file" {
                assert_is_a_test(document, file, test);
            }
        }
    }
    let (security, guarantees) = (read("SECURITY.md"), read("docs/explain/guarantees.md"));
    assert!(named_tests(&security).len() > 100 && named_tests(&guarantees).len() > 40);
    // Who can do what: each line has a test, or says why it needs none.
    for line in table_lines(&security) {
        assert!(line.contains(".rs::") || line.contains("Nothing inside the server"), "{line}");
    }
    for line in table_lines(&guarantees) {
        assert!(line.contains(".rs::"), "{line}");
    }
}

#[test]
fn the_code_map_has_what_is_there_and_nothing_else() {
    let page = read("docs/explain/architecture.md");
    let map = page.split("## Code map").nth(1).unwrap().split("\n## ").next().unwrap();
    let places: Vec<&str> = quoted_code(map).filter(|code| code.contains('/')).collect();
    for place in &places {
        assert!(tree(place).exists(), "{place} is not there");
    }
    for entry in std::fs::read_dir(tree("src")).unwrap().flatten() {
        let place = format!("src/{}", entry.file_name().display());
        assert!(places.contains(&place.as_str()), "the code map lacks {place}");
    }
}

/// Words that were ours alone, and what the field says.
const WORDS: [(&str, &str); 5] = [
    ("sealed", "encrypted"),
    ("set aside", "reserved, or quarantined"),
    ("cools down", "gets a cooldown"),
    ("limits in flight", "concurrency limits"),
    ("stand-in", "mock provider"),
];

#[test]
fn documents_use_the_words_of_the_field() {
    let own = pages().into_iter().filter(|page| !page.starts_with("docs/reference/"));
    for document in own.chain(["SECURITY.md".to_owned(), "CONTRIBUTING.md".to_owned()]) {
        let text = read(&document);
        let text = prose(&text).join(" ").to_lowercase();
        // Names of tests keep theirs.
        let text: String = text.split('`').step_by(2).collect();
        for (word, instead) in WORDS {
            assert!(!text.contains(word), "{document} says '{word}', and not '{instead}'");
        }
    }
}

#[test]
fn the_page_has_every_lint_that_stays() {
    let page = read("docs/guides/supabase.md");
    let listed = page.split("<!-- lints -->").nth(1).unwrap().split("<!-- /lints -->").next();
    let listed: Vec<Vec<&str>> = listed
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect()
        })
        .collect();
    let known = read("tests/clients/lints.txt");
    let known: Vec<(&str, &str)> = known
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('#')?.0.trim().split_once(' '))
        .map(|(lint, object)| (lint, object.trim().trim_matches(['(', ')'])))
        .collect();
    assert!(known.len() > 2, "{known:?}");
    assert_eq!(listed.iter().map(|cells| (cells[0], cells[1])).collect::<Vec<_>>(), known);
    assert!(listed.iter().all(|cells| cells.len() == 3 && cells[2].len() > 10), "{listed:?}");
}

#[tokio::test]
async fn a_month_that_is_over_is_packed() {
    let database = bed::database().await;
    let root = database.root().await;
    nodes::bring_back(&root).await;
    root.batch_execute(
        "SELECT aggregator_make_partition(now() - interval '60 days');
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status, request_id)
         SELECT gen_random_uuid(), 1, now() - interval '60 days', 1, id, 'u' || n % 100, 'm', 'success', repeat('x', 50)
         FROM api_providers, generate_series(1, 20000) AS n WHERE name = 'openai'",
    )
    .await
    .unwrap();
    let partition =
        value(&root, "SELECT partition FROM aggregator_partitions() LIMIT 1").await.unwrap();
    let indexes = format!("SELECT pg_indexes_size('{partition}')");
    let heap = format!("SELECT pg_table_size('{partition}')");
    let size = async |sql: &str| value(&root, sql).await.unwrap().parse::<u64>().unwrap();
    let before = (size(&indexes).await, size(&heap).await);
    let scaling = read("SCALING.md");
    let packing = blocks(&scaling, "text")
        .into_iter()
        .find(|block| block.contains("REINDEX"))
        .expect("the statements are there");
    for statement in packing.lines() {
        let statement = statement.replace("aggregator_usage_logs_2026_01", &partition);
        root.batch_execute(&statement).await.unwrap_or_else(|e| panic!("{}", bed::shown(&e)));
    }
    let after = (size(&indexes).await, size(&heap).await);
    assert!(after.0 * 10 < before.0 * 9 && after.1 < before.1, "{before:?} {after:?}");
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_usage_logs").await.unwrap(), "20000");
}

#[tokio::test]
async fn a_detached_month_leaves_its_sums() {
    let database = bed::database().await;
    let root = database.root().await;
    nodes::bring_back(&root).await;
    root.batch_execute(
        "SELECT aggregator_make_partition(now() - interval '60 days'), aggregator_grant('alice', 'admin');
         INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, status, total_tokens, cost_estimate, cost_source)
         SELECT gen_random_uuid(), 1, now() - interval '60 days', 1, id, 'u', 'm', 'success', 7, 0.5, 'computed'
         FROM api_providers WHERE name = 'openai'",
    )
    .await
    .unwrap();
    let sums = "SELECT sum(requests), sum(total_tokens), sum(cost) FROM aggregator_usage_hourly";
    let before = rows(&root, sums).await;
    assert_eq!(before, ["1|7|0.5"]);
    let partition =
        value(&root, "SELECT partition FROM aggregator_partitions() LIMIT 1").await.unwrap();
    let detach = read("SCALING.md")
        .lines()
        .find_map(|line| {
            let (statement, example) = line.split_once("DETACH PARTITION ")?;
            Some(format!(
                "{statement}DETACH PARTITION {}",
                example.replace("aggregator_usage_logs_2026_01", &partition)
            ))
        })
        .expect("the statement is there");
    root.batch_execute(&detach).await.unwrap();
    assert_eq!(rows(&root, sums).await, before);
    assert_eq!(rows(&root, "SELECT count(*) FROM aggregator_usage_logs").await, ["0"]);
    assert_eq!(rows(&root, &format!("SELECT count(*) FROM {partition}")).await, ["1"]);
    // Its owner's alone, even for an administrator who is let in.
    root.batch_execute(&format!("GRANT SELECT ON {partition} TO alice")).await.unwrap();
    let alice = database.user("alice").await;
    assert_eq!(rows(&alice, &format!("SELECT count(*) FROM {partition}")).await, ["0"]);
    for block in blocks(&read("SCALING.md"), "sql") {
        root.batch_execute(&block).await.unwrap_or_else(|e| panic!("{block}{}", bed::shown(&e)));
    }
}
