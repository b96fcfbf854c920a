//! Model catalogues: syncing, and what users see of them.

use crate::bed::{self, eventually, failure, rows, value};
use crate::fixtures::HELLO;
use crate::upstream::{Answer, Upstream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_postgres::Client;

const OPENROUTER: &str = r#"{"data":[
    {"id":"openai/gpt-4o","name":"GPT-4o","context_length":128000,
     "architecture":{"input_modalities":["text","image"],"output_modalities":["text"]},
     "pricing":{"prompt":"0.0000025","completion":"0.00001","input_cache_read":"0.00000125"},
     "top_provider":{"max_completion_tokens":16384},"supported_parameters":["tools"]},
    {"id":"x/y:free","name":"Free","context_length":null,"architecture":{"input_modalities":["text"],"output_modalities":["text"]},
     "pricing":{"prompt":"0","completion":"0"},"supported_parameters":[]},
    {"id":"openrouter/auto","name":"Auto","context_length":2000000,"architecture":{"input_modalities":["text"],"output_modalities":["text"]},
     "pricing":{"prompt":"-1","completion":"-1"},"supported_parameters":[]}]}"#;

async fn provider(root: &Client, name: &str, upstream: &Upstream) {
    root.batch_execute(&format!(
        "INSERT INTO api_providers (name, display_name, provider_type, api_standard, base_url)
         VALUES ('{name}', '{name}', 'aggregator', 'openai', '{}')",
        upstream.base_url()
    ))
    .await
    .unwrap();
}

/// An upstream whose answer can be changed.
async fn changing(body: &str) -> (Upstream, Arc<Mutex<String>>) {
    let body = Arc::new(Mutex::new(body.to_owned()));
    let shown = body.clone();
    (Upstream::raw(move |_| Answer::json(200, shown.lock().unwrap().clone())).await, body)
}

const SYNC: &str =
    "SELECT total, added, updated, removed, unchanged, error FROM sync_models('list')";

#[tokio::test]
async fn a_sync_stores_what_changed_and_nothing_else() {
    let (upstream, body) = changing(OPENROUTER).await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, "list", &upstream).await;
    assert_eq!(rows(&root, SYNC).await, ["3|3|0|0|0|∅"]);
    assert_eq!(
        rows(&root, "SELECT model_id, model_name, model_type, context_window, max_output_tokens, pricing, capabilities ->> 'vision' FROM aggregator_models ORDER BY 1").await,
        [
            r#"openai/gpt-4o|gpt-4o|chat|128000|16384|{"input": 2.5, "output": 10, "cache_read": 1.25}|true"#,
            "openrouter/auto|auto|chat|2000000|∅|{}|false",
            r#"x/y:free|y:free|chat|∅|∅|{"input": 0, "output": 0}|false"#,
        ]
    );
    // Nothing changed: no tuple is written, nor locked.
    const TUPLES: &str = "SELECT string_agg(ctid || ' ' || xmin || ' ' || xmax, ',' ORDER BY id) FROM aggregator_models";
    const PROVIDER: &str = "SELECT ctid, xmin, xmax FROM api_providers WHERE name = 'list'";
    let before = (rows(&root, TUPLES).await, rows(&root, PROVIDER).await);
    assert_eq!(rows(&root, SYNC).await, ["3|0|0|0|3|∅"]);
    assert_eq!((rows(&root, TUPLES).await, rows(&root, PROVIDER).await), before);
    // A price changes, a model vanishes and one comes.
    let changed = OPENROUTER.replace("0.0000025", "0.000003").replace("x/y:free", "x/z:free");
    *body.lock().unwrap() = changed;
    assert_eq!(rows(&root, SYNC).await, ["3|1|1|1|1|∅"]);
    assert_eq!(rows(&root, "SELECT model_id, is_available FROM aggregator_models WHERE model_id LIKE 'x/%' ORDER BY 1").await, ["x/y:free|f", "x/z:free|t"]);
    // It comes back, as the row that it was.
    *body.lock().unwrap() = OPENROUTER.to_owned();
    assert_eq!(rows(&root, SYNC).await, ["3|0|2|1|1|∅"]);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_models").await.unwrap(), "4");
    // A list that is empty or no list changes nothing.
    for bad in [r#"{"data":[]}"#, "<html>", "{}"] {
        *body.lock().unwrap() = bad.to_owned();
        let row = rows(&root, SYNC).await;
        assert!(row[0].starts_with("∅|∅|∅|∅|∅|provider 'list' answered 200 with"), "{row:?}");
    }
    assert_eq!(
        value(&root, "SELECT count(*) FROM aggregator_models WHERE is_available").await.unwrap(),
        "3"
    );
}

