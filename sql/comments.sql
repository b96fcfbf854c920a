-- What every table and column is, for \d+, for PostgREST's OpenAPI, and for the reader.

SET LOCAL search_path = pg_catalog, pg_temp;

COMMENT ON DOMAIN @extschema@.aggregator_admin IS
    'USAGE on this type marks the roles that may act for others; see aggregator_grant(role, kind).';

COMMENT ON TABLE @extschema@.api_providers IS 'Providers of large language models. No secrets: every user of the extension reads the active ones.';
COMMENT ON COLUMN @extschema@.api_providers.id IS 'Constant for the providers that come with the extension.';
COMMENT ON COLUMN @extschema@.api_providers.name IS 'Short name, as in openrouter:openai/gpt-4o.';
COMMENT ON COLUMN @extschema@.api_providers.display_name IS 'Name for people.';
COMMENT ON COLUMN @extschema@.api_providers.provider_type IS 'aggregator: resells the models of others; direct: offers its own.';
COMMENT ON COLUMN @extschema@.api_providers.api_standard IS 'The wire format: openai (chat completions) or anthropic (messages). Callers speak OpenAI''s either way.';
COMMENT ON COLUMN @extschema@.api_providers.base_url IS 'Root of the API, https; a key opens only for the scheme, host and port for which it was saved.';
COMMENT ON COLUMN @extschema@.api_providers.models_url IS 'Where the model list is, if not at base_url/models; same origin as base_url.';
COMMENT ON COLUMN @extschema@.api_providers.key_check_url IS 'A URL that refuses a bad key, if not base_url/models; same origin as base_url.';
COMMENT ON COLUMN @extschema@.api_providers.catalogue_format IS 'Dialect of the model list: auto recognises it from the data.';
COMMENT ON COLUMN @extschema@.api_providers.price_unit IS 'Unit of the list''s prices of tokens: token, million, or auto, which judges the list as a whole.';
COMMENT ON COLUMN @extschema@.api_providers.headers IS 'Extra request headers, name to text. Not for secrets.';
COMMENT ON COLUMN @extschema@.api_providers.features IS 'What the provider can do: supports_streaming, supports_vision, supports_functions, supports_audio.';
COMMENT ON COLUMN @extschema@.api_providers.documentation_url IS 'Documentation of the API.';
COMMENT ON COLUMN @extschema@.api_providers.key_url IS 'Page on which a user makes a key.';
COMMENT ON COLUMN @extschema@.api_providers.is_active IS 'Whether it can be used; inactive ones are shown to administrators only.';
COMMENT ON COLUMN @extschema@.api_providers.last_synced_at IS 'When a sync last changed the catalogue; a sync that changes nothing writes nothing. NULL: never synced.';
COMMENT ON COLUMN @extschema@.api_providers.created_at IS 'When the row was made.';
COMMENT ON COLUMN @extschema@.api_providers.updated_at IS 'When the row was last edited; a sync is not an edit.';

COMMENT ON TABLE @extschema@.user_api_providers IS 'Provider keys of users and of the platform, encrypted. Written by save_provider_key and its like.';
COMMENT ON COLUMN @extschema@.user_api_providers.id IS 'Id of the key; usage rows name it.';
COMMENT ON COLUMN @extschema@.user_api_providers.user_id IS 'Whose key it is, as aggregator_user_id() says; NULL is the platform''s, which every user may spend.';
COMMENT ON COLUMN @extschema@.user_api_providers.provider_id IS 'The provider that takes the key.';
COMMENT ON COLUMN @extschema@.user_api_providers.api_key_encrypted IS 'AES-256-GCM envelope: version, id of the master key, nonce, ciphertext and tag; bound to user, provider and origin.';
COMMENT ON COLUMN @extschema@.user_api_providers.key_hint IS 'The ends of the key, to tell it from others.';
COMMENT ON COLUMN @extschema@.user_api_providers.is_active IS 'Whether the key is used. Its owner may change it.';
COMMENT ON COLUMN @extschema@.user_api_providers.priority IS 'Where several keys serve a model, the higher goes first. Its owner may change it.';
COMMENT ON COLUMN @extschema@.user_api_providers.settings IS 'For the application; its owner may change it. Of the platform''s key, models is the list that set_platform_models sets; the extension reads nothing else.';
COMMENT ON COLUMN @extschema@.user_api_providers.last_validated_at IS 'When the provider last took the key in a check.';
COMMENT ON COLUMN @extschema@.user_api_providers.last_used_at IS 'When a call last succeeded with it, to some ten seconds.';
COMMENT ON COLUMN @extschema@.user_api_providers.created_at IS 'When the key was first saved.';
COMMENT ON COLUMN @extschema@.user_api_providers.updated_at IS 'When the row was last edited; use is not an edit.';

