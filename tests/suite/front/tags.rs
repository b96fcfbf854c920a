//! Tags of a call over HTTP.

use super::dialects::Both;
use super::own::Own;
use super::{Request, Response, keys, token};
use crate::bed::{eventually, rows, value};
use crate::upstream::{Answer, Upstream};
use serde_json::{Value, json};

#[tokio::test]
async fn tags_come_in_the_body_and_in_headers_and_are_summed() {
    let both = Both::new(|_| Answer::hello(), |_| Answer::hello()).await;
    let bed = &both.bed;
    let chat = |more: Value| super::calls::chat("u-1", more);
    let messages = |tags: Value| {
        let body = json!({"model": "m", "max_tokens": 9, "tags": tags,
            "messages": [{"role": "user", "content": "hi"}]});
        Request::new("POST", "/v1/messages").bearer(&token::of("u-1")).json(body.to_string())
    };
    let responses = |tags: Value| {
        let body = json!({"model": "m", "input": "hi", "tags": tags});
        Request::new("POST", "/v1/responses").bearer(&token::of("u-1")).json(body.to_string())
    };
    let tags_of = async |response: &Response| {
        assert_eq!(response.status, 200, "{response:?}");
        let id = response.header("x-request-id").unwrap();
        let sql = format!(
            "SELECT array_to_string(tags, '|') FROM aggregator_usage_logs WHERE call_id = '{id}'"
        );
        value(&bed.root, &sql).await.unwrap_or_else(|| "∅".to_owned())
    };
    for (request, expected) in [
        (chat(json!({})), "∅"),
        (chat(json!({"tags": []})), "∅"),
        (chat(json!({"tags": ["a", " b c "]})), "a|b c"),
        (chat(json!({})).header("x-aggregator-tags", "a, é ,,a"), "a|é"),
        (
            chat(json!({"tags": ["a"]}))
                .header("x-aggregator-tags", "b")
                .header("X-Aggregator-Tags", "c,a"),
            "a|b|c",
        ),
        (chat(json!({"stream": true})).header("x-aggregator-tags", "a"), "a"),
        (messages(json!(["a"])).header("x-aggregator-tags", "b"), "a|b"),
        (responses(json!(["a"])).header("x-aggregator-tags", "b"), "a|b"),
    ] {
        assert_eq!(tags_of(&bed.send(&request).await).await, expected);
    }
    // None of it goes to the provider.
    for sent in both.openai.chats() {
        assert!(sent.json().get("tags").is_none() && sent.header("x-aggregator-tags").is_none());
    }
    let sums =
        "SELECT string_agg(tag || ' ' || requests, ', ' ORDER BY tag) FROM usage_by_tag('day')";
    eventually(&bed.root, sums, "a 6, b 3, b c 1, c 1, é 1").await;
    // Refused in words, and never cut.
    let sent = both.openai.chat_count();
    let (long, nine) = ("x".repeat(65), "1,2,3,4,5,6,7,8,9");
    let list: Vec<&str> = nine.split(',').collect();
    for request in [
        chat(json!({})).header("x-aggregator-tags", nine),
        chat(json!({})).header("x-aggregator-tags", &long),
        chat(json!({})).header("x-aggregator-tags", "a\u{200b}b"),
        chat(json!({"tags": list[..8]})).header("x-aggregator-tags", "9"),
        chat(json!({}))
            .header("x-aggregator-tags", "1,2,3,4,5")
            .header("x-aggregator-tags", "6,7,8,9"),
        messages(json!([])).header("x-aggregator-tags", nine),
        chat(json!({"tags": list})),
        chat(json!({"tags": [long]})),
        chat(json!({"tags": [""]})),
        chat(json!({"tags": "a"})),
        chat(json!({"tags": [1]})),
        messages(json!(list)),
        responses(json!([long])),
        Request::new("POST", "/v1/jobs")
            .bearer(&token::of("u-1"))
            .json(super::calls::body(json!({"tags": list}))),
    ] {
        let response = bed.send(&request).await;
        assert_eq!(response.status, 400, "{response:?}");
        let message = response.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains("at most 8 texts of at most 64 bytes each"), "{message}");
        assert!(message.contains("tags"), "{message}");
    }
    assert_eq!(both.openai.chat_count(), sent);
}

