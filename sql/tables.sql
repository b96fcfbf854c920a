SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE @extschema@.api_providers (
    id                uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    name              text        NOT NULL UNIQUE CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
    display_name      text        NOT NULL,
    provider_type     text        NOT NULL CHECK (provider_type IN ('aggregator', 'direct')),
    api_standard      text        NOT NULL DEFAULT 'openai' CHECK (api_standard IN ('openai', 'anthropic')),
    base_url          text        NOT NULL,
    models_url        text,
    key_check_url     text,
    catalogue_format  text        NOT NULL DEFAULT 'auto'
                                  CHECK (catalogue_format IN ('auto', 'openrouter', 'aihubmix', 'openai')),
    headers           jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(headers) = 'object'),
    features          jsonb       NOT NULL DEFAULT '{"supports_streaming": true}'
                                  CHECK (jsonb_typeof(features) = 'object'),
    documentation_url text,
    key_url           text,
    is_active         boolean     NOT NULL DEFAULT true,
    last_synced_at    timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    price_unit        text        NOT NULL DEFAULT 'auto' CHECK (price_unit IN ('auto', 'token', 'million'))
);

CREATE TABLE @extschema@.user_api_providers (
    id                uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id           text        CHECK (user_id <> ''),
    provider_id       uuid        NOT NULL REFERENCES @extschema@.api_providers ON DELETE CASCADE,
    api_key_encrypted bytea       NOT NULL,
    key_hint          text        NOT NULL,
    is_active         boolean     NOT NULL DEFAULT true,
    priority          integer     NOT NULL DEFAULT 0,
    settings          jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(settings) = 'object'),
    last_validated_at timestamptz,
    last_used_at      timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    -- One key per user and provider; and one platform key, whose user is NULL, per provider.
    UNIQUE NULLS NOT DISTINCT (user_id, provider_id)
);
CREATE INDEX ON @extschema@.user_api_providers (provider_id);

CREATE TABLE @extschema@.aggregator_models (
    id                uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    provider_id       uuid        NOT NULL REFERENCES @extschema@.api_providers ON DELETE CASCADE,
    model_id          text        NOT NULL,
    model_name        text        NOT NULL,
    display_name      text        NOT NULL,
    model_type        text        NOT NULL DEFAULT 'chat',
    capabilities      jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(capabilities) = 'object'),
    context_window    integer     CHECK (context_window > 0),
    max_output_tokens integer     CHECK (max_output_tokens > 0),
    pricing           jsonb       NOT NULL DEFAULT '{}',
    -- What the provider's list says; NULL: no list ever had this model. Beside a price that somebody
    -- has set, it is what unsetting goes back to.
    catalogue_pricing jsonb,
    pricing_source    text        NOT NULL DEFAULT 'sync' CHECK (pricing_source IN ('sync', 'manual')),
    is_available      boolean     NOT NULL DEFAULT true,
    first_seen_at     timestamptz NOT NULL DEFAULT now(),
    shares_cache      boolean     NOT NULL DEFAULT false,
    UNIQUE (provider_id, model_id)
);
-- A model is looked for by its id and by the last part of its id ("gpt-4o" in "openai/gpt-4o").
CREATE INDEX ON @extschema@.aggregator_models (model_id);
CREATE INDEX ON @extschema@.aggregator_models (model_name);

-- The usage log: one row per request that left, keyed by values that the gateway fixes before it
-- writes, so that writing twice changes nothing. No foreign keys: a tenant's lock on a referenced
-- row would stall the worker. No index on a column that settling writes: updates stay HOT where the
-- page has room.
CREATE TABLE @extschema@.aggregator_usage_logs (
    call_id                uuid        NOT NULL,
    created_at             timestamptz NOT NULL,
    epoch                  bigint      NOT NULL,
    provider_id            uuid        NOT NULL,
    user_provider_id       uuid,
    prompt_tokens          integer,
    completion_tokens      integer,
    total_tokens           integer,
    cache_read_tokens      integer,
    cache_write_tokens     integer,
    cache_write_1h_tokens  integer,
    audio_input_tokens     integer,
    reasoning_tokens       integer,
    audio_output_tokens    integer,
    latency_ms             integer,
    time_to_first_token_ms integer,
    attempt                smallint    NOT NULL,
    http_status            smallint,
    user_id                text        NOT NULL,
    model_id               text        NOT NULL,
    served_model           text,
    status                 text        NOT NULL DEFAULT 'pending'
                           CHECK (status IN ('pending', 'success', 'error', 'cancelled', 'unknown')),
    cost_estimate          numeric,
    cost_computed          numeric,
    reserved_cost          numeric,
    reserved_tokens        bigint,
    cost_source            text
                           CHECK (cost_source IN ('upstream', 'computed', 'incomplete', 'unpriced', 'cached')),
    error_code             text,
    request_id             text,
    finish_reason          text,
    metadata               jsonb,
    is_platform_key        boolean,
    is_listed              boolean,
    gateway_key_id         uuid,
    tags                   text[]
) PARTITION BY RANGE (created_at);

-- The keys and indexes are each partition's own: of those it would inherit pg_dump makes a second
-- set, because the ledger, with its indexes, is there before a restored partition is attached to it.
-- A page that is left emptier keeps more settlements beside their pending rows, and never gives the room
-- back: of calls that are answered at once four in five stay at 95, nine in ten at 80, for 50 bytes per row.
-- What a settled row leaves of its pending one is a third of the page, which vacuum makes room for others. It is to
-- come while the month grows, whatever size that has: it reads the pages alone that were written since.
CREATE TABLE @extschema@.aggregator_usage_logs_default PARTITION OF @extschema@.aggregator_usage_logs DEFAULT
    WITH (fillfactor = 95, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
ALTER TABLE @extschema@.aggregator_usage_logs_default ADD PRIMARY KEY (call_id, attempt, created_at);
CREATE INDEX ON @extschema@.aggregator_usage_logs_default (user_id, created_at);
-- What asks for a time and not for a user (limits of a provider, old rows, the health of providers) finds its
-- pages by this one, which costs next to nothing; those of the last minutes too, because each range is
-- summarised once the next one has begun.
CREATE INDEX ON @extschema@.aggregator_usage_logs_default USING brin (created_at) WITH (autosummarize = on);

-- One row per life of the worker that has not ended well, and the last that has. What a dead life
-- left pending becomes 'unknown'.
CREATE TABLE @extschema@.aggregator_worker_epochs (
    epoch      bigint      PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT now(),
    low_water  timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
);

-- What pg_dump carries. Seed rows only if they were edited; a restored row wins over a fresh seed.
SELECT pg_catalog.pg_extension_config_dump('@extschema@.api_providers',
    $$WHERE id::text NOT LIKE 'a9920000-%' OR updated_at <> created_at$$);
SELECT pg_catalog.pg_extension_config_dump('@extschema@.user_api_providers', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_models', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_usage_logs_default', '');

SET LOCAL search_path = @extschema@, pg_temp;