COMMENT ON TABLE @extschema@.aggregator_models IS 'Catalogue of models, one row per provider and model, kept by sync_models.';
COMMENT ON COLUMN @extschema@.aggregator_models.id IS 'Id of the row.';
COMMENT ON COLUMN @extschema@.aggregator_models.provider_id IS 'Who offers the model.';
COMMENT ON COLUMN @extschema@.aggregator_models.model_id IS 'The model as its provider spells it: openai/gpt-4o.';
COMMENT ON COLUMN @extschema@.aggregator_models.model_name IS 'The last part of model_id, by which a model can be named plainly: gpt-4o.';
COMMENT ON COLUMN @extschema@.aggregator_models.display_name IS 'Name for people.';
COMMENT ON COLUMN @extschema@.aggregator_models.model_type IS 'chat, embedding, image, audio, video or rerank.';
COMMENT ON COLUMN @extschema@.aggregator_models.capabilities IS 'What it can do: vision, functions, streaming, and so on, each true or false.';
COMMENT ON COLUMN @extschema@.aggregator_models.context_window IS 'Most tokens of prompt and answer together; NULL: unknown.';
COMMENT ON COLUMN @extschema@.aggregator_models.max_output_tokens IS 'Most tokens of an answer; NULL: unknown.';
COMMENT ON COLUMN @extschema@.aggregator_models.pricing IS
    'USD per 1M tokens: input, output, cache_read, cache_write, cache_write_1h, reasoning, audio_input, audio_output; USD per unit: request, image, web_search; tiers for long prompts and times of day. An unknown price is an absent key; free is 0.';
COMMENT ON COLUMN @extschema@.aggregator_models.catalogue_pricing IS 'What the provider''s list says, in the form of pricing; NULL: no list ever had this model.';
COMMENT ON COLUMN @extschema@.aggregator_models.pricing_source IS 'sync: pricing follows the list; manual: somebody has set it, and syncs leave it alone until set_model_price(..., NULL).';
COMMENT ON COLUMN @extschema@.aggregator_models.is_available IS 'False once it has vanished from the provider''s list.';
COMMENT ON COLUMN @extschema@.aggregator_models.first_seen_at IS 'When a sync first saw it.';

COMMENT ON TABLE @extschema@.aggregator_model_prices IS 'What models cost when: a row for each price list that came to hold. Written only when pricing changes.';
COMMENT ON COLUMN @extschema@.aggregator_model_prices.id IS 'Id of the row.';
COMMENT ON COLUMN @extschema@.aggregator_model_prices.provider_id IS 'Who offers the model.';
COMMENT ON COLUMN @extschema@.aggregator_model_prices.model_id IS 'The model as its provider spells it. Not a foreign key: the history outlives the model.';
COMMENT ON COLUMN @extschema@.aggregator_model_prices.pricing IS 'The price list, as in aggregator_models.pricing.';
COMMENT ON COLUMN @extschema@.aggregator_model_prices.valid_from IS 'Since when it holds.';
COMMENT ON COLUMN @extschema@.aggregator_model_prices.valid_to IS 'Until when it held, exclusive; NULL: it still does.';
COMMENT ON COLUMN @extschema@.aggregator_model_prices.source IS 'sync: from the provider''s list; manual: set by set_model_price or by hand.';

