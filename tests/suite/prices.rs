//! What models cost and when: golden cases, the history, prices set by hand, pricing usage again,
//! and quotes.

use crate::bed::{self, Database, failure, quoted, rows, value};
use crate::fixtures::{HELLO, add_named, save_key};
use crate::upstream::{Answer, Upstream};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::{Arc, Mutex};
use tokio_postgres::Client;

/// Adds a model without a price at OpenRouter, and others that are named.
async fn add_models(root: &Client, models: &[&str]) {
    for model in models {
        root.batch_execute(&format!(
            "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name)
             SELECT id, '{model}', split_part('{model}', '/', 2), 'M' FROM api_providers WHERE name = 'openrouter'"
        ))
        .await
        .unwrap();
    }
}

const HISTORY: &str = "SELECT model_id, pricing, source, valid_to IS NULL FROM aggregator_model_prices ORDER BY model_id, valid_from";

/// A price list of the golden table, for the cases after it.
#[derive(Deserialize)]
struct Group {
    group: String,
    pricing: Box<RawValue>,
}

/// A case of the golden table. Its arithmetic, `sum`, is for whoever reads it.
#[derive(Deserialize)]
struct Case {
    name: String,
    usage: Box<RawValue>,
    at: Option<String>,
    cost: Option<String>,
    source: String,
}

