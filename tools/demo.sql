-- What `make demo` runs: each step is shown before its result.
\getenv provider DEMO_PROVIDER
\getenv key DEMO_KEY
\getenv model DEMO_MODEL
\getenv url DEMO_URL
\getenv embedder_url DEMO_EMBEDDER_URL
\getenv embedder_key DEMO_EMBEDDER_KEY
\pset pager off
\pset footer off

SELECT (:'url' <> '') AS is_local, (:'embedder_url' <> '') AS embeds
\gset

\echo '\n-- 1. The extension.'
\set ECHO queries
CREATE EXTENSION aggregator;

\if :is_local
\echo '\n-- 2. A provider is a row. This one runs on this machine; OpenRouter and others are there already.'
INSERT INTO api_providers (name, display_name, provider_type, api_standard, base_url)
VALUES (:'provider', 'SmolLM2 on this machine', 'direct', 'openai', :'url');
\endif

\echo '\n-- 3. A key of one''s own: checked with the provider, encrypted, never shown again.'
\set ECHO none
\echo 'SELECT save_provider_key(''':provider''', ''sk-...'');'
SELECT save_provider_key(:'provider', :'key');
\set ECHO queries
SELECT user_id, key_hint, last_validated_at IS NOT NULL AS validated, octet_length(api_key_encrypted) AS encrypted_bytes
FROM user_api_providers;

\echo '\n-- 4. The catalogue of models.'
\if :is_local
\echo '-- What everybody sees is asked for with no user''s key. This server shows its list to nobody without one.'
\set ECHO none
\echo 'SELECT save_platform_key(''':provider''', ''sk-...'');'
SELECT save_platform_key(:'provider', :'key');
\set ECHO queries
\endif
SELECT * FROM sync_models(:'provider');

\if :is_local
\echo '\n-- A list without prices leaves them unknown. This machine''s power has a price too.'
UPDATE aggregator_models SET pricing = '{"input": 0.01, "cache_read": 0.001, "output": 0.04}' WHERE model_id = :'model';
\endif

\echo '\n-- 5. What this user can call.'
SELECT provider_name, model_id, model_type, context_window, pricing
FROM get_user_available_models()
ORDER BY model_id = :'model' DESC, model_id
LIMIT 5;

\echo '\n-- 6. A chat.'
SELECT chat('What is the capital of France? Answer in one sentence.', :'model', '{"temperature": 0, "max_tokens": 40}') AS answer;

\echo '\n-- 7. The same with everything around it, inside a transaction that is rolled back.'
BEGIN;
SELECT jsonb_pretty(chat_complete(:'model', '[{"role": "user", "content": "Say hello."}]', '{"temperature": 0, "max_tokens": 20}') -> 'aggregator') AS aggregator;
ROLLBACK;

\echo '\n-- 8. The usage log has both.'
SELECT created_at::time(0), model_id, status, prompt_tokens, completion_tokens, cost_estimate AS cost_usd, cost_source, latency_ms
FROM aggregator_usage_logs
ORDER BY created_at;

\echo '\n-- 9. The cost report.'
SELECT * FROM calculate_provider_costs(aggregator_user_id());

\if :embeds
\echo '\n-- 10. Ten sentences and their vectors, by a model of sentences on this machine, and the nearest to a question.'
\set ECHO none
INSERT INTO api_providers (name, display_name, provider_type, api_standard, base_url, last_synced_at)
VALUES ('sentences', 'MiniLM on this machine', 'direct', 'openai', :'embedder_url', now());
SELECT save_provider_key('sentences', :'embedder_key') \gset saved_
\set ECHO queries
INSERT INTO aggregator_models (provider_id, model_id, model_name, display_name, model_type, pricing)
SELECT id, 'all-minilm-l6-v2', 'all-minilm-l6-v2', 'MiniLM', 'embedding', '{"input": 0.01}'
FROM api_providers
WHERE name = 'sentences';

CREATE TABLE sentences AS
SELECT given.bodies[vectors.ord] AS body, vectors.embedding
FROM (
    SELECT ARRAY[
        'A dog barks at the postman.', 'The bread is in the oven.', 'Interest rates rose again in March.',
        'The river flooded two villages.', 'Her violin needs new strings.', 'The index made the query fast.',
        'They painted the kitchen yellow.', 'The goalkeeper saved a penalty.', 'Snow closed the mountain pass.',
        'The surgeon washed her hands.'
    ] AS bodies
) AS given
CROSS JOIN embed_many(given.bodies, 'all-minilm-l6-v2') AS vectors;

\echo '\n-- Vectors of length 1: the sum of products is how near they are. With pgvector it is an operator, and has an index.'
WITH question AS (
    SELECT embed('How do I speed up my database?', 'all-minilm-l6-v2') AS vector
)
SELECT body, (SELECT round(sum(a::float8 * b)::numeric, 3) FROM unnest(embedding, question.vector) AS pair (a, b)) AS near
FROM sentences
CROSS JOIN question
ORDER BY near DESC
LIMIT 3;
SELECT count(*) AS requests, sum(prompt_tokens) AS tokens, sum(cost_estimate) AS cost_usd
FROM aggregator_usage_logs
WHERE model_id = 'all-minilm-l6-v2';
\endif