COMMENT ON TABLE @extschema@.aggregator_usage_logs IS
    'The usage log: one row per request that left for a provider, retries included. Written by the worker, whatever becomes of the caller''s transaction. No prompts, no answers.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.call_id IS 'The call; usage_log_id in its answer. Its attempts share it.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.created_at IS 'When the attempt began, fixed by the gateway.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.epoch IS 'The worker that made the attempt: when it started, in microseconds since 1970.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.provider_id IS 'Who was asked. Not a foreign key: the row outlives the provider.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.user_provider_id IS 'The key that paid. Not a foreign key.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.prompt_tokens IS 'All tokens that went in; NULL: the provider did not say.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.completion_tokens IS 'All tokens that came out.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.total_tokens IS 'Both together.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.cache_read_tokens IS 'Of prompt_tokens: read from a cache.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.cache_write_tokens IS 'Of prompt_tokens: written to a cache (5 minutes).';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.cache_write_1h_tokens IS 'Of prompt_tokens: written to a cache (1 hour).';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.audio_input_tokens IS 'Of prompt_tokens: audio.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.reasoning_tokens IS 'Of completion_tokens: reasoning.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.audio_output_tokens IS 'Of completion_tokens: audio.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.latency_ms IS 'Milliseconds from sending to the whole answer.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.time_to_first_token_ms IS 'Milliseconds to the first token of a streamed answer; NULL if it was not streamed.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.attempt IS '1 for the first, more for retries.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.http_status IS 'What the provider answered with.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.user_id IS 'For whom the call was made; forgotten:... after forget_user.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.model_id IS 'The model that was asked for, as its provider spells it.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.served_model IS 'The model that answered, as the provider says; also where it is the one that was asked for.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.status IS
    'pending: on its way; success; error; cancelled: the caller went away; unknown: the server crashed meanwhile.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.cost_estimate IS 'USD: what the provider reports, else what the prices give. NULL is unknown, never free.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.cost_computed IS 'USD by the catalogue''s prices, kept beside a reported cost; else the same as cost_estimate.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.cost_source IS
    'upstream: reported; computed: by the catalogue''s prices; incomplete: usage or some price is missing; unpriced: no price is known; cached: the response cache has answered, for nothing.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.reserved_cost IS 'USD that the attempt can cost at the most, reserved under a budget while it is pending; NULL: nothing was reserved.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.reserved_tokens IS 'Tokens that the attempt can use at the most, reserved likewise.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.error_code IS 'The provider''s error code, or ours; unreachable: nothing left this machine.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.request_id IS 'The provider''s id of the request, for its support.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.finish_reason IS 'Why the model stopped: stop, length, tool_calls, ...';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.metadata IS 'Small extras. estimated: the tokens are an estimate, because the provider''s own numbers never came. image, web_search: how many of them are paid by the piece. beyond_bound: which of cost and tokens the provider reported beyond what the request can have come to; they count as reserved_cost and reserved_tokens. refused_cost: a cost that the provider reported and that no call has, which is not believed.';
COMMENT ON TABLE @extschema@.aggregator_usage_logs_default IS 'Partition of the usage log for what has no partition of its own.';

COMMENT ON TABLE @extschema@.aggregator_jobs IS 'Durable chats: a row exists if and only if its transaction committed. Holds the request and the answer; see aggregator.job_retention.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.id IS 'The job; call_id of its usage rows.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.user_id IS 'Whose key pays, and who sees the row.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.status IS 'queued: waits; running: leased to the worker; succeeded, failed, cancelled: ended.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.model IS 'The model that was asked for.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.provider IS 'The provider that was named, if one was.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.request IS 'The request body in OpenAI''s form, with our options.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.request_bytes IS 'Size of the request as text, by which the worker takes no more at once than it can hold.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.idempotency_key IS 'A second chat_submit of the same user with this key gives the same job.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.run_after IS 'Not before this moment; moved on when a failure may pass.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.attempts IS 'Times that it was run; see aggregator.job_max_attempts.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.epoch IS 'The worker that runs or ran it last: when it started, in microseconds since 1970.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.created_at IS 'When it was submitted.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.started_at IS 'When it was first run.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.finished_at IS 'When it ended.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.provider_name IS 'The provider that answered.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.served_model IS 'The model that answered, as the provider says.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.response IS 'The provider''s answer in OpenAI''s form.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.error IS 'Why it failed, or why it is queued again.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.cost IS 'USD of the attempt that answered; NULL is unknown.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.cost_source IS 'As in aggregator_usage_logs.';
COMMENT ON COLUMN @extschema@.aggregator_jobs.gateway_key_id IS 'The gateway key that it was submitted with, if any; once that is revoked, it is not run.';

