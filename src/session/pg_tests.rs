//! Tests for which a backend is the natural place: what crosses between Rust and PostgreSQL in one
//! session. Roles, commits and the worker are tested from outside.

use pgrx::prelude::*;

#[pg_schema]
mod tests {
    use super::*;
    use crate::core::rollup::{AMOUNTS, COUNTS};

    fn text(sql: &str) -> Option<String> {
        Spi::get_one::<String>(sql).expect("the query runs")
    }

    #[pg_test]
    fn usage_becomes_disjoint_parts() {
        let parts = text(
            "SELECT aggregator_usage('{\"prompt_tokens\": 10, \"completion_tokens\": 4,
                \"prompt_tokens_details\": {\"cached_tokens\": 6}, \"cost\": 0.1000000000000000000000001}')::text",
        );
        let parts = parts.expect("not NULL");
        for part in [
            "\"input\": 4",
            "\"cache_read\": 6",
            "\"output\": 4",
            "\"0.1000000000000000000000001\"",
        ] {
            assert!(parts.contains(part), "{parts}");
        }
        assert_eq!(text("SELECT aggregator_usage('[]') ->> 'parts'"), None);
        assert_eq!(text("SELECT aggregator_usage(NULL)::text"), None);
    }

    #[pg_test]
    fn the_worker_and_sql_roll_up_the_same_measures() {
        let counts = COUNTS.iter().map(|(name, is_labelled)| format!("{name} count {is_labelled}"));
        let amounts = AMOUNTS.iter().map(|name| format!("{name} usd true"));
        let measures = text(
            "SELECT string_agg(concat_ws(' ', name, unit, is_labelled::text), ', ')
             FROM aggregator_rollup_measures()",
        );
        assert_eq!(measures, Some(counts.chain(amounts).collect::<Vec<_>>().join(", ")));
    }

    #[pg_test]
    fn our_sqlstates_reach_plpgsql_however_often() {
        let caught = text(
            "CREATE FUNCTION pg_temp.catch() RETURNS text LANGUAGE plpgsql AS $$
             DECLARE n integer := 0; message text; hint text;
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
             END $$;
             SELECT pg_temp.catch()",
        )
        .expect("not NULL");
        assert!(caught.starts_with("5000 messages must be a non-empty array"), "{caught}");
        assert!(caught.contains("For example"), "{caught}");
    }

    #[pg_test]
    fn numbers_and_texts_cross_as_they_are() {
        let config = "INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, pricing)
            SELECT id, 'é/😀', '😀', '', '{\"input\": 0.1234567890123456789012345678901234567890}' FROM api_providers WHERE name = 'openrouter';
            INSERT INTO user_api_providers (user_id, provider_id, api_key_encrypted, key_hint)
            SELECT aggregator_user_id(), id, '\\x0102ff', '' FROM api_providers WHERE name = 'openrouter';
            SELECT model_id || ' ' || (pricing ->> 'input') || ' ' || api_key_encrypted FROM get_model_provider_config('😀')";
        let row = text(config).expect("a route");
        assert_eq!(row, "é/😀 0.1234567890123456789012345678901234567890 \\x0102ff");
    }

    #[pg_test]
    fn a_superuser_is_believed_in_what_it_claims() {
        assert!(text("SELECT aggregator_user_id()").expect("an id").starts_with("role:"));
        Spi::run("SET LOCAL request.jwt.claims = '{\"sub\": \"u-1\"}'").expect("set");
        assert_eq!(text("SELECT aggregator_user_id()").as_deref(), Some("u-1"));
        Spi::run("SET LOCAL request.jwt.claims = ''").expect("set");
        assert_eq!(text("SELECT aggregator_user_id()"), None);
        Spi::run("SET LOCAL aggregator.user_id = 'u-2'").expect("set");
        assert_eq!(text("SELECT aggregator_user_id()").as_deref(), Some("u-2"));
    }
}
