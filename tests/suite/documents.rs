//! What the documents beside the README say: their SQL runs, and the tests that they name exist.

use crate::bed::{self, rows, value};
use crate::chat::{HELLO, chat_sql, prepare};
use crate::upstream::{Answer, Upstream};

fn read(name: &str) -> String {
    let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
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

#[test]
fn every_test_that_security_names_is_there() {
    let security = read("SECURITY.md");
    let named: Vec<(&str, &str)> = security
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once(".rs::"))
        .collect();
    assert!(named.len() > 50, "{}", named.len());
    for (file, test) in named {
        let source = ["tests/suite/", "src/"].iter().find_map(|folder| {
            let path = format!("{}/{folder}{file}.rs", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(path).ok()
        });
        let source = source.unwrap_or_else(|| panic!("there is no {file}.rs"));
        let before = source
            .split_once(&format!("fn {test}()"))
            .unwrap_or_else(|| panic!("{file}.rs has no test {test}"))
            .0;
        let attribute = before.trim_end().trim_end_matches("async").trim_end();
        assert!(attribute.ends_with("test]"), "{file}.rs::{test} is no test");
    }
    // Who can do what: each line has a test, or says why it needs none.
    let lines =
        security.lines().filter(|line| line.starts_with("| ") && !line.contains("| Test |"));
    for line in lines.filter(|line| !line.starts_with("| ---")) {
        assert!(line.contains(".rs::") || line.contains("Nothing inside the server"), "{line}");
    }
}

#[test]
fn the_readme_has_every_lint_that_stays() {
    let readme = read("README.md");
    let listed = readme.split("<!-- lints -->").nth(1).unwrap().split("<!-- /lints -->").next();
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

/// Stand-ins for Citus's functions, which refuse what its documentation says that it refuses.
const CITUS: &str = "
    CREATE TABLE distributed (relation regclass PRIMARY KEY, kind text NOT NULL);
    CREATE FUNCTION create_reference_table(p_relation regclass) RETURNS void LANGUAGE sql AS
        'INSERT INTO distributed VALUES (p_relation, ''reference'')';
    CREATE FUNCTION create_distributed_table(p_relation regclass, p_column text, colocate_with text DEFAULT 'default') RETURNS void
    LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (
            SELECT FROM pg_index AS i
            WHERE i.indrelid IN (SELECT p_relation UNION SELECT inhrelid FROM pg_inherits WHERE inhparent = p_relation)
              AND i.indisunique
              AND NOT EXISTS (
                  SELECT FROM pg_attribute AS a
                  WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname = p_column
              )
        ) THEN
            RAISE EXCEPTION 'a unique key of % does not hold %', p_relation, p_column;
        END IF;
        IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = p_relation AND NOT tgisinternal) THEN
            RAISE EXCEPTION '% has triggers', p_relation;
        END IF;
        IF EXISTS (
            SELECT FROM pg_constraint AS c
            WHERE c.contype = 'f' AND c.conrelid = p_relation
              AND NOT EXISTS (SELECT FROM distributed AS d WHERE d.relation = c.confrelid)
        ) OR EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = p_relation) THEN
            RAISE EXCEPTION '% has foreign keys', p_relation;
        END IF;
        INSERT INTO distributed VALUES (p_relation, p_column);
    END
    $$;";

#[tokio::test]
async fn the_statements_for_citus_run_and_calls_go_on() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    root.batch_execute(CITUS).await.unwrap();
    // The stand-ins do refuse.
    for table in ["aggregator_usage_logs", "aggregator_jobs", "user_api_providers"] {
        let sql = format!("SELECT create_distributed_table('{table}', 'user_id')");
        assert!(root.batch_execute(&sql).await.is_err(), "{table}");
    }
    let scaling = read("SCALING.md");
    let citus = blocks(&scaling, "sql citus");
    assert_eq!(citus.len(), 1);
    root.batch_execute(&citus[0]).await.unwrap_or_else(|e| panic!("{}", bed::shown(&e)));
    assert_eq!(value(&root, "SELECT count(*) FROM distributed").await.unwrap(), "4");

    // Before the first partition and in one that was made since.
    let root = prepare(&database, &upstream).await;
    value(&root, &chat_sql("{}")).await.unwrap();
    value(&root, "SELECT created FROM maintain_usage()").await.unwrap();
    value(&root, &chat_sql("{}")).await.unwrap();
    let job = value(&root, &format!("SELECT chat_submit('m', '{HELLO}')")).await.unwrap();
    let ended = format!("SELECT status FROM chat_wait('{job}')");
    assert_eq!(value(&root, &ended).await.unwrap(), "succeeded");
    let ledger = "SELECT status, count(*), sum(total_tokens), sum(cost_estimate) FROM aggregator_usage_logs GROUP BY 1";
    let summary = "SELECT 'success', requests, total_tokens, total_cost FROM usage_summary()";
    assert_eq!(rows(&root, summary).await, rows(&root, ledger).await);
    assert_eq!(upstream.chats().len(), 3);
    // The new partitions have the new key.
    assert_eq!(
        rows(&root, "SELECT DISTINCT count(*) FROM aggregator_partitions() AS p JOIN pg_constraint AS c ON c.conrelid = p.partition AND c.contype = 'p' WHERE pg_get_constraintdef(c.oid) LIKE '%(user_id, call_id%'").await,
        ["3"]
    );
    for block in blocks(&scaling, "sql") {
        root.batch_execute(&block).await.unwrap_or_else(|e| panic!("{block}{}", bed::shown(&e)));
    }
}

#[tokio::test]
async fn a_detached_month_leaves_its_sums() {
    let database = bed::database().await;
    let root = database.root().await;
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
}