COMMENT ON TABLE @extschema@.aggregator_cooling IS 'Cooldowns: what keeps failing, and until when other candidates are asked first. Kept by the worker.';
COMMENT ON COLUMN @extschema@.aggregator_cooling.id IS 'Id of the row.';
COMMENT ON COLUMN @extschema@.aggregator_cooling.provider_id IS 'The provider.';
COMMENT ON COLUMN @extschema@.aggregator_cooling.user_provider_id IS 'The key; NULL: the provider with all of them, because it cannot be reached.';
COMMENT ON COLUMN @extschema@.aggregator_cooling.model_id IS 'The model; NULL: the key with all of them.';
COMMENT ON COLUMN @extschema@.aggregator_cooling.user_id IS 'Whose key it is; NULL: the platform''s, or no key''s.';
COMMENT ON COLUMN @extschema@.aggregator_cooling.cooling_until IS 'Until when; infinity: until the key is saved again.';
COMMENT ON COLUMN @extschema@.aggregator_cooling.key_print IS 'Fingerprint of the encrypted key that failed: a new one has no cooldown.';
COMMENT ON COLUMN @extschema@.aggregator_cooling.failures IS 'Failures in a row.';
COMMENT ON COLUMN @extschema@.aggregator_cooling.reason IS 'The provider''s error code or status.';
COMMENT ON COLUMN @extschema@.aggregator_cooling.noted_at IS 'When it last failed.';
COMMENT ON TABLE @extschema@.aggregator_hidden_tokens IS 'What providers were seen to count beyond the bound of a request. The bound of the next one grows by it. More than 16,384 tokens of a prompt or 65,536 of an answer are not believed. Kept by the worker.';
COMMENT ON COLUMN @extschema@.aggregator_hidden_tokens.provider_id IS 'The provider.';
COMMENT ON COLUMN @extschema@.aggregator_hidden_tokens.model_id IS 'The model, as the catalogue lists it; (unlisted): all that it does not.';
COMMENT ON COLUMN @extschema@.aggregator_hidden_tokens.prompt_tokens IS 'Tokens of a prompt beyond its bytes and what providers document.';
COMMENT ON COLUMN @extschema@.aggregator_hidden_tokens.completion_tokens IS 'Tokens of an answer beyond its limit.';
COMMENT ON COLUMN @extschema@.aggregator_hidden_tokens.noted_at IS 'When it last grew.';

COMMENT ON VIEW @extschema@.aggregator_provider_health IS 'The last 24 hours of each provider and model, as far as the caller sees the usage log, and its cooldowns.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.provider_id IS 'The provider.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.provider_name IS 'Its name.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.model_id IS 'The model; NULL: every model of a key or of the provider has a cooldown.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.calls IS 'Attempts in the last 24 hours.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.errors IS 'Of them failed.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.rate_limited IS 'Of them refused with 429.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.p50_latency_ms IS 'Median milliseconds of those that succeeded.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.p95_latency_ms IS '95th percentile of those.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.cooling_until IS 'Until when others are asked first; NULL: it is well.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.last_error IS 'Error code of the last attempt that failed.';
COMMENT ON COLUMN @extschema@.aggregator_provider_health.last_error_at IS 'When that was.';