#[tokio::test]
async fn one_provider_that_fails_is_a_row() {
    let (good, _) = changing(OPENROUTER).await;
    let bad = Upstream::raw(|_| Answer::json(500, "")).await;
    let locked = Upstream::raw(|_| Answer::json(401, "")).await;
    let database = bed::database().await;
    let root = database.root().await;
    root.batch_execute("UPDATE api_providers SET is_active = false").await.unwrap();
    for (name, upstream) in [("bad", &bad), ("good", &good), ("locked", &locked)] {
        provider(&root, name, upstream).await;
    }
    let all =
        rows(&root, "SELECT provider_name, total, error, duration_ms >= 0 FROM sync_models()")
            .await;
    assert!(all[0].starts_with("bad|∅|provider 'bad' answered 500"), "{all:?}");
    assert_eq!(all[1], "good|3|∅|t");
    assert!(all[2].starts_with("locked|∅|no active key for provider 'locked'"), "{all:?}");
}

#[tokio::test]
async fn bare_lists_are_inferred_and_leave_corrections_alone() {
    let upstream = Upstream::raw(|_| {
        Answer::json(
            200,
            r#"{"object":"list","data":[{"id":"gpt-4o"},{"id":"text-embedding-3-small"}]}"#,
        )
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, "list", &upstream).await;
    assert_eq!(rows(&root, SYNC).await, ["2|2|0|0|0|∅"]);
    assert_eq!(rows(&root, "SELECT model_type, capabilities ->> 'vision', pricing, context_window FROM aggregator_models ORDER BY model_id").await, ["chat|true|{}|∅", "embedding|false|{}|∅"]);
    root.batch_execute("UPDATE aggregator_models SET pricing = '{\"input\": 1, \"output\": 2}', context_window = 5, capabilities = '{\"vision\": false}'").await.unwrap();
    assert_eq!(rows(&root, SYNC).await, ["2|0|0|0|2|∅"]);
    assert_eq!(
        value(&root, "SELECT pricing FROM aggregator_models LIMIT 1").await.unwrap(),
        r#"{"input": 1, "output": 2}"#
    );
}

#[tokio::test]
async fn keys_are_used_for_catalogues_only_where_needed() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, "list", &upstream).await;
    let user = database.rest("authenticated", Some("u-1")).await;
    // The first key at a provider that was never synced brings its user the models by itself.
    value(&user, "SELECT save_provider_key('list', 'sk-good-catalogue')").await.unwrap();
    eventually(&user, "SELECT count(*) FROM get_user_available_models()", "2").await;
    assert_eq!(
        rows(&user, "SELECT model_id FROM get_user_available_models()").await,
        ["m", "v/plain"]
    );
    let tried = |skip: usize| -> Vec<Option<String>> {
        let seen = upstream.seen();
        seen.iter().skip(skip).map(|s| s.header("authorization").map(str::to_owned)).collect()
    };
    let own = Some("Bearer sk-good-catalogue".to_owned());
    assert_eq!(tried(0), [own.clone(), None, own]);
    // For everybody, no user's key is used.
    let refused = rows(&root, SYNC).await;
    assert!(refused[0].starts_with("∅|∅|∅|∅|∅|no active key for provider 'list'"), "{refused:?}");
    assert_eq!(tried(3), [None]);
    assert_eq!(value(&root, "SELECT count(*) FROM aggregator_models").await.unwrap(), "0");
    // The platform's is.
    value(&root, "SELECT save_platform_key('list', 'sk-good-platform')").await.unwrap();
    eventually(&root, "SELECT count(*) FROM aggregator_models", "2").await;
    assert_eq!(rows(&root, SYNC).await, ["2|0|0|0|2|∅"]);
    let platform = Some("Bearer sk-good-platform".to_owned());
    assert_eq!(tried(4), [platform.clone(), platform]);
    assert_eq!(
        rows(&user, "SELECT model_id FROM get_user_available_models()").await,
        ["m", "v/plain"]
    );
}

