//! What crosses between SQL and Rust in one session, and comes back as it was.

use crate::bed::{self, value};

#[tokio::test]
async fn usage_becomes_disjoint_parts() {
    let database = bed::database().await;
    let root = database.root().await;
    let parts = value(
        &root,
        "SELECT aggregator_usage('{\"prompt_tokens\": 10, \"completion_tokens\": 4,
            \"prompt_tokens_details\": {\"cached_tokens\": 6}, \"cost\": 0.1000000000000000000000001}')",
    )
    .await
    .expect("not NULL");
    for part in
        ["\"input\": 4", "\"cache_read\": 6", "\"output\": 4", "\"0.1000000000000000000000001\""]
    {
        assert!(parts.contains(part), "{parts}");
    }
    assert_eq!(value(&root, "SELECT aggregator_usage('[]') ->> 'parts'").await, None);
    assert_eq!(value(&root, "SELECT aggregator_usage(NULL)").await, None);
}

#[tokio::test]
async fn our_sqlstates_reach_plpgsql_however_often() {
    let database = bed::database().await;
    let root = database.root().await;
    root.batch_execute(
        "CREATE FUNCTION catch() RETURNS text LANGUAGE plpgsql AS $$
         DECLARE
             n integer := 0; message text; hint text;
         BEGIN
             FOR i IN 1..5000 LOOP
                 BEGIN
                     PERFORM chat_complete('m', '[]');
                 EXCEPTION WHEN SQLSTATE 'PT400' THEN
                     GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
                     n := n + 1;
                 END;
             END LOOP;
             RETURN n || ' ' || message || ' ' || hint;
         END $$",
    )
    .await
    .unwrap();
    let caught = value(&root, "SELECT catch()").await.expect("not NULL");
    assert!(caught.starts_with("5000 messages must be a non-empty array"), "{caught}");
    assert!(caught.contains("For example"), "{caught}");
}

#[tokio::test]
async fn numbers_and_texts_cross_as_they_are() {
    let database = bed::database().await;
    let root = database.root().await;
    root.batch_execute(
        "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
         SELECT id, 'é/😀', '😀', '', '{\"input\": 0.1234567890123456789012345678901234567890}'
         FROM api_providers WHERE name = 'openrouter';
         INSERT INTO user_api_providers (user_id, provider_id, api_key_encrypted, key_hint)
         SELECT aggregator_user_id(), id, '\\x0102ff', '' FROM api_providers WHERE name = 'openrouter'",
    )
    .await
    .unwrap();
    let route = "SELECT model_id || ' ' || (pricing ->> 'input') || ' ' || api_key_encrypted
                 FROM get_model_provider_config('😀')";
    assert_eq!(
        value(&root, route).await.expect("a route"),
        "é/😀 0.1234567890123456789012345678901234567890 \\x0102ff"
    );
}

#[tokio::test]
async fn a_superuser_is_believed_in_what_it_claims() {
    let database = bed::database().await;
    let root = database.root().await;
    let id = "SELECT aggregator_user_id()";
    assert!(value(&root, id).await.expect("an id").starts_with("role:"));
    root.batch_execute("SET request.jwt.claims = '{\"sub\": \"u-1\"}'").await.unwrap();
    assert_eq!(value(&root, id).await.as_deref(), Some("u-1"));
    root.batch_execute("SET request.jwt.claims = ''").await.unwrap();
    assert_eq!(value(&root, id).await, None);
    root.batch_execute("SET aggregator.user_id = 'u-2'").await.unwrap();
    assert_eq!(value(&root, id).await.as_deref(), Some("u-2"));
}