COMMENT ON COLUMN @extschema@.aggregator_usage_logs.reserved_cost IS 'USD that the attempt could cost at the most, reserved in budgets; where more was reported, the bound of the request. NULL: no rule applied, or there is no bound.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.reserved_tokens IS 'Tokens that it could use at the most; where more was reported, the bound of the request. NULL: no rule applied.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.is_platform_key IS 'Whether the platform''s key paid, and not the user''s own; NULL, in rows of versions before 0.3.0: not known, and counted as the platform''s.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.gateway_key_id IS 'The gateway key that the call came with; NULL: it came with none.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.tags IS 'The tags of the call; NULL: none, or the user was forgotten.';
COMMENT ON COLUMN @extschema@.aggregator_usage_logs.is_listed IS 'Whether the catalogue listed the model when it was asked; what it did not is (unlisted) in the rollups. NULL, in rows of versions before 0.3.0: taken as listed.';

COMMENT ON TABLE @extschema@.aggregator_budgets IS 'What may be spent per period; see set_budget.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.id IS 'Id of the budget.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.user_id IS 'The one user whom it is about.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.each_user IS 'Each user has a count of their own; else, without user_id, all together.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.provider_id IS 'The one provider that it is about. Not a foreign key.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.model_id IS 'The one model, by its id or the last part of it, in any case and variant (:floor); what no catalogue lists counts as it.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.period IS 'hour, day, week (from Monday), month or total, in UTC.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.limit_usd IS 'USD.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.limit_tokens IS 'Tokens, in and out.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.limit_requests IS 'Requests that left, retries included.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.action IS 'block: what does not fit is refused; warn: it is only told.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.keys IS 'Whose money it protects, and so what it counts: platform (what the platform''s keys pay), own (what users'' own keys pay) or all.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.gateway_key_id IS 'The one gateway key that it is about, which is user_id''s. Not a foreign key.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.tag IS 'Calls with this tag alone.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.created_at IS 'When it was set first.';
COMMENT ON COLUMN @extschema@.aggregator_budgets.updated_at IS 'When it was set last.';

COMMENT ON TABLE @extschema@.aggregator_rate_limits IS 'Requests and tokens per minute; see set_rate_limit.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.id IS 'Id of the limit.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.user_id IS 'The one user whom it is about.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.each_user IS 'Each user has a count of their own; else, without user_id, all together.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.provider_id IS 'The one provider that it is about. Not a foreign key.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.model_id IS 'The one model, by its id or the last part of it, in any case and variant (:floor); what no catalogue lists counts as it.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.requests_per_minute IS 'Requests per minute, retries included.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.tokens_per_minute IS 'Tokens per minute: when it is sent the prompt by an estimate, and the answer as long as it may be, put right by the usage. Where neither the request nor the model limits the answer, as long as the minute leaves, 4,096 at the most.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.gateway_key_id IS 'The one gateway key that it is about, which is user_id''s. Not a foreign key.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.tag IS 'Calls with this tag alone.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.created_at IS 'When it was set first.';
COMMENT ON COLUMN @extschema@.aggregator_rate_limits.updated_at IS 'When it was set last.';

COMMENT ON TABLE @extschema@.aggregator_budget_warnings IS 'When a budget was spent to 80 and to 100 percent, once per budget, user and period.';
COMMENT ON COLUMN @extschema@.aggregator_budget_warnings.id IS 'Id of the row.';
COMMENT ON COLUMN @extschema@.aggregator_budget_warnings.budget_id IS 'The budget. Not a foreign key.';
COMMENT ON COLUMN @extschema@.aggregator_budget_warnings.user_id IS 'Whose count it is; NULL: that of all.';
COMMENT ON COLUMN @extschema@.aggregator_budget_warnings.period_start IS 'When the period began.';
COMMENT ON COLUMN @extschema@.aggregator_budget_warnings.percent IS '80 or 100.';
COMMENT ON COLUMN @extschema@.aggregator_budget_warnings.spent_usd IS 'USD that were spent by then.';
COMMENT ON COLUMN @extschema@.aggregator_budget_warnings.spent_tokens IS 'Tokens by then.';
COMMENT ON COLUMN @extschema@.aggregator_budget_warnings.spent_requests IS 'Requests by then.';
COMMENT ON COLUMN @extschema@.aggregator_budget_warnings.created_at IS 'When it was noticed.';