#[tokio::test]
async fn the_golden_table() {
    let database = bed::database().await;
    let root = database.root().await;
    add_models(&root, &["v/m"]).await;
    // Texts, so that no digit is lost on the way.
    let lines: Vec<Box<RawValue>> =
        serde_json::from_str(include_str!("../goldens/costs.json")).unwrap();
    let (mut group, mut cases, mut wrong) = (None, 0, vec![]);
    for line in &lines {
        if let Ok(next) = serde_json::from_str::<Group>(line.get()) {
            let set = format!(
                "DELETE FROM aggregator_model_prices; UPDATE aggregator_models SET pricing = {}",
                quoted(next.pricing.get())
            );
            root.batch_execute(&set).await.unwrap();
            group = Some(next);
            continue;
        }
        let Group { group, pricing } = group.as_ref().expect("a price list comes first");
        let case: Case = serde_json::from_str(line.get()).unwrap();
        let (usage, pricing) = (quoted(case.usage.get()), quoted(pricing.get()));
        let at = case.at.as_deref().map_or("now()".to_owned(), quoted);
        let expected = case.cost.as_deref().unwrap_or("∅");
        // As anybody asks, and as the ledger settles.
        let got = rows(
            &root,
            &format!(
                "SELECT calculate_cost('v/m', {usage}, p_at => {at}), s.cost, s.source
                 FROM aggregator_usage({usage}) AS u, aggregator_settled_cost(
                     {pricing}, nullif(u -> 'parts', 'null'), (u ->> 'reported_cost')::numeric, false, {at}) AS s"
            ),
        )
        .await;
        if got != [format!("{expected}|{expected}|{}", case.source)] {
            wrong
                .push(format!("{group}, {}: {got:?} is not {expected} {}", case.name, case.source));
        }
        cases += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(cases >= 60, "{cases} cases");
}

/// Random price lists and usages, the same in every run. `input` and `output` always have prices,
/// the others may have.
const RANDOM: &str = "
    CREATE FUNCTION pg_temp.prices() RETURNS jsonb LANGUAGE sql VOLATILE AS $$
        SELECT jsonb_object_agg(key, round((random() * 100)::numeric, 9))
        FROM unnest(ARRAY['input', 'output', 'cache_read', 'cache_write', 'cache_write_1h', 'reasoning',
            'audio_input', 'audio_output', 'image', 'web_search', 'request']) AS key
        WHERE key IN ('input', 'output') OR random() < 0.7
    $$;
    CREATE FUNCTION pg_temp.parts() RETURNS jsonb LANGUAGE sql VOLATILE AS $$
        SELECT jsonb_object_agg(key, CASE WHEN random() < 0.7 THEN floor(random() * 100000)::integer ELSE 0 END)
        FROM unnest(ARRAY['input', 'output', 'cache_read', 'cache_write', 'cache_write_1h', 'reasoning',
            'audio_input', 'audio_output', 'image', 'web_search']) AS key
    $$;
    -- Parts times k plus other parts.
    CREATE FUNCTION pg_temp.sum(a jsonb, k integer, b jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
        SELECT jsonb_object_agg(key, value::bigint * k + (b -> key)::bigint) FROM jsonb_each(a)
    $$;
    -- One part of it and nothing else.
    CREATE FUNCTION pg_temp.only(a jsonb, part text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
        SELECT jsonb_object_agg(key, CASE WHEN key = part THEN value ELSE '0' END) FROM jsonb_each(a)
    $$;
    CREATE FUNCTION pg_temp.cost(pricing jsonb, parts jsonb) RETURNS numeric LANGUAGE sql STABLE AS $$
        SELECT cost FROM public.aggregator_cost(pricing, parts, now())
    $$;
    SELECT setseed(0.271828);
    CREATE TEMP TABLE cases AS
        SELECT i, pg_temp.prices() AS pricing, pg_temp.parts() AS a, pg_temp.parts() AS b,
            floor(random() * 9)::integer AS k
        FROM generate_series(1, 3000) AS i";

#[tokio::test]
async fn cost_is_linear_and_never_negative() {
    let database = bed::database().await;
    let root = database.root().await;
    root.batch_execute(RANDOM).await.unwrap();
    assert_eq!(
        rows(
            &root,
            "SELECT count(DISTINCT pricing), count(DISTINCT a), count(DISTINCT b) FROM cases"
        )
        .await,
        ["3000|3000|3000"]
    );
    let fee = "coalesce((pricing ->> 'request')::numeric, 0)";
    for (what, holds) in [
        ("never negative", "pg_temp.cost(pricing, a) >= 0".to_owned()),
        (
            "many calls cost what one of all their parts costs, but for the fee of each",
            format!(
                "pg_temp.cost(pricing, pg_temp.sum(a, k, b)) =
                     k * (pg_temp.cost(pricing, a) - {fee}) + pg_temp.cost(pricing, b)"
            ),
        ),
        (
            "a call costs what its parts cost",
            format!(
                "pg_temp.cost(pricing, a) - {fee} =
                     (SELECT sum(pg_temp.cost(pricing, pg_temp.only(a, part)) - {fee}) FROM jsonb_object_keys(a) AS part)"
            ),
        ),
        (
            "one more of a part costs its price",
            "(SELECT bool_and(pg_temp.cost(pricing, a || jsonb_build_object(part, (a -> part)::integer + 1))
                  - pg_temp.cost(pricing, a)
                  = (pricing ->> part)::numeric / CASE WHEN part IN ('image', 'web_search') THEN 1 ELSE 1000000 END)
              FROM jsonb_object_keys(a) AS part WHERE pricing ? part)"
                .to_owned(),
        ),
        (
            "within the bound of as many tokens",
            "pg_temp.cost(pricing, b - ARRAY['image', 'web_search', 'audio_input', 'audio_output']
                 || '{\"audio_input\": 0, \"audio_output\": 0}')
             <= aggregator_cost_bound(pricing,
                    (b -> 'input')::bigint + (b -> 'cache_read')::bigint + (b -> 'cache_write')::bigint + (b -> 'cache_write_1h')::bigint,
                    (b -> 'output')::bigint + (b -> 'reasoning')::bigint)"
                .to_owned(),
        ),
    ] {
        let sql = format!("SELECT count(*) FROM cases WHERE ({holds}) IS TRUE");
        assert_eq!(value(&root, &sql).await.unwrap(), "3000", "{what}");
    }
}

