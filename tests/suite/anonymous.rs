//! Users who have signed in without saying who they are, in SQL: what `aggregator.anonymous_users` says holds at both
//! doors (over HTTP: `front::callers`).

use crate::bed::{Cluster, Database, failure, rows, value};
use crate::fixtures::{HELLO, add_named, add_provider, save_key};
use crate::upstream::{Answer, Upstream};
use tokio_postgres::Client;

/// A session of a user who has not signed in, as PostgREST makes it.
async fn anonymous(database: &Database<'_>, user: &str) -> Client {
    let client = database.rest("authenticated", Some(user)).await;
    let claims = format!(r#"{{"sub":"{user}","role":"authenticated","is_anonymous":true}}"#);
    client.batch_execute(&format!("SET request.jwt.claims = '{claims}'")).await.unwrap();
    client
}

/// A database with two providers: the platform has a key for both, the user `u-1` for `standin`.
async fn ready<'a>(cluster: &'a Cluster, upstream: &Upstream) -> (Database<'a>, Client) {
    let database = cluster.database().await;
    let root = database.root().await;
    add_provider(&root, upstream).await;
    add_named(&root, "alt", "openai", &upstream.base_url(), &["m", "w"]).await;
    for provider in ["standin", "alt"] {
        value(
            &root,
            &format!("SELECT save_platform_key('{provider}', 'sk-good-platform-0123456789')"),
        )
        .await;
    }
    (database, root)
}

#[tokio::test]
async fn they_spend_their_own_keys_and_none_of_the_platforms() {
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let cluster = Cluster::start("anonymous", "");
    cluster.supabase_roles().await;
    let (database, root) = ready(&cluster, &upstream).await;
    let chat = |model: &str, options: &str| {
        format!("SELECT chat_complete('{model}', '{HELLO}', '{options}')")
    };
    let (nobody, own) = (anonymous(&database, "u-2").await, anonymous(&database, "u-1").await);
    save_key(&own, "standin", "sk-good-own-0123456789").await;
    let messages = HELLO;
    for sql in [
        chat("m", "{}"),
        chat("alt:w", "{}"),
        chat("m", r#"{"models": ["w"]}"#),
        chat("m", r#"{"on_deadline": "queue"}"#),
        format!("SELECT chat_completions('{{\"model\":\"m\",\"messages\":{messages}}}')"),
        format!("SELECT delta FROM chat_stream('m', '{messages}')"),
        format!("SELECT chat_submit('m', '{messages}')"),
    ] {
        let (code, message) = failure(&nobody, &sql).await;
        assert!(
            code == "PT403" && message.contains("has not signed in"),
            "{sql}: {code} {message}"
        );
    }
    let many = format!(
        "SELECT error ->> 'code' FROM chat_many('[{{\"model\":\"m\",\"messages\":{messages}}}]')"
    );
    assert_eq!(rows(&nobody, &many).await, ["no_user"]);
    assert_eq!(upstream.chat_count(), 0);
    // With a key of their own they may, there alone.
    for (sql, key) in [(chat("m", "{}"), "own"), (chat("w", r#"{"models": ["m"]}"#), "own")] {
        value(&own, &sql).await.unwrap();
        let sent = upstream.chats().pop().unwrap();
        let expected = format!("Bearer sk-good-{key}-0123456789");
        assert_eq!(sent.header("authorization"), Some(expected.as_str()), "{sql}");
    }
    assert_eq!(failure(&own, &chat("w", "{}")).await.0, "PT403");
    // What is kept of it says not by whose keys it may be served.
    for sql in [
        format!("SELECT chat_submit('m', '{messages}')"),
        chat("m", r#"{"on_deadline": "queue"}"#),
        "SELECT create_gateway_key('x')".to_owned(),
    ] {
        let (code, message) = failure(&own, &sql).await;
        assert!(
            code == "PT403" && message.contains("has not signed in"),
            "{sql}: {code} {message}"
        );
    }
    // They are shown what they can call.
    let models =
        "SELECT provider_name || ':' || model_id FROM get_user_available_models() ORDER BY 1";
    assert_eq!(rows(&own, models).await, ["standin:m", "standin:v/plain"]);
    assert_eq!(rows(&nobody, models).await.len(), 0);
    let route = "SELECT provider_name FROM get_model_provider_config('m')";
    assert_eq!(rows(&own, route).await, ["standin"]);
    assert_eq!(rows(&nobody, route).await.len(), 0);
    // Who has signed in, by the same id, is another matter.
    let signed_in = database.rest("authenticated", Some("u-2")).await;
    value(&signed_in, &chat("w", "{}")).await.unwrap();
    value(&signed_in, "SELECT id FROM create_gateway_key('x')").await.unwrap();
    // Claims of a login that is not believed say nothing of it.
    root.batch_execute("SELECT aggregator_grant('alice', 'user')").await.unwrap();
    let alice = database.user("alice").await;
    alice
        .batch_execute(r#"SET request.jwt.claims = '{"sub":"u-1","is_anonymous":true}'"#)
        .await
        .unwrap();
    value(&alice, &chat("w", "{}")).await.unwrap();
    // As the setting says, from the reload on.
    for (setting, platform, own_key) in
        [("allow", None, None), ("refuse", Some("PT403"), Some("PT403"))]
    {
        root.batch_execute(&format!("ALTER SYSTEM SET aggregator.anonymous_users = '{setting}'"))
            .await
            .unwrap();
        value(&root, "SELECT pg_reload_conf()").await;
        for client in [&nobody, &own] {
            crate::bed::eventually(client, "SHOW aggregator.anonymous_users", setting).await;
        }
        for (client, model, expected) in [(&nobody, "w", platform), (&own, "standin:m", own_key)] {
            match expected {
                None => drop(value(client, &chat(model, "{}")).await.unwrap()),
                Some(code) => {
                    assert_eq!(failure(client, &chat(model, "{}")).await.0, code, "{setting}")
                }
            }
        }
        let made = nobody.simple_query("SELECT create_gateway_key('x')").await.is_ok();
        assert_eq!(made, setting == "allow", "{setting}");
    }
}