#[tokio::test]
async fn metadata_tags_calls_where_that_is_set() {
    // The setting is the whole cluster's.
    let upstream = Upstream::start(|_| Answer::hello()).await;
    let own = Own::ready("metadata", "aggregator.tags_from_metadata = on", &upstream).await;
    let owner = keys::owner(&own.database()).await;
    let (_, key) = keys::create(&owner, "'full', p_tags => '{1,2,3,4,5,6,7}'").await;
    let send = async |request: Request| own.send(&request).await;
    let metadata = json!({"team": "blue", "long": "x".repeat(65), "n": 7, "trace": " t-1 "});
    let chat = super::calls::chat("u-1", json!({"metadata": metadata, "tags": ["own"]}));
    let answer = send(chat.header("x-aggregator-tags", "head")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(upstream.chats()[0].json()["metadata"], metadata, "it goes on as it came");
    let body = json!({"model": "m", "input": "hi", "metadata": metadata}).to_string();
    let responses = Request::new("POST", "/v1/responses").bearer(&token::of("u-1")).json(body);
    assert_eq!(send(responses).await.status, 200);
    // Anthropic's is about something else.
    let body = json!({"model": "m", "max_tokens": 9, "metadata": {"user_id": "somebody"},
        "messages": [{"role": "user", "content": "hi"}]});
    let message =
        Request::new("POST", "/v1/messages").bearer(&token::of("u-1")).json(body.to_string());
    assert_eq!(send(message).await.status, 200);
    // As many as there is room for beside those of a key.
    let keyed = keys::chat(&key, json!({"metadata": {"a": "3", "b": "eight", "c": "nine"}}));
    assert_eq!(send(keyed).await.status, 200);
    assert_eq!(
        rows(&own.root, "SELECT tags FROM aggregator_usage_logs ORDER BY created_at").await,
        ["{own,head,blue,t-1}", "{blue,t-1}", "∅", "{1,2,3,4,5,6,7,eight}"]
    );
}

#[tokio::test]
async fn those_of_a_gateway_key_count_too() {
    let both = Both::new(|_| Answer::hello(), |_| Answer::hello()).await;
    let bed = &both.bed;
    let owner = keys::owner(&bed.database).await;
    let (_, key) = keys::create(&owner, "'tagged', p_tags => '{a,b,c}'").await;
    let hi = json!([{"role": "user", "content": "hi"}]);
    let of = |tags: &str| {
        let tags: Vec<&str> = tags.split(' ').collect();
        let post = |path: &str, body: Value| {
            Request::new("POST", path).bearer(&key).json(body.to_string())
        };
        [
            post("/v1/chat/completions", json!({"model": "m", "messages": hi, "tags": tags})),
            post("/v1/chat/completions", json!({"model": "m", "messages": hi}))
                .header("x-aggregator-tags", &tags.join(",")),
            post(
                "/v1/messages",
                json!({"model": "m", "max_tokens": 9, "messages": hi, "tags": tags, "stream": true}),
            ),
            post("/v1/responses", json!({"model": "m", "input": "hi", "tags": tags})),
            post("/v1/jobs", json!({"model": "m", "messages": hi, "tags": tags})),
        ]
    };
    // Eight together: one of them is the key's as well.
    for request in of("c d e f g h") {
        let response = bed.send(&request).await;
        assert!(matches!(response.status, 200 | 202), "{response:?}");
    }
    let unfinished = "SELECT count(*) FROM aggregator_jobs WHERE finished_at IS NULL";
    eventually(&bed.root, unfinished, "0").await;
    let logged = "SELECT DISTINCT tags FROM aggregator_usage_logs";
    eventually(&bed.root, &format!("SELECT count(*) FROM ({logged}) AS t"), "1").await;
    assert_eq!(rows(&bed.root, logged).await, ["{a,b,c,d,e,f,g,h}"]);
    let sent = both.openai.chat_count();
    for request in of("d e f g h i") {
        let response = bed.send(&request).await;
        assert_eq!(response.status, 400, "{response:?}");
        let message = response.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(
            message,
            "tags must be at most 8 texts of at most 64 bytes each; those of the gateway key count too"
        );
    }
    assert_eq!(both.openai.chat_count(), sent);
    assert_eq!(value(&bed.root, "SELECT count(*) FROM aggregator_jobs").await.unwrap(), "1");
}