#[tokio::test]
async fn models_can_be_named_in_three_ways() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, "dear", &upstream).await;
    provider(&root, "cheap", &upstream).await;
    // Synced before, so that saving a key does not ask for a sync.
    root.batch_execute(
        "UPDATE api_providers SET last_synced_at = now();
         INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
         SELECT p.id, m.id, m.name, m.id, CASE p.name WHEN 'dear' THEN '{\"input\": 5, \"output\": 5}' ELSE '{\"input\": 1, \"output\": 1}' END::jsonb
         FROM api_providers p, (VALUES ('v/gpt', 'gpt'), ('x/y:free', 'y:free')) m (id, name) WHERE p.name IN ('dear', 'cheap');
         SELECT save_provider_key('dear', 'sk-good-1', p_validate => false), save_provider_key('cheap', 'sk-good-2', p_validate => false)",
    )
    .await
    .unwrap();
    let root = &root;
    let route = |model: &'static str| async move {
        rows(
            root,
            &format!("SELECT provider_name, model_id FROM get_model_provider_config('{model}')"),
        )
        .await
    };
    // The cheaper one first.
    assert_eq!(route("gpt").await, ["cheap|v/gpt"]);
    assert_eq!(route("v/gpt").await, ["cheap|v/gpt"]);
    assert_eq!(route("dear:v/gpt").await, ["dear|v/gpt"]);
    assert_eq!(route("dear:gpt").await, ["dear|v/gpt"]);
    assert_eq!(route("x/y:free").await, ["cheap|x/y:free"]);
    assert_eq!(route("dear:unheard/of").await, ["dear|unheard/of"]);
    assert_eq!(route("unheard/of").await.len(), 0);
    // Priority before price, one's own key before the platform's.
    root.batch_execute("UPDATE user_api_providers SET priority = 1 WHERE provider_id = (SELECT id FROM api_providers WHERE name = 'dear')").await.unwrap();
    assert_eq!(route("gpt").await, ["dear|v/gpt"]);
    root.batch_execute(
        "SELECT remove_provider_key('dear'), save_platform_key('dear', 'sk-good-3')",
    )
    .await
    .unwrap();
    assert_eq!(route("gpt").await, ["cheap|v/gpt"]);
    // An id names a provider as well as its name; an unknown model is sent, unpriced, where the user pays.
    let id = value(root, "SELECT id FROM api_providers WHERE name = 'cheap'").await.unwrap();
    value(root, &format!("SELECT chat_complete('brand/new', '{HELLO}', provider => '{id}')"))
        .await
        .unwrap();
    assert_eq!(upstream.chats().last().unwrap().json()["model"], "brand/new");
    assert_eq!(
        rows(root, "SELECT cost_estimate, cost_source FROM aggregator_usage_logs").await,
        ["∅|unpriced"]
    );
    // A model that vanished is not routed to by name alone.
    root.batch_execute(
        "UPDATE aggregator_models SET is_available = false WHERE model_name = 'gpt'",
    )
    .await
    .unwrap();
    assert_eq!(failure(root, &format!("SELECT chat_complete('gpt', '{HELLO}')")).await.0, "PT404");
    assert_eq!(route("cheap:gpt").await, ["cheap|v/gpt"]);
}

#[tokio::test]
async fn provider_rows_are_checked() {
    let database = bed::database().await;
    let root = database.root().await;
    for (url, models) in [
        ("ftp://a.example", "NULL"),
        ("https://u:p@a.example/v1", "NULL"),
        ("not a url", "NULL"),
        ("https://a.example/v1?key=1", "NULL"),
        ("https://a.example/v1", "'https://b.example/models'"),
        ("https://a.example/v1", "'http://a.example/models'"),
    ] {
        let sql = format!(
            "INSERT INTO api_providers (name, display_name, provider_type, base_url, models_url) VALUES ('x', 'x', 'direct', '{url}', {models})"
        );
        assert_eq!(failure(&root, &sql).await.0, "PT400", "{url}");
    }
    assert_eq!(value(&root, "SELECT count(*) FROM api_providers").await.unwrap(), "10");
}

#[tokio::test]
async fn a_list_elsewhere_with_prices_per_million() {
    let upstream = Upstream::raw(|seen| match seen.path.as_str() {
        "/api/v1/models" => Answer::json(
            200,
            r#"{"success":true,"data":[{"model_id":"gpt-5","types":"llm","features":"tools,thinking",
                "input_modalities":"text,image","max_output":"128000","context_length":400000,
                "pricing":{"input":1.25,"output":10,"cache_read":0.125}}]}"#,
        ),
        _ => Answer::json(404, ""),
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, "list", &upstream).await;
    let url = upstream.base_url().replace("/v1", "/api/v1/models");
    root.batch_execute(&format!(
        "UPDATE api_providers SET models_url = '{url}' WHERE name = 'list'"
    ))
    .await
    .unwrap();
    assert_eq!(rows(&root, SYNC).await, ["1|1|0|0|0|∅"]);
    assert_eq!(
        rows(&root, "SELECT model_id, context_window, max_output_tokens, pricing, capabilities ->> 'functions' FROM aggregator_models").await,
        [r#"gpt-5|400000|128000|{"input": 1.25, "output": 10, "cache_read": 0.125}|true"#]
    );
}

