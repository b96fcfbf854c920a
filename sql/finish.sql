-- Runs last, when every object exists: policies, grants, and what functions are for.

SET LOCAL search_path = pg_catalog, pg_temp;

ALTER TABLE @extschema@.api_providers ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.user_api_providers ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_models ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_model_prices ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_user_models ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_key_checks ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_usage_logs ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_usage_logs_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_worker_epochs ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_quarantine ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_cooling ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_hidden_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_budgets ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_rate_limits ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_budget_warnings ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_gateways ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_gateway_messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_leases ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_usage_hourly ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_usage_totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_usage_labels ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_gateway_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_console_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_cache ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_ai_columns ENABLE ROW LEVEL SECURITY;
ALTER TABLE @extschema@.aggregator_ai_queue ENABLE ROW LEVEL SECURITY;

-- Policies decide rows; without a grant on the table none is seen. What no policy allows (a
-- tenant's INSERT of a key, say) stays forbidden even to those whom a stray grant lets in. One
-- policy per table and action: of several, PostgreSQL would weigh each for every row.
CREATE POLICY seen ON @extschema@.api_providers FOR SELECT
    USING (is_active OR (SELECT @extschema@.aggregator_is_reader()));

CREATE POLICY seen ON @extschema@.user_api_providers FOR SELECT
    -- Administrators see whose keys there are; a platform key nobody reads.
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (user_id IS NOT NULL AND (SELECT @extschema@.aggregator_is_admin())));
CREATE POLICY own_settings ON @extschema@.user_api_providers FOR UPDATE
    USING (user_id = (SELECT @extschema@.aggregator_user_id()))
    WITH CHECK (user_id = (SELECT @extschema@.aggregator_user_id()));

CREATE POLICY seen ON @extschema@.aggregator_models FOR SELECT
    USING (true);

-- A model of one's own may have a name that is nobody else's business.
CREATE POLICY seen ON @extschema@.aggregator_user_models FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_admin()));

CREATE POLICY seen ON @extschema@.aggregator_key_checks FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_reader()));

-- Written as the owner only, by what watches the catalogue.
CREATE POLICY seen ON @extschema@.aggregator_model_prices FOR SELECT
    USING (true);

CREATE POLICY seen ON @extschema@.aggregator_usage_logs FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_reader()));

CREATE POLICY seen ON @extschema@.aggregator_jobs FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_admin()));

-- Which entries somebody has; what is in them, nobody reads.
CREATE POLICY seen ON @extschema@.aggregator_cache FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()));

CREATE POLICY seen ON @extschema@.aggregator_quarantine FOR SELECT
    USING ((SELECT @extschema@.aggregator_is_admin()));

-- That a provider cannot be reached is nobody's secret.
CREATE POLICY seen ON @extschema@.aggregator_cooling FOR SELECT
    USING (user_provider_id IS NULL OR user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_admin()));

-- quote_cost asks it.
CREATE POLICY seen ON @extschema@.aggregator_hidden_tokens FOR SELECT
    USING (true);

-- A rule that is about oneself, or about each user. What all together may spend is told to nobody
-- but readers.
CREATE POLICY seen ON @extschema@.aggregator_budgets FOR SELECT
    USING (each_user OR user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_reader()));
CREATE POLICY seen ON @extschema@.aggregator_rate_limits FOR SELECT
    USING (each_user OR user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_reader()));
CREATE POLICY seen ON @extschema@.aggregator_budget_warnings FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_reader()));

CREATE POLICY seen ON @extschema@.aggregator_gateways FOR SELECT
    USING ((SELECT @extschema@.aggregator_is_reader()));
CREATE POLICY seen ON @extschema@.aggregator_gateway_messages FOR SELECT
    USING ((SELECT @extschema@.aggregator_is_reader()));
CREATE POLICY seen ON @extschema@.aggregator_leases FOR SELECT
    USING ((SELECT @extschema@.aggregator_is_reader()));

