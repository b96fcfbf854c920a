//! To whom a name goes: a model of this very id first, then the provider that it begins with.

use crate::bed::{self, Database, failure, quoted, rows, value};
use crate::fixtures::{HELLO, ended, save_key};
use crate::upstream::{Answer, USAGE, Upstream};
use tokio_postgres::Client;

/// Two upstreams; what the tests ask is which of them is sent what.
struct Bed {
    database: Database<'static>,
    root: Client,
    ollama: Upstream,
    mistral: Upstream,
}

/// Answers whole, and as a stream where that is asked for.
fn answer(seen: &crate::upstream::Seen) -> Answer {
    match seen.json()["stream"] == true {
        true => Answer::streams(&["hi"], std::time::Duration::ZERO, Some(USAGE)),
        false => Answer::hello(),
    }
}

impl Bed {
    /// Provider `ollama` with these models, and Mistral with those; the caller has a key for both.
    async fn with(at_ollama: &[&str], at_mistral: &[&str]) -> Self {
        let bed = Self::without_keys(at_ollama, at_mistral).await;
        save_key(&bed.root, "ollama", "sk-good-ollama-0123456789").await;
        save_key(&bed.root, "mistral", "sk-good-mistral-0123456789").await;
        bed
    }

    async fn without_keys(at_ollama: &[&str], at_mistral: &[&str]) -> Self {
        let (ollama, mistral) = (Upstream::start(answer).await, Upstream::start(answer).await);
        let database = bed::database().await;
        let root = database.root().await;
        root.batch_execute(&format!(
            "INSERT INTO api_providers (name, display_name, provider_type, base_url, last_synced_at)
             VALUES ('ollama', 'Ollama', 'direct', '{}', now());
             UPDATE api_providers SET base_url = '{}', last_synced_at = now() WHERE name = 'mistral'",
            ollama.base_url(),
            mistral.base_url()
        ))
        .await
        .unwrap();
        let bed = Self { database, root, ollama, mistral };
        bed.list("ollama", at_ollama, 1).await;
        bed.list("mistral", at_mistral, 2).await;
        bed
    }

    /// Puts models into the catalogue, all at this price of input and of output.
    async fn list(&self, provider: &str, models: &[&str], price: u32) {
        for model in models {
            let name = model.rsplit('/').next().unwrap();
            let sql = format!(
                "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
                 SELECT id, '{model}', '{name}', 'x', '{{\"input\": {price}, \"output\": {price}}}'
                 FROM api_providers WHERE name = '{provider}'"
            );
            self.root.batch_execute(&sql).await.unwrap();
        }
    }

    /// What each was asked for so far.
    fn asked(&self) -> (Vec<String>, Vec<String>) {
        let of = |upstream: &Upstream| {
            let model =
                |seen: &crate::upstream::Seen| seen.json()["model"].as_str().unwrap().to_owned();
            upstream.chats().iter().map(model).collect()
        };
        (of(&self.ollama), of(&self.mistral))
    }
}