#[tokio::test]
async fn openrouter_is_asked_for_its_embedding_models_too() {
    let upstream = Upstream::raw(|seen| match (seen.path.as_str(), seen.query.as_str()) {
        ("/v1/models", "output_modalities=text,embeddings") => Answer::json(
            200,
            r#"{"data":[{"id":"v/chat","name":"Chat","architecture":{"output_modalities":["text"]},"pricing":{"prompt":"0.000001","completion":"0.000002"}},
                {"id":"v/embed","name":"Embed","architecture":{"output_modalities":["embeddings"]},"pricing":{"prompt":"0.00000002","completion":"0"}}]}"#,
        ),
        _ => Answer::json(404, ""),
    })
    .await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, "list", &upstream).await;
    root.batch_execute(
        "UPDATE api_providers SET catalogue_format = 'openrouter' WHERE name = 'list'",
    )
    .await
    .unwrap();
    assert_eq!(rows(&root, SYNC).await, ["2|2|0|0|0|∅"]);
    assert_eq!(
        rows(&root, "SELECT model_id, model_type FROM aggregator_models ORDER BY 1").await,
        ["v/chat|chat", "v/embed|embedding"]
    );
}

/// Plans that were made while the tables were empty, and are kept, as the worker and poolers' sessions keep them.
#[tokio::test]
async fn a_plan_made_on_empty_tables_does_not_make_the_next_sync_slow() {
    let database = bed::database().await;
    let root = database.root().await;
    root.batch_execute(
        "CREATE TABLE listed AS
         SELECT n, array_agg('v/m' || i) AS ids, array_agg('m' || i) AS names, array_agg('chat'::text) AS types,
             array_agg('{}'::text) AS capabilities, array_agg(128000) AS windows,
             array_agg(jsonb_build_object('input', i)::text) AS pricing
         FROM (VALUES (5000), (10000)) AS v (n), generate_series(1, n) AS i
         GROUP BY n;
         SET plan_cache_mode = force_generic_plan",
    )
    .await
    .unwrap();
    const SYNC: &str = "SELECT s.added, s.updated, s.unchanged FROM listed AS l, api_providers AS p,
        aggregator_store_catalogue(p.id, false, l.ids, l.names, l.names, l.types, l.capabilities, l.windows, l.windows, l.pricing) AS s
        WHERE p.name = 'openai' AND l.n = 10000";
    const OWN: &str = "SELECT aggregator_store_user_models('u', p.id, l.ids, l.names, l.names, l.types, l.capabilities, l.windows, l.windows, l.pricing)
        FROM listed AS l, api_providers AS p WHERE p.name = 'openai' AND l.n = 5000";
    assert_eq!(rows(&root, SYNC).await, ["10000|0|0"]);
    assert_eq!(value(&root, OWN).await.unwrap(), "t");
    // With nested loops these took 44 and 4 seconds, now a quarter of one; machines differ.
    let pid = value(&root, "SELECT pg_backend_pid()").await.unwrap();
    let before = bed::processor_time(&pid);
    assert_eq!(rows(&root, SYNC).await, ["0|0|10000"]);
    let between = bed::processor_time(&pid);
    assert!(between - before < Duration::from_secs(8), "{:?}", between - before);
    assert_eq!(value(&root, OWN).await.unwrap(), "f", "nothing has changed");
    let took = bed::processor_time(&pid) - between;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // One for another is a change, and so is another price.
    let other = OWN.replace("l.ids", "array_replace(l.ids, 'v/m1', 'v/other')");
    let dearer = r#"array_replace(l.pricing, '{"input": 7}', '{"input": 8}')"#;
    let dearer = other.replace("l.pricing", dearer);
    for (sql, has_changed) in [(&other, "t"), (&other, "f"), (&dearer, "t"), (&dearer, "f")] {
        assert_eq!(value(&root, sql).await.unwrap(), has_changed, "{sql}");
    }
    // One price is still looked up by its key.
    let set = "SELECT pricing FROM set_model_price('v/m7', '{\"input\": 1}')";
    assert_eq!(value(&root, set).await.unwrap(), r#"{"input": 1}"#);
}

/// `{"prompt":0.005,"completion":0.01}` is no price per token of any model, and a list of such numbers
/// is one per 1M tokens.
#[tokio::test]
async fn the_unit_of_a_list_is_the_one_in_which_it_makes_sense() {
    let million = r#"{"data":[
        {"id":"a","pricing":{"prompt":0.005,"completion":0.01}},
        {"id":"b","pricing":{"prompt":0.0272,"completion":0.201,"input_cache_read":0.01}},
        {"id":"c","pricing":{"prompt":3,"completion":15}}]}"#;
    let (upstream, body) = changing(million).await;
    let database = bed::database().await;
    let root = database.root().await;
    provider(&root, "list", &upstream).await;
    let prices = async || {
        assert!(rows(&root, SYNC).await[0].starts_with("3|"), "synced");
        rows(&root, "SELECT model_id, pricing FROM aggregator_models ORDER BY 1").await
    };
    let per_million = [
        r#"a|{"input": 0.005, "output": 0.01}"#,
        r#"b|{"input": 0.0272, "output": 0.201, "cache_read": 0.01}"#,
        r#"c|{"input": 3, "output": 15}"#,
    ];
    assert_eq!(prices().await, per_million);
    // Per token, and one that slipped: no model costs 5,000 USD per 1M tokens.
    *body.lock().unwrap() = r#"{"data":[
        {"id":"a","pricing":{"prompt":1.5e-7,"completion":6e-7}},
        {"id":"b","pricing":{"prompt":0.000003,"completion":0.000015}},
        {"id":"c","pricing":{"prompt":0.005,"completion":0.000001}}]}"#
        .to_owned();
    assert_eq!(
        prices().await,
        [
            r#"a|{"input": 0.15, "output": 0.6}"#,
            r#"b|{"input": 3, "output": 15}"#,
            r#"c|{"output": 1}"#,
        ]
    );
    // A provider's row fixes the unit, whatever the list looks like.
    root.batch_execute("UPDATE api_providers SET price_unit = 'token' WHERE name = 'list'")
        .await
        .unwrap();
    *body.lock().unwrap() = million.to_owned();
    assert_eq!(prices().await, ["a|{}", "b|{}", "c|{}"]);
    root.batch_execute("UPDATE api_providers SET price_unit = 'million' WHERE name = 'list'")
        .await
        .unwrap();
    *body.lock().unwrap() = million.replace("0.005", "\"0.005\"");
    assert_eq!(prices().await, per_million);
    let unit = "UPDATE api_providers SET price_unit = 'thousand' WHERE name = 'list'";
    assert_eq!(failure(&root, unit).await.0, "23514");
}