CREATE POLICY seen ON @extschema@.aggregator_usage_hourly FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_reader()));
CREATE POLICY seen ON @extschema@.aggregator_usage_totals FOR SELECT
    USING ((SELECT @extschema@.aggregator_is_reader()));

CREATE POLICY seen ON @extschema@.aggregator_usage_labels FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_reader()));

CREATE POLICY seen ON @extschema@.aggregator_gateway_keys FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_admin()));

CREATE POLICY seen ON @extschema@.aggregator_console_sessions FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR (SELECT @extschema@.aggregator_is_admin()));

-- Whose table it is sees it as well as who pays for it.
CREATE POLICY seen ON @extschema@.aggregator_ai_columns FOR SELECT
    USING (user_id = (SELECT @extschema@.aggregator_user_id()) OR definer = current_user OR (SELECT @extschema@.aggregator_is_admin()));
-- The columns that it asks for are those that the policy above shows.
CREATE POLICY seen ON @extschema@.aggregator_ai_queue FOR SELECT
    USING (column_id IN (SELECT c.id FROM @extschema@.aggregator_ai_columns AS c));

-- What administrators write by plain statements.
DO $$
DECLARE
    v_table name;
BEGIN
    FOREACH v_table IN ARRAY
        '{api_providers,aggregator_models,aggregator_budgets,aggregator_rate_limits,aggregator_gateways}'::name[]
    LOOP
        EXECUTE format('CREATE POLICY admin_insert ON @extschema@.%I FOR INSERT WITH CHECK ((SELECT @extschema@.aggregator_is_admin()))', v_table);
        EXECUTE format('CREATE POLICY admin_update ON @extschema@.%I FOR UPDATE USING ((SELECT @extschema@.aggregator_is_admin()))
            WITH CHECK ((SELECT @extschema@.aggregator_is_admin()))', v_table);
        EXECUTE format('CREATE POLICY admin_delete ON @extschema@.%I FOR DELETE USING ((SELECT @extschema@.aggregator_is_admin()))', v_table);
    END LOOP;
END
$$;

-- Default deny, and the grants.
SELECT @extschema@.aggregator_finish_script();

-- What every function does: arguments, units, errors.

COMMENT ON FUNCTION @extschema@.aggregator_user_id() IS
    'The user id of the caller: aggregator.user_id, else the sub of request.jwt.claims for a trusted authenticator or a superuser, else role:NAME. NULL may not spend.';
COMMENT ON FUNCTION @extschema@.aggregator_is_admin() IS
    'Whether the effective role may act for others: a superuser, or one that was granted admin.';
COMMENT ON FUNCTION @extschema@.aggregator_acting_user(text) IS
    'The user for whom a function with this p_user_id acts; PT403 if the caller may not.';
COMMENT ON FUNCTION @extschema@.aggregator_spendable_providers(text) IS
    'Ids of the providers for which the user, or the platform, has an active key.';
COMMENT ON FUNCTION @extschema@.aggregator_platform_models(text) IS
    'By the id of the provider, for those at which only the platform''s key pays for the user: the models that it serves, where it has a list.';
COMMENT ON FUNCTION @extschema@.aggregator_platform_serves(jsonb, text) IS 'Whether a platform key with these settings serves a model of the catalogue.';
COMMENT ON FUNCTION @extschema@.set_platform_models(text, text[]) IS
    'For which models of the catalogue the platform''s key of a provider pays, by their whole ids; NULL: for all of them. What the catalogue does not list it never pays for. Administrators. PT400, PT403, PT404.';
COMMENT ON FUNCTION @extschema@.get_user_available_models(text) IS
    'Models that the user can call: of active providers, with an active key of theirs or of the platform; and those that a provider lists to their own key alone. p_user_id: another user, for administrators. PT403.';
COMMENT ON FUNCTION @extschema@.get_model_provider_config(text, text) IS
    'The route that a call for this model would take first; no row if there is none. A platform key is shown as NULL. PT403.';
COMMENT ON FUNCTION @extschema@.save_provider_key(text, text, text, boolean) IS
    'Encrypts and saves the user''s key for a provider (name or id) and returns its id. p_validate: only if the provider takes it, else PT401 with its words. PT400, PT402, PT403, PT404, PT429, PT502.';
COMMENT ON FUNCTION @extschema@.save_platform_key(text, text) IS
    'Encrypts and saves a key that every user may spend, after their own, and nobody may read. Administrators. PT400, PT403, PT404.';
COMMENT ON FUNCTION @extschema@.validate_provider_key(text, text) IS
    'Whether the provider takes the key; NULL: the caller''s saved one. Other answers than yes or no are errors: PT403 for a region or a service that is not enabled, PT402 for an account without credit. At most aggregator.max_key_checks_per_minute, each a row of aggregator_key_checks. PT402, PT403, PT404, PT429, PT502.';
COMMENT ON FUNCTION @extschema@.check_provider_key(text, text) IS
    'As validate_provider_key, and where the provider refuses the key, what it says, without keys. PT402, PT403, PT404, PT429, PT502.';
COMMENT ON FUNCTION @extschema@.remove_provider_key(text, text) IS
    'Removes the user''s key for a provider; false if there was none. PT403.';
COMMENT ON FUNCTION @extschema@.remove_platform_key(text) IS
    'Removes the platform''s key for a provider; false if there was none. Administrators. PT403.';
COMMENT ON FUNCTION @extschema@.rotate_master_key() IS
    'Adds a master key to the keyring file, encrypts every key of this database with it and returns its id. Old master keys stay. Superusers. PT403, PT503.';
COMMENT ON FUNCTION @extschema@.sync_models(text) IS
    'Brings the model catalogue of one provider, or of all, up to date, with the platform''s key or none. One row per provider; one that fails has its error. duration_ms in milliseconds; warnings: entries of the list that are left out, and prices that make no sense. Administrators. PT403, PT404.';
COMMENT ON FUNCTION @extschema@.sync_own_models(text) IS
    'Brings the models that the caller is shown up to date, of one provider, or of all at which they have a key of their own. What everybody sees is fetched with the platform''s key or none, once an hour at the most; what a provider lists to the caller''s key alone, as often as keys are checked. One row per provider; one that fails has its error. PT403; PT404: no such provider, or no key there.';
COMMENT ON FUNCTION @extschema@.chat_complete(text, jsonb, jsonb, text, text) IS
    'Sends a chat and returns the answer in OpenAI''s format plus an aggregator object (provider, served_model, usage_log_id, cost in USD, cost_source, latency_ms, attempts). options: OpenAI''s parameters, extra_body, timeout_ms (120000), max_retries (2), throw_on_error (true), models (fallbacks), on_deadline (error or queue), stream_upstream, tags, cache (ttl, refresh, no_store); schema: the answer is JSON that fits it, also in its member parsed, or PT422 after max_repairs (2) more requests. PT400 to PT504.';
COMMENT ON FUNCTION @extschema@.chat_stream(text, jsonb, jsonb, text, text) IS
    'Sends a chat and returns a row for each piece of text (delta) as it arrives, then one with the whole response, its usage and its cost in USD. Rows arrive one by one only from a SELECT list: SELECT (t).delta FROM (SELECT chat_stream(...) AS t) AS s. Options and errors as in chat_complete; a stream that is silent for aggregator.stream_idle_timeout is PT504.';
COMMENT ON FUNCTION @extschema@.chat_many(jsonb, jsonb, integer) IS
    'Sends an array of OpenAI request bodies, at most concurrency at a time, and returns a row for each as it ends: ord from 1, ok, response, content, error, cost in USD, latency_ms. options hold for every request that says nothing else; dedupe: identical requests with temperature 0 are sent once. PT400.';
COMMENT ON FUNCTION @extschema@.embed(text, text, jsonb, text, text) IS
    'The embedding of a text: the numbers of its vector. NULL and '''' give NULL, and nothing is sent. options: dimensions, user, encoding_format as the provider is asked (base64, or float), extra_body, timeout_ms (120000), max_retries (2), tags. Falls back to other providers of the same model alone. PT400 to PT504; PT501: the provider has no embeddings.';
COMMENT ON FUNCTION @extschema@.embed_many(text[], text, jsonb, text, text) IS
    'The embeddings of many texts (50000 at the most), a row for each in their order: ord from 1, embedding, error. One that fails is a row with its error; NULL and '''' are rows with neither. options as of embed, and batch_size: inputs of one request (128; halved where the provider says that they are too many); concurrency: requests at a time (16). PT400 to PT504.';
COMMENT ON FUNCTION @extschema@.embed_submit(text[], text, jsonb, text, text, timestamptz, text) IS
    'Writes the embeddings of 1 to 2048 texts, none of them NULL or '''', as one job and returns its id: chat_wait, chat_result and chat_cancel take it, embed_result gives its vectors. Arguments as of chat_submit, options as of embed. PT400, PT403, PT404; PT409: the key belongs to another request.';
COMMENT ON FUNCTION @extschema@.embed_result(uuid) IS
    'The vectors of a job of embed_submit that succeeded, in the order of its inputs: ord from 1, embedding. No row: it has not (see chat_result), or there is no such job of the caller.';
COMMENT ON FUNCTION @extschema@.aggregator_embeddings(jsonb) IS
    'The vectors of an answer as a job of embed_submit keeps it, in the order of its inputs. Internal.';
COMMENT ON FUNCTION @extschema@.chat_submit(text, jsonb, jsonb, text, text, timestamptz, text) IS
    'Writes a chat as a job and returns its id. It runs once the caller''s transaction is committed, not before p_run_after. The same p_idempotency_key of the same user gives the same job. Options as in chat_complete. PT400, PT403, PT404; PT409: the key belongs to another request.';
COMMENT ON FUNCTION @extschema@.chat_result(uuid) IS
    'A job and what it came to: response and content of one that succeeded, error of one that failed, cost in USD. No row: there is no such job of the caller.';
COMMENT ON FUNCTION @extschema@.chat_wait(uuid, integer) IS
    'Waits until a job has ended, or p_timeout_ms milliseconds (30000), and returns it as chat_result does. PT400: it was submitted by this very transaction, or the transaction cannot see others'' commits; PT404.';
COMMENT ON FUNCTION @extschema@.chat_cancel(uuid) IS
    'Cancels a job with the caller''s transaction; a request in flight is aborted. False: it has ended already, or there is no such job of the caller. PT403.';
COMMENT ON FUNCTION @extschema@.create_gateway_key(text, text[], timestamptz, numeric, text, bigint, bigint, text[], text) IS
    'Makes a key for a program that holds no user''s token, to be shown over HTTP, and returns its id and the key, this one time. It spends as its owner (p_user_id: another user, for administrators), within the owner''s budgets and its own: p_limit_usd per p_period, requests and tokens per minute. p_models: ids, provider:id, or beginnings with a * at the end; NULL: all; empty: none. p_tags: of every call with it. PT400, PT403; PT409: there are as many as a user may have.';
COMMENT ON FUNCTION @extschema@.rotate_gateway_key(uuid, interval) IS
    'Gives a gateway key another secret, and returns it, this one time. Its id, limits and counts stay. The old secret passes for p_grace more, of at most 30 days. PT400, PT403; PT404: there is no such key of the caller, or it is revoked.';
COMMENT ON FUNCTION @extschema@.revoke_gateway_key(uuid) IS
    'Revokes a gateway key: once that is committed no request passes with it. False: it is revoked already, or there is no such key of the caller. PT403.';
COMMENT ON FUNCTION @extschema@.console_url(text) IS
    'A link to the console that signs its caller in, once, within a minute from its commit on: as the caller''s user id and the role in effect, for twelve hours. p_base_url: where browsers reach the HTTP endpoint, as https://llm.example.org; NULL: as aggregator.console_base_url or aggregator.http_listen says. PT400, PT403; PT503: the console is not served here.';
COMMENT ON FUNCTION @extschema@.revoke_console_sessions(text) IS
    'Ends every session of the console, and every link to one, of the caller or (administrators) another user: once that is committed no request passes with them. How many there were. PT403.';
COMMENT ON FUNCTION @extschema@.aggregator_tag_problem(text) IS 'Why a text is no tag of a call: empty, longer than 64 bytes, with spaces around it, or a character that cannot be seen; NULL: it is one.';
COMMENT ON FUNCTION @extschema@.set_budget(numeric, bigint, bigint, text, text, boolean, text, text, text, text, uuid, text) IS
    'Sets what may be spent per period (hour, day, week from Monday, month, total; UTC) in USD, tokens or requests: by one user (p_user_id), by each (p_each_user) or by all together; optionally at one provider (name or id), of one model, of one gateway key (p_gateway_key) or with one tag (p_tag). p_keys: whose money it protects, and so what it counts: platform, own or all; NULL: that of the budget that is set anew, else the platform''s for all users together and all for one user or each. block refuses what does not fit, before it is sent (PT402); warn only tells. At 80 and 100 percent a row in aggregator_budget_warnings and NOTIFY aggregator_budgets. Setting it again replaces the limits. Returns its id. Administrators. PT400, PT403, PT404.';
COMMENT ON FUNCTION @extschema@.remove_budget(uuid) IS 'Removes a budget; false if there was none. Administrators. PT403.';
COMMENT ON FUNCTION @extschema@.set_rate_limit(bigint, bigint, text, boolean, text, text, uuid, text) IS
    'Sets requests and tokens per minute: of one user, of each, or of all together; optionally at one provider, of one model, of one gateway key or with one tag. A minute''s quota may be used at once. What comes too early is PT429 with the time to wait; jobs wait. Setting it again replaces the limits. Returns its id. Administrators. PT400, PT403, PT404.';
COMMENT ON FUNCTION @extschema@.remove_rate_limit(uuid) IS 'Removes a rate limit; false if there was none. Administrators. PT403.';
COMMENT ON FUNCTION @extschema@.aggregator_require_admin(text) IS 'Raises PT403 unless the effective role may act for others, and PT503 on a server in recovery.';
COMMENT ON FUNCTION @extschema@.aggregator_rule_provider(text) IS 'Id of the provider that a rule is about; NULL for every provider. PT404.';
COMMENT ON FUNCTION @extschema@.aggregator_period_start(text, timestamptz) IS 'When the period began in which a moment lies, in UTC.';
COMMENT ON FUNCTION @extschema@.aggregator_period_end(text, timestamptz) IS 'When that period ends; NULL: never.';
COMMENT ON FUNCTION @extschema@.aggregator_is_model(text, text) IS 'Whether a rule about a model means this one: by its id or the last part of it, in any case, whatever variant (:floor) is appended; (unlisted) may be any.';
COMMENT ON FUNCTION @extschema@.aggregator_model_problem(text) IS 'Why a text is no name of a model: empty, longer than 255 bytes, or with a space, a control character or one that cannot be seen; NULL: it is one.';
COMMENT ON FUNCTION @extschema@.aggregator_of_keys(text, numeric, numeric) IS 'Of a sum, the part that the keys of a budget (platform, own, all) have paid.';
COMMENT ON FUNCTION @extschema@.aggregator_spent(text, uuid, text, timestamptz, text, text, text, text) IS 'What was spent in a scope since a moment with the platform''s keys, users'' own or all, by all gateways or by one of them, and what is reserved here, as far as the caller sees the usage log.';
COMMENT ON FUNCTION @extschema@.aggregator_counted_users(@extschema@.aggregator_budgets, timestamptz) IS 'Whose counts a budget has in the period since a moment.';
COMMENT ON FUNCTION @extschema@.aggregator_await_job(uuid, integer) IS
    'Returns when a job has ended, or after so many milliseconds. PT400, PT404.';
COMMENT ON FUNCTION @extschema@.aggregator_job_response(@extschema@.aggregator_jobs) IS
    'The answer of a job as chat_complete would have given it.';
COMMENT ON FUNCTION @extschema@.chat(text, text, jsonb) IS
    'Sends one prompt and returns the text of the answer. Options and errors as in chat_complete.';
COMMENT ON FUNCTION @extschema@.chat_json(text, text, jsonb, jsonb, text, text) IS
    'Sends one prompt and returns the JSON of the answer, which fits the JSON Schema. Where it does not, the model is told so and asked again, options.max_repairs (2, from 0 to 5) times at the most; each is a row of the usage log. PT422: no answer fits; DETAIL has what is wrong, and the last answer. Other options and errors as in chat_complete.';
COMMENT ON FUNCTION @extschema@.chat_completions(jsonb) IS
    'Takes a whole OpenAI chat request body, vendor fields included, and returns the answer. Errors as in chat_complete.';
COMMENT ON FUNCTION @extschema@.ai_column(regclass, name, text, text, text, jsonb, text, text) IS
    'Makes a column one that a model fills and keeps up to date. p_kind: embed (a vector), chat (a text) or json (what fits options.schema). p_input: an SQL expression of the row''s columns, or a template with {column}; where it gives NULL or '''', the value becomes NULL. p_options: those of embed or chat_complete, and backfill (missing, all or false), concurrency (4, up to 64), batch_size. Triggers note which rows change; the worker asks and writes, as the table''s owner, whom the caller has to be. p_user_id: who pays. Returns its id. PT400, PT403, PT404, PT409.';
COMMENT ON FUNCTION @extschema@.ai_column_pause(regclass, name) IS 'Has an AI column wait: changed rows are noted, and nothing is asked. By the owner of the table, who pays for it, and administrators. PT403, PT404.';
COMMENT ON FUNCTION @extschema@.ai_column_resume(regclass, name) IS
    'Has an AI column go on, at once. Once the table has another owner, it is for that one to call it: values are written as them from then on. PT403, PT404, PT409.';
COMMENT ON FUNCTION @extschema@.ai_column_retry(regclass, name) IS 'Queues the rows of an AI column again that have failed; their number. PT403, PT404.';
COMMENT ON FUNCTION @extschema@.ai_column_drop(regclass, name) IS
    'Makes an AI column an ordinary one again: its view, triggers, queue and definition go, its values stay. By the owner of the table. PT403, PT404.';
COMMENT ON FUNCTION @extschema@.ai_column_drop(uuid) IS
    'Likewise, by its id: also of an AI column whose view, table or column is gone already. False: there is none. PT403.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_check_expression(text) IS 'Raises PT400 unless a text is one SQL expression, by its grammar. It is not run. Internal.';
COMMENT ON FUNCTION @extschema@.calculate_cost(text, jsonb, text, timestamptz) IS
    'USD that this usage (OpenAI''s or Anthropic''s form) of this model costs by the prices of p_at; what the usage itself reports comes first. Before the first known price, that one holds. NULL: unpriced, never 0.';
COMMENT ON FUNCTION @extschema@.quote_cost(text, jsonb, integer, text) IS
    'What a chat would cost, in USD, without sending it. max_cost: one request costs no more; NULL: not bounded (images, audio, files, no limit on the answer) or not priced. expected_cost: by the estimated prompt and an answer as long as the caller''s last ones of this model, else as the prompt. PT400.';
COMMENT ON FUNCTION @extschema@.set_model_price(text, jsonb, text) IS
    'Sets the price list of a model, which syncs then leave alone; with p_provider the model need not be in the catalogue. p_pricing NULL goes back to the catalogue''s. Keys and units as in aggregator_models.pricing. Administrators. PT400, PT403, PT404.';
COMMENT ON FUNCTION @extschema@.recost_usage(timestamptz, timestamptz) IS
    'Prices usage rows from p_from up to but not including p_to (NULL: no limit) that had no price, or not every price, by the prices of their time, and returns those that changed; costs in USD. What a provider reported and what was computed in full stays. Administrators. PT403.';
COMMENT ON FUNCTION @extschema@.calculate_provider_costs(text, uuid, timestamptz, timestamptz) IS
    'Requests that left (errors included), tokens, USD and average milliseconds per provider and model of one user, from p_start_date up to but not including p_end_date. PT403.';
COMMENT ON FUNCTION @extschema@.aggregator_retry_quarantined() IS
    'Has the worker settle the rows of aggregator_quarantine again, once the transaction is committed; returns their number. Administrators. PT403.';
COMMENT ON FUNCTION @extschema@.aggregator_status() IS
    'The worker of this database; asking starts it. in_flight: requests of sessions and jobs; waiting: chats that wait for a concurrency limit; gateway_stall_ms: the longest that anything has held the thread that serves all sessions, in the last minute or two; http_address: where HTTP requests are taken; http_error: why they are not. Administrators. PT403, PT503.';
COMMENT ON FUNCTION @extschema@.aggregator_start() IS
    'Starts the worker of this database if it is not running, and with it the HTTP endpoint of aggregator.http_listen. Administrators. PT403, PT503.';
COMMENT ON FUNCTION @extschema@.aggregator_grant(regrole, text) IS
    'Grants a role what a user of the extension needs, a reader (sees all usage, spends nothing) or an administrator. kind: user, reader or admin. Administrators. PT400, PT403.';
COMMENT ON FUNCTION @extschema@.aggregator_revoke(regrole, text) IS
    'Takes from a role what aggregator_grant() of this kind gave it, and leaves what its other kinds are granted. False: it was not of this kind. Administrators. PT400, PT403.';
COMMENT ON FUNCTION @extschema@.forget_user(text) IS
    'Ends the calls of a user in flight, deletes the keys, gateway keys, settings, jobs, AI columns and rules, and keeps the usage rows, without their tags, under an id that says nothing; returns their number. What comes under the same id later is a new user''s. Administrators. PT400, PT403; PT409: a transaction of the user is open, and holds a row.';
COMMENT ON FUNCTION @extschema@.aggregator_check_user_id(text) IS 'Raises PT400 unless this can be a user''s id; NULL passes.';
COMMENT ON FUNCTION @extschema@.aggregator_require_writable(text) IS 'Raises PT503 on a server in recovery.';
COMMENT ON FUNCTION @extschema@.aggregator_bound_locks(boolean) IS 'Bounds, before a statement on providers, how long it waits for locks, and puts lock_timeout back after it. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_lock_keys(uuid) IS 'Locks the keys of a provider that is about to go. Internal. PT403, PT409.';
COMMENT ON FUNCTION @extschema@.aggregator_checked_headers(text, jsonb, boolean) IS
    'The headers of a provider, if none may carry a secret: PT400, or without those that may.';
COMMENT ON FUNCTION @extschema@.aggregator_check_provider_urls(text, text, text) IS
    'Raises PT400 if the URLs of a provider are not usable or do not share one origin.';
COMMENT ON FUNCTION @extschema@.aggregator_usage(jsonb) IS
    'A usage object as disjoint parts, and the cost that the provider reports, as text.';
COMMENT ON FUNCTION @extschema@.aggregator_provider_id(text) IS 'Id of the provider of this name or id; NULL if there is none.';
COMMENT ON FUNCTION @extschema@.aggregator_routes(text, text, text) IS 'Every route of a user for a model, best first. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_route(text, text) IS 'The model and the prices of the route that a call of the caller would take first. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_meant(text, uuid) IS 'The provider and the model that a name means in a price or a rule. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_is_pricing(jsonb) IS 'Whether a price list is one: numbers that are not negative, and tiers of such.';
COMMENT ON FUNCTION @extschema@.aggregator_price_tiers(jsonb, bigint, integer) IS 'The prices that hold for so many tokens at this time of day (HHMM, UTC). Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_price_parts(jsonb, jsonb, integer) IS 'What disjoint parts cost at this time of day (HHMM, UTC): cost, is_complete. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_price_attempt(jsonb, jsonb, text, boolean, integer, boolean) IS 'What an attempt costs at this time of day (HHMM, UTC): cost, computed, source. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_prices_at(jsonb, bigint, timestamptz) IS 'The prices that hold for a prompt of this size at this moment, tiers applied.';
COMMENT ON FUNCTION @extschema@.aggregator_cost(jsonb, jsonb, timestamptz) IS 'USD of disjoint parts; NULL: unpriced. is_complete: every part had its own price.';
COMMENT ON FUNCTION @extschema@.aggregator_settled_cost(jsonb, jsonb, numeric, boolean, timestamptz, boolean) IS 'The cost with which the usage log settles a row, and where it comes from.';
COMMENT ON FUNCTION @extschema@.aggregator_find_model(text, text) IS 'The model of the catalogue that a name means: of this very id first, then the cheapest.';
COMMENT ON FUNCTION @extschema@.aggregator_price_list(uuid, text, timestamptz) IS 'The price list of a model at a moment: before the first known one, that one. NULL: none is known.';
COMMENT ON FUNCTION @extschema@.aggregator_prompt_size(jsonb) IS 'Estimated tokens of messages, their bytes, and whether they are only text. NULL: no messages.';
COMMENT ON FUNCTION @extschema@.aggregator_cost_bound(jsonb, bigint, bigint) IS 'USD that a request of so many tokens at most costs at most, at the dearest prices that may hold. NULL: unpriced.';
COMMENT ON FUNCTION @extschema@.aggregator_pricing_problem(jsonb) IS 'What is wrong with a price list; NULL: nothing.';
COMMENT ON FUNCTION @extschema@.aggregator_note_prices(uuid[]) IS 'Brings the price history of these models up to date with the catalogue. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_store_prices(uuid[]) IS 'Writes the history for aggregator_note_prices. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_recost(timestamptz, timestamptz) IS 'The work of recost_usage. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_apply_cost(uuid, smallint, timestamptz, numeric, numeric, text) IS 'Gives a settled usage row another cost; false if it has no cost to be replaced. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_before_model() IS 'Marks a price that is not the catalogue''s as set by hand.';
COMMENT ON FUNCTION @extschema@.aggregator_after_models() IS 'Has changed prices noted in the history.';
COMMENT ON FUNCTION @extschema@.aggregator_store_catalogue(uuid, boolean, text[], text[], text[], text[], text[], integer[], integer[], text[]) IS 'Stores a fetched catalogue; writes only what changed. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_apply_grants(regrole, text) IS 'The grants of a kind of role. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_privileges(text) IS 'What a kind of role is granted: user, reader, admin, anon, public. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_granted_roles() IS 'The roles that have the grants of a user, a reader or an administrator.';
COMMENT ON FUNCTION @extschema@.aggregator_standard_roles() IS 'The roles that are granted without being asked, where they exist. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_is_new(xid) IS 'Whether a row with this xmin is of this very transaction. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_new_objects() IS 'The objects of the extension that this transaction has made. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_relations() IS 'The tables, views and sequences of the extension, partitions made since included. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_hand_over() IS 'Gives everything of the extension to aggregator_owner. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_arm_triggers() IS 'Has the extension''s triggers fire in the worker too. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ease_references() IS 'Has the foreign keys between the extension''s tables check nothing where a row is written, so that tables can be restored in any order. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_foreign_triggers() IS 'Triggers and rules on the extension''s tables that are not its own; the worker does not run them unless a superuser has it run them always. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_close_new() IS 'Default deny for the objects that this transaction has made, then the grants of a fresh installation. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_open_new() IS 'Grants the objects that this transaction has made to the roles that have the old ones. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_finish_script() IS 'The last call of an install or upgrade script: gives new objects their owner and grants. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_before_provider() IS 'Checks the URLs of a provider, notes edits, lets a restored row win over a fresh seed.';
COMMENT ON FUNCTION @extschema@.aggregator_before_key() IS 'Notes edits of a key''s row.';
COMMENT ON FUNCTION @extschema@.aggregator_notify_postgrest() IS 'NOTIFY pgrst.';

SET LOCAL search_path = @extschema@, pg_temp;