/// Every way in which a prompt leaves, for a model's name.
fn ways(model: &str) -> Vec<String> {
    let body = quoted(&format!(r#"{{"model": "{model}", "messages": {HELLO}}}"#));
    let many = quoted(&format!(r#"[{{"model": "{model}", "messages": {HELLO}}}]"#));
    vec![
        format!("SELECT chat_complete('{model}', '{HELLO}')"),
        format!("SELECT chat('hi', '{model}')"),
        format!("SELECT chat_completions({body})"),
        format!("SELECT chat_stream('{model}', '{HELLO}')"),
        format!("SELECT content FROM chat_many({many})"),
        format!("SELECT chat_submit('{model}', '{HELLO}')"),
        // The first of them is nobody's.
        format!("SELECT chat_complete('nobodys', '{HELLO}', '{{\"models\": [\"{model}\"]}}')"),
    ]
}

fn chat(model: &str, provider: &str) -> String {
    format!("SELECT chat_complete('{model}', '{HELLO}', provider => '{provider}')")
}

async fn send(client: &Client, sql: &str) {
    let answer = value(client, sql).await.unwrap();
    if sql.contains("chat_submit") {
        assert_eq!(ended(client, &answer).await, "succeeded|hello|1", "{sql}");
    }
}

#[tokio::test]
async fn an_id_with_a_colon_goes_to_who_lists_it_by_every_way() {
    // Also where Mistral has a model that is called like the rest.
    for at_mistral in [&[][..], &["7b"]] {
        let bed = Bed::with(&["mistral:7b"], at_mistral).await;
        let ways = ways("mistral:7b");
        for sql in &ways {
            send(&bed.root, sql).await;
        }
        let (ollama, mistral) = bed.asked();
        let wanted: Vec<_> = ollama.iter().filter(|model| *model == "mistral:7b").collect();
        assert_eq!((wanted.len(), mistral), (ways.len(), vec![]), "{at_mistral:?}: {ollama:?}");
    }
}

#[tokio::test]
async fn the_prefix_names_a_provider_where_no_such_id_is() {
    let bed = Bed::with(&["llama3:8b"], &["7b", "family/8b"]).await;
    for (name, sent) in [("mistral:7b", "7b"), ("mistral:8b", "family/8b"), ("mistral:new", "new")]
    {
        for sql in ways(name).iter().take(6) {
            send(&bed.root, sql).await;
        }
        let (ollama, mistral) = bed.asked();
        assert_eq!(
            (ollama.len(), mistral[mistral.len() - 6..].to_vec()),
            (0, [sent; 6].map(str::to_owned).to_vec()),
            "{name}"
        );
    }
    // "llama3" is no provider, so nothing is cut off.
    send(&bed.root, &ways("llama3:8b")[0]).await;
    assert_eq!(bed.asked().0, ["llama3:8b"]);
}

#[tokio::test]
async fn what_somebody_lists_is_not_sent_to_another_by_guess() {
    let bed = Bed::without_keys(&["mistral:7b"], &["large"]).await;
    save_key(&bed.root, "mistral", "sk-good-mistral-0123456789").await;
    // No key where it is listed.
    let sql = &ways("mistral:7b")[0];
    let (code, message) = failure(&bed.root, sql).await;
    assert_eq!(code, "PT404", "{message}");
    assert!(
        message.contains("offered by: ollama") && message.contains("'provider' given"),
        "{message}"
    );
    // A key, but the list has just lost it.
    save_key(&bed.root, "ollama", "sk-good-ollama-0123456789").await;
    bed.root
        .batch_execute(
            "UPDATE aggregator_models SET is_available = false WHERE model_id = 'mistral:7b'",
        )
        .await
        .unwrap();
    let (code, message) = failure(&bed.root, sql).await;
    assert!(code == "PT404" && message.contains("no available model is called"), "{message}");
    assert_eq!(bed.asked(), (vec![], vec![]));
    // Named, each of them gets it.
    send(&bed.root, &chat("mistral:7b", "ollama")).await;
    send(&bed.root, &chat("7b", "mistral")).await;
    assert_eq!(bed.asked(), (vec!["mistral:7b".to_owned()], vec!["7b".to_owned()]));
}

#[tokio::test]
async fn a_model_that_ends_in_the_name_goes_before_a_guess() {
    let bed = Bed::with(&["library/mistral:7b"], &["large"]).await;
    send(&bed.root, &ways("mistral:7b")[0]).await;
    assert_eq!(bed.asked(), (vec!["library/mistral:7b".to_owned()], vec![]));
    // Not before a model that the named provider has.
    bed.list("mistral", &["7b"], 2).await;
    send(&bed.root, &ways("mistral:7b")[0]).await;
    assert_eq!(bed.asked().1, ["7b"]);
}

#[tokio::test]
async fn a_given_provider_gets_the_name_as_it_stands() {
    let bed = Bed::with(&["7b", "ollama:tagged", "tagged"], &["7b", "mistral:7b"]).await;
    for (model, provider, sent) in [
        ("mistral:7b", "mistral", "mistral:7b"),
        ("7b", "mistral", "7b"),
        // Listed as the rest alone.
        ("ollama:7b", "ollama", "7b"),
        ("ollama:tagged", "ollama", "ollama:tagged"),
        // Nobody lists these.
        ("ollama:unheard-of", "ollama", "ollama:unheard-of"),
        ("mistral:unheard-of", "ollama", "mistral:unheard-of"),
    ] {
        send(&bed.root, &chat(model, provider)).await;
        let (ollama, mistral) = bed.asked();
        let asked = if provider == "ollama" { ollama } else { mistral };
        assert_eq!(asked.last().unwrap(), sent, "{model} at {provider}");
    }
    assert_eq!((bed.ollama.chat_count(), bed.mistral.chat_count()), (4, 2));
}

#[tokio::test]
async fn neither_a_slash_nor_the_case_of_letters_names_a_provider() {
    let bed = Bed::with(&["Qwen/Small", "x"], &["7b", "qwen/small"]).await;
    for name in [
        "mistral/7b",
        "Mistral:7b",
        "MISTRAL:7B",
        "mistral:",
        ":7b",
        "mistral/",
        "7B",
        "QWEN/SMALL",
    ] {
        let (code, message) = failure(&bed.root, &ways(name)[0]).await;
        assert_eq!(code, "PT404", "{name}: {message}");
    }
    assert_eq!(bed.asked(), (vec![], vec![]));
    let (_, message) = failure(&bed.root, &ways("QWEN/SMALL")[0]).await;
    assert!(message.contains("Did you mean") && message.contains("Qwen/Small"), "{message}");
    // Names that differ in case alone are two models.
    send(&bed.root, &ways("Qwen/Small")[0]).await;
    send(&bed.root, &ways("qwen/small")[0]).await;
    assert_eq!(bed.asked(), (vec!["Qwen/Small".to_owned()], vec!["qwen/small".to_owned()]));
    // By the last part as well.
    send(&bed.root, &ways("small")[0]).await;
    send(&bed.root, &ways("Small")[0]).await;
    assert_eq!((bed.asked().0.len(), bed.asked().1.len()), (2, 2));
}

#[tokio::test]
async fn an_id_goes_before_the_end_of_another_whatever_that_costs_and_whoever_pays() {
    let bed = Bed::without_keys(&["tuned/small"], &[]).await;
    bed.list("mistral", &["small"], 90).await;
    let user = bed.database.rest("authenticated", Some("ann")).await;
    save_key(&user, "ollama", "sk-good-ollama-0123456789").await;
    save_key(&user, "mistral", "sk-good-mistral-0123456789").await;
    user.batch_execute(
        "UPDATE user_api_providers SET priority = 9 FROM api_providers AS p WHERE p.id = provider_id AND p.name = 'ollama'",
    )
    .await
    .unwrap();
    send(&user, &ways("small")[0]).await;
    assert_eq!(bed.asked(), (vec![], vec!["small".to_owned()]));
    // The platform's key, where the user's own has only what ends in the name.
    user.batch_execute("SELECT remove_provider_key('mistral')").await.unwrap();
    bed.root
        .batch_execute("SELECT save_platform_key('mistral', 'sk-good-platform-0123456789')")
        .await
        .unwrap();
    send(&user, &ways("small")[0]).await;
    assert_eq!(bed.asked().1, ["small"; 2]);
    bed.root.batch_execute("SELECT remove_platform_key('mistral')").await.unwrap();
    send(&user, &ways("small")[0]).await;
    assert_eq!(bed.asked().0, ["tuned/small"]);
}

#[tokio::test]
async fn one_id_at_many_providers_has_one_order() {
    let database = bed::database().await;
    let root = database.root().await;
    // By name: no key but the platform's, no price, dear, cheap, of high priority.
    for (name, pricing) in [
        ("a-platform", r#"{"input": 0, "output": 0}"#),
        ("b-unpriced", "{}"),
        ("c-dear", r#"{"input": 5, "output": 5}"#),
        ("d-cheap", r#"{"input": 1, "output": 1}"#),
        ("e-cheap", r#"{"input": 1, "output": 1}"#),
        ("f-first", r#"{"input": 9, "output": 9}"#),
    ] {
        root.batch_execute(&format!(
            "INSERT INTO api_providers (name, display_name, provider_type, base_url, last_synced_at)
             VALUES ('{name}', 'x', 'direct', 'http://127.0.0.1:9/v1', now());
             INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
             SELECT id, 'm:x', 'm:x', 'x', '{pricing}' FROM api_providers WHERE name = '{name}'"
        ))
        .await
        .unwrap();
        match name == "a-platform" {
            true => root
                .batch_execute("SELECT save_platform_key('a-platform', 'sk-0123456789')")
                .await
                .unwrap(),
            false => save_key(&root, name, "sk-0123456789abcdef").await,
        }
    }
    root.batch_execute(
        "UPDATE user_api_providers SET priority = 1 FROM api_providers AS p WHERE p.id = provider_id AND p.name = 'f-first'",
    )
    .await
    .unwrap();
    let order =
        "SELECT string_agg(provider_name, ' ') FROM aggregator_routes('m:x', 'role:postgres')";
    assert_eq!(
        value(&root, order).await.unwrap(),
        "f-first d-cheap e-cheap c-dear b-unpriced a-platform"
    );
    assert_eq!(
        rows(&root, "SELECT provider_name FROM get_model_provider_config('m:x')").await,
        ["f-first"]
    );
    // An id is given to one provider only, whatever another is called.
    root.batch_execute(
        "UPDATE api_providers AS p SET name = other.id FROM api_providers AS other
         WHERE p.name = 'd-cheap' AND other.name = 'c-dear'",
    )
    .await
    .unwrap();
    let named = "SELECT count(*), bool_and(r.provider_name = p.name) FROM api_providers AS p,
        aggregator_routes('m:x', 'role:postgres', p.id::text) AS r";
    assert_eq!(rows(&root, named).await, ["6|t"]);
}

#[tokio::test]
async fn every_model_that_is_shown_is_the_one_that_its_id_calls() {
    let bed = Bed::with(
        &[
            "mistral:7b",
            "7b",
            "x/7b",
            "x/mistral:7b",
            "Mistral:7b",
            "m:free",
            "m",
            "a/b/m",
            "ollama:m",
            "ollama:mistral:7b",
        ],
        &[
            "7b",
            "mistral:7b",
            "x/7b",
            "ollama:7b",
            "ollama:m",
            "m:free",
            "family/m",
            "M",
            "ollama/m",
        ],
    )
    .await;
    // By its id; at its provider; and behind its provider's name, unless that is an id as a whole.
    let wrong = rows(
        &bed.root,
        "SELECT m.provider_name, m.model_id, plain.model_id, given.provider_id, prefixed.model_id
         FROM get_user_available_models() AS m
         LEFT JOIN LATERAL get_model_provider_config(m.model_id) AS plain ON true
         LEFT JOIN LATERAL aggregator_route(m.model_id, m.provider_name) AS given ON true
         LEFT JOIN LATERAL get_model_provider_config(m.provider_name || ':' || m.model_id) AS prefixed ON true
         WHERE plain.model_id IS DISTINCT FROM m.model_id
            OR given.provider_id IS DISTINCT FROM m.provider_id
            OR given.model_id IS DISTINCT FROM m.model_id
            OR (prefixed.provider_id, prefixed.model_id) IS DISTINCT FROM (m.provider_id, m.model_id)
               AND prefixed.model_id IS DISTINCT FROM m.provider_name || ':' || m.model_id",
    )
    .await;
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(
        value(&bed.root, "SELECT count(*) FROM get_user_available_models()").await.unwrap(),
        "19"
    );
}

#[tokio::test]
async fn prices_and_rules_mean_the_model_that_is_called() {
    let bed = Bed::with(&["mistral:7b"], &["7b", "large"]).await;
    // Ollama's costs 1, Mistral's 2.
    let usage = r#"{"prompt_tokens": 1000000, "completion_tokens": 0}"#;
    for (model, provider, cost) in [
        ("mistral:7b", "NULL", "1"),
        ("mistral:7b", "'ollama'", "1"),
        ("mistral:7b", "'mistral'", "2"),
        ("mistral:large", "NULL", "2"),
        ("7b", "NULL", "2"),
    ] {
        let sql = format!("SELECT trim_scale(calculate_cost('{model}', '{usage}', {provider}))");
        assert_eq!(value(&bed.root, &sql).await.unwrap(), cost, "{model} {provider}");
        let sql = format!(
            "SELECT max_cost = {cost} * (input.bytes + 1000000) / 1000000.0
             FROM quote_cost('{model}', '{HELLO}', 1000000, {provider}),
                 LATERAL (SELECT (aggregator_prompt_size('{HELLO}') -> 'bytes')::int AS bytes) AS input"
        );
        assert_eq!(value(&bed.root, &sql).await.unwrap(), "t", "{model} {provider}");
    }
    // A price that is set is that model's.
    let set = |model: &str| {
        format!(
            "SELECT provider_name, model_id FROM set_model_price('{model}', '{{\"input\": 3, \"output\": 3}}')"
        )
    };
    assert_eq!(rows(&bed.root, &set("mistral:7b")).await, ["ollama|mistral:7b"]);
    assert_eq!(rows(&bed.root, &set("mistral:large")).await, ["mistral|large"]);
    // Nobody lists it: as in a call, it is Mistral's.
    assert_eq!(rows(&bed.root, &set("mistral:new")).await, ["mistral|new"]);
    // Rules are about what is called by that name.
    for (model, provider, meant) in [
        ("mistral:7b", "NULL", "∅|mistral:7b"),
        ("mistral:7b", "'mistral'", "mistral|7b"),
        ("mistral:large", "NULL", "mistral|large"),
        ("mistral:unheard-of", "NULL", "mistral|unheard-of"),
        ("large", "NULL", "∅|large"),
        ("x/y:free", "NULL", "∅|x/y:free"),
        ("mistral:", "NULL", "∅|mistral:"),
    ] {
        for (set, table) in [
            (
                format!("set_budget(1, p_model => '{model}', p_provider => {provider})"),
                "aggregator_budgets",
            ),
            (
                format!("set_rate_limit(1, p_model => '{model}', p_provider => {provider})"),
                "aggregator_rate_limits",
            ),
        ] {
            let id = value(&bed.root, &format!("SELECT {set}")).await.unwrap();
            let sql = format!(
                "SELECT p.name, r.model_id FROM {table} AS r LEFT JOIN api_providers AS p ON p.id = r.provider_id
                 WHERE r.id = '{id}'"
            );
            assert_eq!(rows(&bed.root, &sql).await, [meant], "{set}");
            bed.root.batch_execute(&format!("DELETE FROM {table}")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_limit_on_a_providers_model_holds_for_every_name_of_it() {
    let bed = Bed::with(&["mistral:7b"], &["large"]).await;
    bed.root
        .batch_execute("SELECT set_budget(0, p_keys => 'all', p_model => 'mistral:large')")
        .await
        .unwrap();
    for name in ["mistral:large", "large"] {
        let (code, message) = failure(&bed.root, &ways(name)[0]).await;
        assert_eq!(code, "PT402", "{name}: {message}");
    }
    send(&bed.root, &ways("mistral:7b")[0]).await;
    bed.root
        .batch_execute("SELECT set_budget(0, p_keys => 'all', p_model => 'mistral:7b')")
        .await
        .unwrap();
    assert_eq!(failure(&bed.root, &ways("mistral:7b")[0]).await.0, "PT402");
}

#[tokio::test]
async fn what_a_users_own_key_is_shown_decides_for_that_user_alone() {
    let bed = Bed::without_keys(&[], &["7b"]).await;
    let (ann, eve) = (
        bed.database.rest("authenticated", Some("ann")).await,
        bed.database.rest("authenticated", Some("eve")).await,
    );
    for user in [&ann, &eve] {
        save_key(user, "ollama", "sk-good-ollama-0123456789").await;
        save_key(user, "mistral", "sk-good-mistral-0123456789").await;
    }
    bed.root
        .batch_execute(
            "SELECT aggregator_store_user_models('eve', p.id, ARRAY['mistral:7b'], ARRAY['mistral:7b'], ARRAY['x'],
                 ARRAY['chat'], ARRAY['{}'], ARRAY[NULL]::integer[], ARRAY[NULL]::integer[],
                 ARRAY['{\"input\": 1, \"output\": 1}'])
             FROM api_providers AS p WHERE p.name = 'ollama'",
        )
        .await
        .unwrap();
    send(&eve, &ways("mistral:7b")[0]).await;
    assert_eq!(bed.asked(), (vec!["mistral:7b".to_owned()], vec![]));
    // Her own price, where the catalogue has none of it.
    let quote = format!(
        "SELECT max_cost > 1 AND max_cost < 1.5 FROM quote_cost('mistral:7b', '{HELLO}', 1000000)"
    );
    assert_eq!(value(&eve, &quote).await.unwrap(), "t");
    send(&ann, &ways("mistral:7b")[0]).await;
    assert_eq!(bed.asked().1, ["7b"]);
    // Nor does it bend what an administrator's rule is about.
    let id = value(&bed.root, "SELECT set_budget(1, p_model => 'mistral:7b')").await.unwrap();
    let rule = format!("SELECT model_id FROM aggregator_budgets WHERE id = '{id}'");
    assert_eq!(value(&bed.root, &rule).await.unwrap(), "7b");
}