fn list(prices: &[(&str, &str)]) -> String {
    let items: Vec<String> = prices
        .iter()
        .map(|(id, price)| {
            format!(r#"{{"id":"{id}","pricing":{{"prompt":"{price}","completion":"{price}"}}}}"#)
        })
        .collect();
    format!(r#"{{"data":[{}]}}"#, items.join(","))
}

/// A provider `list`, whose model list can be changed.
async fn with_list(
    prices: &[(&str, &str)],
) -> (Database<'static>, Client, Upstream, Arc<Mutex<String>>) {
    let body = Arc::new(Mutex::new(list(prices)));
    let shown = body.clone();
    let upstream = Upstream::raw(move |_| Answer::json(200, shown.lock().unwrap().clone())).await;
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "list", "openai", &upstream.base_url(), &[]).await;
    (database, root, upstream, body)
}

const SYNC: &str = "SELECT added, updated, removed, unchanged, error FROM sync_models('list')";

#[tokio::test]
async fn the_history_is_written_when_a_price_changes() {
    let (_database, root, _upstream, body) =
        with_list(&[("v/a", "0.000001"), ("v/b", "0.000002"), ("v/auto", "-1")]).await;
    rows(&root, SYNC).await;
    const A1: &str = r#"v/a|{"input": 1, "output": 1}|sync|t"#;
    const B: &str = r#"v/b|{"input": 2, "output": 2}|sync|t"#;
    assert_eq!(rows(&root, HISTORY).await, [A1, B]);
    // Nothing changed: nothing is written.
    const TUPLES: &str = "SELECT ctid, xmin, xmax FROM aggregator_model_prices UNION ALL SELECT ctid, xmin, xmax FROM aggregator_models";
    let before = rows(&root, TUPLES).await;
    assert_eq!(rows(&root, SYNC).await, ["0|0|0|3|∅"]);
    assert_eq!(rows(&root, TUPLES).await, before);
    // What changes beside the price is no news.
    root.batch_execute("UPDATE aggregator_models SET context_window = 9").await.unwrap();
    assert_eq!(rows(&root, HISTORY).await, [A1, B]);
    *body.lock().unwrap() = list(&[("v/a", "0.000003"), ("v/b", "0.000002"), ("v/auto", "-1")]);
    assert_eq!(rows(&root, SYNC).await, ["0|1|0|2|∅"]);
    assert_eq!(
        rows(&root, HISTORY).await,
        [&A1.replace("|t", "|f"), r#"v/a|{"input": 3, "output": 3}|sync|t"#, B]
    );
    // A price that is withdrawn ends; a model that vanishes keeps its last.
    *body.lock().unwrap() = list(&[("v/a", "-1"), ("v/auto", "-1")]);
    assert_eq!(rows(&root, SYNC).await, ["0|1|1|1|∅"]);
    assert_eq!(
        rows(&root, HISTORY).await,
        [&A1.replace("|t", "|f"), r#"v/a|{"input": 3, "output": 3}|sync|f"#, B]
    );
    // By hand, twice in a transaction: what never held for others leaves no trace.
    root.batch_execute(
        "BEGIN; UPDATE aggregator_models SET pricing = '{\"input\": 7}' WHERE model_id = 'v/b';
         UPDATE aggregator_models SET pricing = '{\"input\": 8}' WHERE model_id = 'v/b'",
    )
    .await
    .unwrap();
    let cost =
        "SELECT calculate_cost('v/b', '{\"prompt_tokens\": 1000000, \"completion_tokens\": 0}')";
    assert_eq!(value(&root, cost).await.unwrap(), "8");
    root.batch_execute("COMMIT").await.unwrap();
    assert_eq!(
        rows(&root, HISTORY).await[2..],
        [B.replace("|t", "|f"), r#"v/b|{"input": 8}|manual|t"#.to_owned()]
    );
    assert_eq!(
        value(&root, "SELECT count(*) FROM aggregator_model_prices AS a JOIN aggregator_model_prices AS b USING (provider_id, model_id) WHERE a.valid_to = b.valid_from").await.unwrap(),
        "2"
    );
}

#[tokio::test]
async fn a_cost_is_by_the_prices_of_its_moment() {
    let database = bed::database().await;
    let root = database.root().await;
    add_models(&root, &["v/m"]).await;
    // Each in a transaction of its own.
    for pricing in [
        r#"{"input": 1, "tiers": [{"utc_start": 600, "utc_end": 700, "input": 5}]}"#,
        r#"{"input": 2}"#,
        "{}",
        r#"{"input": 3}"#,
    ] {
        let set = format!("UPDATE aggregator_models SET pricing = '{pricing}'");
        root.batch_execute(&set).await.unwrap();
    }
    root.batch_execute(
        "UPDATE aggregator_model_prices AS p SET valid_from = d.a, valid_to = d.b
         FROM (VALUES ('1', '2026-01-10 00:00+00'::timestamptz, '2026-01-20 00:00+00'::timestamptz),
             ('2', '2026-01-20 00:00+00', '2026-01-25 00:00+00'), ('3', '2026-02-01 00:00+00', NULL)) AS d (price, a, b)
         WHERE p.pricing ->> 'input' = d.price",
    )
    .await
    .unwrap();
    for (at, expected) in [
        // Before the first known price, and in a gap: the next one.
        ("'2025-12-01 12:00+00'", "1"),
        ("'2026-01-10 00:00+00'", "1"),
        ("'2026-01-19 23:59:59+00'", "1"),
        ("'2026-01-12 06:30+00'", "5"),
        ("'2026-01-20 00:00+00'", "2"),
        ("'2026-01-28 00:00+00'", "3"),
        ("'2026-02-01 00:00+00'", "3"),
        ("now()", "3"),
        ("NULL", "3"),
        ("'infinity'", "3"),
    ] {
        let sql = format!(
            "SELECT calculate_cost('v/m', '{{\"prompt_tokens\": 1000000, \"completion_tokens\": 0}}', p_at => {at})"
        );
        assert_eq!(value(&root, &sql).await.as_deref(), Some(expected), "{at}");
    }
    // Withdrawn: what was known stays known, and now there is none.
    root.batch_execute("UPDATE aggregator_models SET pricing = '{}'").await.unwrap();
    let at = |at: &str| {
        format!(
            "SELECT calculate_cost('v/m', '{{\"prompt_tokens\": 1000000, \"completion_tokens\": 0}}', 'openrouter', {at})"
        )
    };
    assert_eq!(value(&root, &at("'2026-03-01'")).await.unwrap(), "3");
    assert_eq!(value(&root, &at("now()")).await, None);
}

#[tokio::test]
async fn a_price_set_by_hand_survives_syncs_until_it_is_unset() {
    let (_database, root, _upstream, body) =
        with_list(&[("v/a", "0.000001"), ("v/auto", "-1")]).await;
    rows(&root, SYNC).await;
    const MODELS: &str =
        "SELECT model_id, pricing, pricing_source, is_available FROM aggregator_models ORDER BY 1";
    assert_eq!(
        rows(&root, r#"SELECT * FROM set_model_price('auto', '{"input": 9, "output": 9}')"#).await,
        [r#"list|v/auto|{"input": 9, "output": 9}|manual"#]
    );
    rows(&root, r#"SELECT set_model_price('list:v/a', '{"input": 5, "output": 6}')"#).await;
    // One that no list has.
    assert_eq!(
        rows(&root, r#"SELECT * FROM set_model_price('v/new', '{"input": 4}', 'list')"#).await,
        [r#"list|v/new|{"input": 4}|manual"#]
    );
    let by_hand = [
        r#"v/a|{"input": 5, "output": 6}|manual|t"#,
        r#"v/auto|{"input": 9, "output": 9}|manual|t"#,
        r#"v/new|{"input": 4}|manual|t"#,
    ];
    assert_eq!(rows(&root, SYNC).await, ["0|0|0|2|∅"]);
    assert_eq!(rows(&root, MODELS).await, by_hand);
    *body.lock().unwrap() = list(&[("v/a", "0.000002"), ("v/auto", "-1")]);
    assert_eq!(rows(&root, SYNC).await, ["0|1|0|1|∅"]);
    assert_eq!(rows(&root, MODELS).await, by_hand);
    assert_eq!(
        value(
            &root,
            "SELECT calculate_cost('new', '{\"prompt_tokens\": 1000000, \"completion_tokens\": 0}')"
        )
        .await
        .unwrap(),
        "4"
    );
    // Back to what the list says by now.
    assert_eq!(
        rows(&root, "SELECT * FROM set_model_price('v/a', NULL)").await,
        [r#"list|v/a|{"input": 2, "output": 2}|sync"#]
    );
    rows(&root, "SELECT set_model_price('v/auto', NULL), set_model_price('v/new', NULL)").await;
    assert_eq!(
        rows(&root, MODELS).await,
        [r#"v/a|{"input": 2, "output": 2}|sync|t"#, "v/auto|{}|sync|t", "v/new|{}|sync|t"]
    );
    assert_eq!(
        rows(&root, HISTORY).await,
        [
            r#"v/a|{"input": 1, "output": 1}|sync|f"#,
            r#"v/a|{"input": 5, "output": 6}|manual|f"#,
            r#"v/a|{"input": 2, "output": 2}|sync|t"#,
            r#"v/auto|{"input": 9, "output": 9}|manual|f"#,
            r#"v/new|{"input": 4}|manual|f"#,
        ]
    );
    // The list's own price, pinned.
    rows(&root, r#"SELECT set_model_price('v/a', '{"input": 2, "output": 2}')"#).await;
    *body.lock().unwrap() = list(&[("v/a", "0.000009"), ("v/auto", "-1")]);
    rows(&root, SYNC).await;
    assert_eq!(rows(&root, MODELS).await[0], r#"v/a|{"input": 2, "output": 2}|manual|t"#);
}

#[tokio::test]
async fn a_sync_that_waits_for_a_price_being_set_does_not_undo_it() {
    let (database, root, _upstream, body) = with_list(&[("v/a", "0.000001")]).await;
    rows(&root, SYNC).await;
    let admin = database.root().await;
    admin.batch_execute("BEGIN").await.unwrap();
    rows(&admin, r#"SELECT set_model_price('v/a', '{"input": 5}')"#).await;
    *body.lock().unwrap() = list(&[("v/a", "0.000002")]);
    let sync = rows(&root, SYNC);
    let commit = async {
        let watch = database.root().await;
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        bed::eventually(&watch, waits, "1").await;
        admin.batch_execute("COMMIT").await.unwrap();
    };
    assert_eq!(tokio::join!(sync, commit).0, ["0|1|0|0|∅"]);
    assert_eq!(
        rows(&root, "SELECT pricing, pricing_source, catalogue_pricing FROM aggregator_models")
            .await,
        [r#"{"input": 5}|manual|{"input": 2, "output": 2}"#]
    );
}

#[tokio::test]
async fn a_price_that_is_none_is_refused() {
    let database = bed::database().await;
    let root = database.root().await;
    add_models(&root, &["a/m", "b/m", "m"]).await;
    add_named(&root, "other", "openai", "https://other.example/v1", &["a/m"]).await;
    for (arguments, code, says) in [
        ("'a/m', '{}'", "PT400", "openrouter:a/m, other:a/m"),
        ("'nosuch', '{}'", "PT404", "nosuch"),
        ("'nosuch', NULL, 'openrouter'", "PT404", "nosuch"),
        ("'m', '{}', 'nosuch'", "PT404", "provider 'nosuch'"),
        ("'', '{}'", "PT400", "p_model"),
        ("NULL, '{}'", "PT400", "p_model"),
        (r#"'b/m', '{"prompt": 1}'"#, "PT400", "'prompt' is not known"),
        (r#"'b/m', '{"input": -1}'"#, "PT400", "must not be negative"),
        (r#"'b/m', '{"input": 2500000}'"#, "PT400", "USD per 1M tokens"),
        (r#"'b/m', '{"input": "NaN"}'"#, "PT400", "must be a number"),
        ("'b/m', '[]'", "PT400", "is an object"),
    ] {
        let (got, message) = failure(&root, &format!("SELECT set_model_price({arguments})")).await;
        assert_eq!(got, code, "{arguments}: {message}");
        assert!(message.contains(says), "{arguments}: {message}");
    }
    // The model of this very id before those that end in it.
    assert_eq!(
        rows(&root, r#"SELECT model_id FROM set_model_price('m', '{"input": 1}', 'openrouter')"#)
            .await,
        ["m"]
    );
    assert_eq!(
        rows(&root, r#"SELECT provider_name FROM set_model_price('other:a/m', '{"input": 1}')"#)
            .await,
        ["other"]
    );
}

#[tokio::test]
async fn prices_are_for_administrators_to_set_and_for_nobody_to_write() {
    let database = bed::database().await;
    let root = database.root().await;
    add_models(&root, &["v/m"]).await;
    let tenant = database.rest("authenticated", Some("u-a")).await;
    let forbidden = [
        r#"SELECT set_model_price('v/m', '{"input": 0}')"#,
        "SELECT * FROM recost_usage('-infinity', 'infinity')",
    ];
    let written = [
        "UPDATE aggregator_model_prices SET pricing = '{}'",
        "DELETE FROM aggregator_model_prices",
        "INSERT INTO aggregator_model_prices (provider_id, model_id, pricing, valid_from, source) SELECT id, 'v/m', '{\"input\": 0}', '2020-01-01', 'manual' FROM api_providers",
    ];
    for sql in forbidden.iter().chain(&written) {
        assert_eq!(failure(&tenant, sql).await.0, "42501", "{sql}");
    }
    // An administrator who is no superuser: by the function, and by hand.
    root.batch_execute("SELECT aggregator_grant('bob', 'admin')").await.unwrap();
    let bob = database.user("bob").await;
    rows(&bob, r#"SELECT set_model_price('v/m', '{"input": 1}')"#).await;
    bob.batch_execute("UPDATE aggregator_models SET pricing = '{\"input\": 2}'").await.unwrap();
    rows(&bob, "SELECT * FROM recost_usage('-infinity', 'infinity')").await;
    for sql in written {
        assert_eq!(failure(&bob, sql).await.0, "42501", "{sql}");
    }
    let history = [r#"v/m|{"input": 1}|manual|f"#, r#"v/m|{"input": 2}|manual|t"#];
    assert_eq!(rows(&tenant, HISTORY).await, history);
    // What setup scripts do.
    root.batch_execute(
        "GRANT ALL ON ALL FUNCTIONS IN SCHEMA public TO authenticated;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO authenticated",
    )
    .await
    .unwrap();
    for sql in forbidden {
        assert_eq!(failure(&tenant, sql).await.0, "PT403", "{sql}");
    }
    for sql in &written[..2] {
        assert_eq!(tenant.execute(*sql, &[]).await.unwrap(), 0, "{sql}");
    }
    assert_eq!(failure(&tenant, written[2]).await.0, "42501");
    let apply = "SELECT aggregator_apply_cost(call_id, attempt, created_at, 0, 0, 'computed') FROM aggregator_usage_logs";
    assert_eq!(rows(&tenant, apply).await.len(), 0);
    rows(&tenant, "SELECT * FROM aggregator_recost(NULL, NULL)").await;
    // Whoever has it noted can only have noted what is true.
    rows(&tenant, "SELECT aggregator_note_prices(ARRAY(SELECT id FROM aggregator_models))").await;
    assert_eq!(rows(&root, HISTORY).await, history);
    let anon = database.rest("anon", None).await;
    assert_eq!(failure(&anon, "SELECT * FROM aggregator_model_prices").await.0, "42501");
}

const LOGS: &str = "SELECT model_id, cost_estimate, cost_computed, cost_source FROM aggregator_usage_logs ORDER BY created_at";

#[tokio::test]
async fn usage_without_a_price_is_priced_later() {
    let upstream = Upstream::start(|seen| match seen.json()["model"].as_str() {
        Some("reported") => {
            Answer::says("x", r#"{"prompt_tokens":10,"completion_tokens":10,"cost":0.5}"#)
        }
        Some("priced") => Answer::says(
            "x",
            r#"{"prompt_tokens":1000,"completion_tokens":100,"prompt_tokens_details":{"cached_tokens":400}}"#,
        ),
        Some("searches") => Answer::says(
            "x",
            r#"{"prompt_tokens":1000,"completion_tokens":0,"server_tool_use":{"web_search_requests":2}}"#,
        ),
        Some("silent") => Answer::says("x", "{}"),
        _ => Answer::says("x", r#"{"prompt_tokens":1000,"completion_tokens":100}"#),
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "standin", "openai", &upstream.base_url(), &["full", "priced"]).await;
    save_key(&root, "standin", "sk-good-recost").await;
    for model in ["new", "priced", "full", "reported", "searches", "silent", "never"] {
        let chat = format!("SELECT chat_complete('standin:{model}', '{HELLO}')");
        value(&root, &chat).await.unwrap();
    }
    let before = rows(&root, LOGS).await;
    assert_eq!(
        before,
        [
            "new|∅|∅|unpriced",
            "priced|0.003|0.003|incomplete",
            "full|0.003|0.003|computed",
            "reported|0.5|∅|upstream",
            "searches|∅|∅|unpriced",
            "silent|∅|∅|incomplete",
            "never|∅|∅|unpriced",
        ]
    );
    let recost = "SELECT model_id, attempt, old_cost, new_cost, old_source, new_source FROM recost_usage(now() - interval '1 h', now())";
    assert_eq!(rows(&root, recost).await.len(), 0);
    // Prices that came after the calls.
    for (model, pricing) in [
        ("new", r#"{"input": 1, "output": 5}"#),
        ("priced", r#"{"input": 2, "output": 10, "cache_read": 0.5}"#),
        ("full", r#"{"input": 100, "output": 100}"#),
        ("reported", r#"{"input": 100, "output": 100}"#),
        ("searches", r#"{"input": 1, "output": 5, "web_search": 0.01}"#),
        ("silent", r#"{"input": 1, "output": 5}"#),
    ] {
        rows(&root, &format!("SELECT set_model_price('{model}', '{pricing}', 'standin')")).await;
    }
    // `priced` had a price at the time, without the cache's: that one holds, and is told so.
    let first = rows(&root, recost).await;
    assert_eq!(
        first,
        ["new|1|∅|0.0015|unpriced|computed", "searches|1|∅|0.021|unpriced|computed",]
    );
    // The history says otherwise: as if the cache's price had been known.
    root.batch_execute(
        "DELETE FROM aggregator_model_prices WHERE model_id = 'priced' AND valid_to IS NOT NULL",
    )
    .await
    .unwrap();
    assert_eq!(
        rows(&root, recost).await,
        // 600 * 2 + 400 * 0.5 + 100 * 10 = 2400
        ["priced|1|0.003|0.0024|incomplete|computed"]
    );
    assert_eq!(
        rows(&root, LOGS).await,
        [
            "new|0.0015|0.0015|computed",
            "priced|0.0024|0.0024|computed",
            "full|0.003|0.003|computed",
            "reported|0.5|∅|upstream",
            "searches|0.021|0.021|computed",
            "silent|∅|∅|incomplete",
            "never|∅|∅|unpriced",
        ]
    );
    assert_eq!(rows(&root, recost).await.len(), 0);
    assert_eq!(
        rows(&root, "SELECT metadata FROM aggregator_usage_logs WHERE metadata IS NOT NULL").await,
        [r#"{"web_search": 2}"#]
    );
}

#[tokio::test]
async fn pricing_again_keeps_to_its_range_and_to_what_was_guessed() {
    let database = bed::database().await;
    let root = database.root().await;
    add_models(&root, &["v/asked", "v/served"]).await;
    root.batch_execute(
        "INSERT INTO aggregator_usage_logs (call_id, attempt, created_at, epoch, provider_id, user_id, model_id, served_model,
             status, prompt_tokens, completion_tokens, total_tokens, cache_read_tokens, cost_estimate, cost_source, metadata)
         SELECT gen_random_uuid(), 1, d.at::timestamptz, 1, p.id, 'u', 'v/asked', d.served, d.status, 1000, 100, 1100, d.cached,
             d.cost, d.source, d.metadata::jsonb
         FROM api_providers AS p, (VALUES
             ('2026-01-01 00:00+00', NULL, 'success', 0, NULL, 'unpriced', NULL),
             ('2026-01-02 00:00+00', 'v/served', 'success', 0, NULL, 'unpriced', NULL),
             ('2026-01-03 00:00+00', 'v/other', 'cancelled', 0, NULL, 'unpriced', '{\"estimated\": true}'),
             ('2026-01-04 00:00+00', NULL, 'cancelled', 0, 0.7, 'incomplete', '{\"estimated\": true}'),
             ('2026-01-05 00:00+00', NULL, 'pending', 0, NULL, NULL, NULL),
             ('2026-01-06 00:00+00', NULL, 'error', 1000, 0.9, 'incomplete', NULL),
             ('2026-01-07 00:00+00', NULL, 'success', 0, NULL, 'unpriced', NULL)
         ) AS d (at, served, status, cached, cost, source, metadata)
         WHERE p.name = 'openrouter';
         SELECT set_model_price('v/asked', '{\"input\": 1, \"output\": 1}'), set_model_price('v/served', '{\"input\": 2, \"output\": 2}')",
    )
    .await
    .unwrap();
    let recost = async |from: &str, to: &str| {
        rows(&root, &format!("SELECT to_char(created_at AT TIME ZONE 'UTC', 'DD'), old_cost, new_cost, new_source FROM recost_usage({from}, {to})")).await
    };
    // From is inside, to is not.
    assert_eq!(
        recost("'2026-01-01 00:00+00'", "'2026-01-03 00:00+00'").await,
        ["01|∅|0.0011|computed", "02|∅|0.0022|computed"]
    );
    assert_eq!(recost("NULL", "NULL").await, ["03|∅|0.0011|incomplete", "07|∅|0.0011|computed"]);
    assert_eq!(recost("NULL", "NULL").await.len(), 0);
    assert_eq!(
        rows(&root, "SELECT cost_estimate, cost_source FROM aggregator_usage_logs ORDER BY created_at OFFSET 3").await,
        ["0.7|incomplete", "∅|∅", "0.9|incomplete", "0.0011|computed"]
    );
    // The sixth wants a price for its cache.
    root.batch_execute(
        "DELETE FROM aggregator_model_prices WHERE model_id = 'v/asked';
         SELECT set_model_price('v/asked', '{\"input\": 1, \"output\": 1, \"cache_read\": 0.1}')",
    )
    .await
    .unwrap();
    assert_eq!(recost("NULL", "NULL").await, ["06|0.9|0.0002|computed"]);
}

#[tokio::test]
async fn a_quote_costs_nothing_and_holds() {
    let upstream =
        Upstream::start(|_| Answer::says("x", r#"{"prompt_tokens":12,"completion_tokens":40}"#))
            .await;
    let database = bed::database().await;
    let root = database.root().await;
    add_named(&root, "standin", "openai", &upstream.base_url(), &["m", "dear"]).await;
    add_named(&root, "cheap", "openai", &upstream.base_url(), &["m"]).await;
    save_key(&root, "standin", "sk-good-quote").await;
    root.batch_execute(
        "UPDATE aggregator_models SET max_output_tokens = 100;
         UPDATE aggregator_models SET pricing = '{\"input\": 0.1, \"output\": 0.1}' WHERE provider_id = (SELECT id FROM api_providers WHERE name = 'cheap');
         UPDATE aggregator_models SET max_output_tokens = NULL, pricing = '{\"input\": 2, \"output\": 10, \"cache_write\": 2.5, \"reasoning\": 20, \"request\": 0.01,
             \"tiers\": [{\"min_prompt_tokens\": 30, \"input\": 4}, {\"min_prompt_tokens\": 100000, \"input\": 999}, {\"utc_start\": 100, \"utc_end\": 100, \"output\": 30}]}' WHERE model_id = 'dear'",
    )
    .await
    .unwrap();
    // 8 letters are 2 tokens, a message adds 4. As jsonb it has 42 bytes.
    const MESSAGES: &str = r#"'[{"role": "user", "content": "12345678"}]'"#;
    let quote = async |arguments: &str| {
        rows(&root, &format!("SELECT * FROM quote_cost({arguments})")).await
    };
    let bytes =
        value(&root, &format!("SELECT octet_length({MESSAGES}::jsonb::text)")).await.unwrap();
    assert_eq!(bytes, "41");
    for (arguments, expected) in [
        // The route of the caller, not the cheapest: 41 * 2 + 100 * 10; 6 * 2 + 6 * 10.
        (format!("'m', {MESSAGES}"), "6|0.001082|0.000072|USD"),
        (format!("'m', {MESSAGES}, 7"), "6|0.000152|0.000072|USD"),
        (format!("'m', {MESSAGES}, 3"), "6|0.000112|0.000042|USD"),
        (format!("'standin:m', {MESSAGES}, 7"), "6|0.000152|0.000072|USD"),
        (format!("'m', {MESSAGES}, 7, 'standin'"), "6|0.000152|0.000072|USD"),
        // 41 * 0.1 + 100 * 0.1, without a key.
        (format!("'m', {MESSAGES}, NULL, 'cheap'"), "6|0.0000141|0.0000012|USD"),
        // No limit on the answer; then the dearest that may hold: 41 * 4 + 50 * 30, and the fee.
        (format!("'dear', {MESSAGES}"), "6|∅|0.010072|USD"),
        (format!("'dear', {MESSAGES}, 50"), "6|0.011664|0.010072|USD"),
        (format!("'nosuch', {MESSAGES}, 50"), "6|∅|∅|USD"),
        (format!("'m', {MESSAGES}, 50, 'nosuch'"), "6|∅|∅|USD"),
        (
            r#"'m', '[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/i.png"}}]}]'"#.to_owned(),
            "4|∅|∅|USD",
        ),
        ("'m', '[]'".to_owned(), "0|0.001004|0|USD"),
    ] {
        assert_eq!(quote(&arguments).await, [expected], "{arguments}");
    }
    assert_eq!(upstream.seen().len(), 0);
    for bad in ["'m', '{}'", "'m', NULL", "'m', '[1]'", &format!("'m', {MESSAGES}, 0")] {
        assert_eq!(failure(&root, &format!("SELECT quote_cost({bad})")).await.0, "PT400", "{bad}");
    }
    // Answers so far tell how long the next will be: 6 * 2 + 40 * 10.
    value(&root, &format!("SELECT chat_complete('m', {MESSAGES})")).await.unwrap();
    assert_eq!(quote(&format!("'m', {MESSAGES}")).await, ["6|0.001082|0.000412|USD"]);
    let cost = value(&root, "SELECT cost_estimate <= 0.001082 FROM aggregator_usage_logs").await;
    assert_eq!(cost.as_deref(), Some("t"));
    // A tenant without a key is told by the catalogue; another's answers are none of theirs.
    let tenant = database.rest("authenticated", Some("u-b")).await;
    assert_eq!(
        rows(&tenant, &format!("SELECT * FROM quote_cost('m', {MESSAGES}, NULL, 'standin')")).await,
        ["6|0.001082|0.000072|USD"]
    );
}