COMMENT ON VIEW @extschema@.aggregator_budget_status IS 'Every budget with what is spent, reserved and left in its present period; users see what is about them.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.budget_id IS 'Id of the budget; of one for each user there is a row for each who has spent.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.user_id IS 'Whose count it is; NULL: that of all.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.provider_name IS 'Name of the one provider that it is about; NULL: all, or one that is deleted.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.period_start IS 'When the present period began.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.resets_at IS 'When the next period begins; NULL: never.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.spent_usd IS 'USD that are spent: what settled calls count.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.reserved_usd IS 'USD that are reserved for calls in flight.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.left_usd IS 'USD that are left, at least 0; NULL: it does not limit USD.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.spent_tokens IS 'Tokens that are spent.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.reserved_tokens IS 'Tokens that are reserved for calls in flight.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.left_tokens IS 'Tokens that are left, at least 0; NULL: it does not limit tokens.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.spent_requests IS 'Requests that are spent.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.reserved_requests IS 'Requests in flight.';
COMMENT ON COLUMN @extschema@.aggregator_budget_status.left_requests IS 'Requests that are left, at least 0; NULL: it does not limit requests.';

COMMENT ON TABLE @extschema@.aggregator_worker_epochs IS 'Each start of the worker, to find what one that died left pending.';
COMMENT ON COLUMN @extschema@.aggregator_worker_epochs.epoch IS 'Microseconds since 1970 at its start.';
COMMENT ON COLUMN @extschema@.aggregator_worker_epochs.started_at IS 'When it started.';
COMMENT ON COLUMN @extschema@.aggregator_worker_epochs.low_water IS 'No row of this epoch that is older is still pending.';
COMMENT ON COLUMN @extschema@.aggregator_worker_epochs.ended_at IS 'When it ended well; NULL for the living and those that crashed.';

COMMENT ON EVENT TRIGGER aggregator_notify_postgrest IS 'Tells PostgREST to read the schema again when an extension changes or goes.';

-- A column of a view means what the column of the same name means that it is made of, where it has no comment of its
-- own. Upgrades run this too.
DO $$
DECLARE
    v_column record;
BEGIN
    FOR v_column IN
        SELECT v.relname, a.attname, min(told.description) AS description
        FROM pg_depend AS member
        JOIN pg_class AS v ON v.oid = member.objid AND v.relkind = 'v'
        JOIN pg_attribute AS a ON a.attrelid = v.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_rewrite AS r ON r.ev_class = v.oid
        -- The columns that it reads.
        JOIN pg_depend AS used ON used.classid = 'pg_rewrite'::regclass AND used.objid = r.oid
            AND used.refclassid = 'pg_class'::regclass AND used.refobjid <> v.oid AND used.refobjsubid > 0
        JOIN pg_attribute AS source ON source.attrelid = used.refobjid AND source.attnum = used.refobjsubid
            AND source.attname = a.attname
        JOIN pg_description AS told ON told.classoid = 'pg_class'::regclass AND told.objoid = source.attrelid
            AND told.objsubid = source.attnum
        WHERE member.classid = 'pg_class'::regclass
          AND member.refclassid = 'pg_extension'::regclass
          AND member.refobjid = (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'aggregator')
          AND member.deptype = 'e'
          AND col_description(v.oid, a.attnum) IS NULL
        GROUP BY v.oid, v.relname, a.attnum, a.attname
        -- Two that say different things say nothing.
        HAVING count(DISTINCT told.description) = 1
    LOOP
        EXECUTE format('COMMENT ON COLUMN @extschema@.%I.%I IS %L', v_column.relname, v_column.attname, v_column.description);
    END LOOP;
END
$$;

SET LOCAL search_path = @extschema@, pg_temp;