/// A catalogue with these bytes, as a whole answer.
async fn listing(database: &bed::Database<'_>, name: &str, body: &[u8]) -> Upstream {
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let answer = [head.as_bytes(), body].concat();
    let upstream = Upstream::raw(move |_| Answer::Raw(answer.clone())).await;
    provider(&database.root().await, name, &upstream).await;
    upstream
}

#[tokio::test]
async fn one_bad_entry_of_a_list_costs_no_other_model_and_is_named_in_the_result() {
    let database = bed::database().await;
    let root = database.root().await;
    let _upstream = listing(
        &database,
        "list",
        b"\xEF\xBB\xBF{\"data\":[{\"id\":\"a\",\"pricing\":{\"prompt\":\"0.000001\"}},{\"id\":\"b\",\"pricing\":{\"prompt\":NaN}},\
          {\"id\":\"c\xFF\"},{\"id\":\"d\",\"name\":\"D \xFF\"},{\"id\":\"e\"}]}",
    )
    .await;
    let sync = "SELECT total, error, array_to_string(warnings, '; ') FROM sync_models('list')";
    assert_eq!(
        rows(&root, sync).await,
        [
            "4|\u{2205}|model 'b': what is not JSON in its entry, such as NaN, is taken for unknown; \
          entry 3 is left out, because it has no id that a model can have: {\"id\":\"c\u{fffd}\"}; \
          model 'd': bytes of its entry that are not UTF-8 are replaced"
        ]
    );
    let stored =
        "SELECT string_agg(model_id || pricing, ',' ORDER BY model_id) FROM aggregator_models";
    assert_eq!(value(&root, stored).await.unwrap(), r#"a{"input": 1},b{},d{},e{}"#);
}
