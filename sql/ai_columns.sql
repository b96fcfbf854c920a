-- AI columns: what each is, and which rows wait for a value. The table, its column and what goes in are kept in a view
-- in the table's own schema, and not here: it follows renames and dumps. Written as the owner alone, by ai_column() and
-- its like, by the triggers on users' tables and by the worker.

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE TABLE @extschema@.aggregator_ai_columns (
    id              uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id         text        NOT NULL CHECK (user_id <> ''),
    definer         text        NOT NULL,
    kind            text        NOT NULL CHECK (kind IN ('embed', 'chat', 'json')),
    model           text        NOT NULL,
    provider        text,
    request         jsonb       NOT NULL CHECK (jsonb_typeof(request) = 'object'),
    concurrency     integer     NOT NULL DEFAULT 4 CHECK (concurrency BETWEEN 1 AND 64),
    batch_size      integer     NOT NULL CHECK (batch_size BETWEEN 1 AND 2048),
    status          text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused')),
    paused_for      jsonb,
    wait_until      timestamptz,
    backfill        text        NOT NULL DEFAULT 'missing' CHECK (backfill IN ('missing', 'all', 'none')),
    backfill_status text        NOT NULL DEFAULT 'running' CHECK (backfill_status IN ('none', 'running', 'done')),
    backfill_after  text[],
    backfill_seen   bigint      NOT NULL DEFAULT 0,
    backfill_total  bigint,
    last_error      jsonb,
    last_error_at   timestamptz,
    -- A restore makes the view before or after this row, so that one without a view is not deleted at once.
    detached_at     timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE INDEX ON @extschema@.aggregator_ai_columns (user_id);

-- A row for each row of a user's table whose value is to be computed. No foreign key: a lock on a column's row would
-- hold up whoever writes into the user's table.
CREATE TABLE @extschema@.aggregator_ai_queue (
    column_id uuid        NOT NULL,
    key       text[]      NOT NULL,
    version   xid8        NOT NULL DEFAULT pg_current_xact_id(),
    status    text        NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'running', 'failed')),
    epoch     bigint,
    attempts  integer     NOT NULL DEFAULT 0,
    run_after timestamptz NOT NULL DEFAULT now(),
    queued_at timestamptz NOT NULL DEFAULT now(),
    error     jsonb,
    PRIMARY KEY (column_id, key)
) WITH (fillfactor = 80);
CREATE INDEX aggregator_ai_queue_due ON @extschema@.aggregator_ai_queue (column_id, run_after) WHERE status = 'queued';
CREATE INDEX aggregator_ai_queue_running ON @extschema@.aggregator_ai_queue (epoch) WHERE status = 'running';
CREATE INDEX aggregator_ai_queue_failed ON @extschema@.aggregator_ai_queue (column_id) WHERE status = 'failed';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_ai_columns', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.aggregator_ai_queue', '');

-- Keys are values of users' rows: planners need not remember them.
ALTER TABLE @extschema@.aggregator_ai_columns
    ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN definer SET STATISTICS 0,
    ALTER COLUMN request SET STATISTICS 0,
    ALTER COLUMN backfill_after SET STATISTICS 0,
    ALTER COLUMN paused_for SET STATISTICS 0,
    ALTER COLUMN last_error SET STATISTICS 0;
ALTER TABLE @extschema@.aggregator_ai_queue
    ALTER COLUMN key SET STATISTICS 0,
    ALTER COLUMN error SET STATISTICS 0;

-- What a view of an AI column says: the table, and which of its columns are the key, the output and the inputs. No
-- row: it is not such a view, or it was replaced by something else. Anybody's view may have such a name: whose it is,
-- the caller looks at.
CREATE FUNCTION @extschema@.aggregator_ai_view(
    p_view     oid,
    OUT source oid,
    OUT keys   smallint[],
    OUT output smallint,
    OUT inputs smallint[]
) RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_largest CONSTANT integer := 4 * 1024 * 1024;
    v_rule    record;
    v_sources oid[];
    v_columns text[];
    v_count   integer;
    v_named   integer[];
BEGIN
    -- None that ai_column() makes is as large, however long its expression.
    SELECT r.oid, CASE WHEN pg_column_size(r.ev_action) <= c_largest THEN r.ev_action::text END AS query INTO v_rule
    FROM pg_rewrite AS r
    JOIN pg_class AS c ON c.oid = r.ev_class AND c.relkind = 'v'
    WHERE r.ev_class = p_view AND r.rulename = '_RETURN';
    IF v_rule.query IS NULL OR octet_length(v_rule.query) > c_largest THEN
        RETURN;
    END IF;
    v_sources := ARRAY(
        SELECT DISTINCT d.refobjid
        FROM pg_depend AS d
        WHERE d.classid = 'pg_rewrite'::regclass
          AND d.objid = v_rule.oid
          AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid <> p_view);
    v_columns := ARRAY(
        SELECT a.attname::text FROM pg_attribute AS a
        WHERE a.attrelid = p_view AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum);
    v_count := cardinality(v_columns) - 2;
    IF cardinality(v_sources) <> 1
       OR v_count < 1
       OR v_columns <> ARRAY(SELECT 'key_' || i FROM generate_series(1, v_count) AS i) || '{output,input}'::text[]
       OR v_rule.query LIKE '%{SUBLINK %' THEN
        RETURN;
    END IF;
    -- The columns that the view names, in their order: those of the key, the output, and what the input is made of.
    -- Nothing else in a stored query looks like this: in names and texts spaces are escaped.
    v_named := ARRAY(
        SELECT found.parts[1]::integer
        FROM regexp_matches(v_rule.query, '[{]VAR :varno [0-9]+ :varattno (-?[0-9]+) ', 'g') WITH ORDINALITY AS found (parts, place)
        ORDER BY found.place);
    IF cardinality(v_named) <= v_count + 1 OR 1 > ANY (v_named) THEN
        RETURN;
    END IF;
    source := v_sources[1];
    keys := v_named[:v_count];
    output := v_named[v_count + 1];
    inputs := ARRAY(SELECT DISTINCT input FROM unnest(v_named[v_count + 2:]) AS input ORDER BY input);
    RETURN NEXT;
END
$$;

-- Where an AI column is now. No row: its view is gone, and with it the table, or the column. Of several views of that
-- name the definer's is it; where they have none, because the table has got another owner, one that belongs to the
-- owner of its table. Anybody can make a view of that name, so that others are not even looked into.
CREATE FUNCTION @extschema@.aggregator_ai_place(
    p_column        uuid,
    OUT table_oid   oid,
    OUT table_name  text,
    OUT view_oid    oid,
    OUT view_name   text,
    OUT output_name name,
    OUT output_type text,
    OUT key_names   name[],
    OUT key_types   text[],
    OUT input_names name[],
    OUT owner       name,
    OUT problem     text
) RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_name    CONSTANT name := 'aggregator_ai_' || replace(p_column::text, '-', '');
    v_maker   text := (SELECT c.definer FROM @extschema@.aggregator_ai_columns AS c WHERE c.id = p_column);
    v_definer oid := (SELECT r.oid FROM pg_roles AS r WHERE r.rolname = v_maker);
    v_place   record;
BEGIN
    SELECT c.oid AS source, v.oid AS view, v.view_schema, v.relname AS view_relname, n.nspname, c.relname, told.keys,
        told.output, told.inputs, o.rolname, o.oid AS role, o.rolsuper
    INTO v_place
    FROM (
        SELECT named.oid, named.relname, named.relowner, s.nspname AS view_schema
        FROM pg_class AS named
        JOIN pg_namespace AS s ON s.oid = named.relnamespace
        WHERE named.relname = v_name
          AND named.relkind = 'v'
          AND (named.relowner = v_definer
               OR NOT EXISTS (
                   SELECT FROM pg_class AS made
                   WHERE made.relname = v_name AND made.relkind = 'v' AND made.relowner = v_definer
               )
               AND EXISTS (
                   SELECT
                   FROM pg_rewrite AS r
                   JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                   JOIN pg_class AS named_by ON d.refclassid = 'pg_class'::regclass AND named_by.oid = d.refobjid
                   WHERE r.ev_class = named.oid AND named_by.oid <> named.oid AND named_by.relowner = named.relowner
               ))
        OFFSET 0
    ) AS v
    CROSS JOIN LATERAL @extschema@.aggregator_ai_view(v.oid) AS told
    JOIN pg_class AS c ON c.oid = told.source AND c.relkind IN ('r', 'p')
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    JOIN pg_roles AS o ON o.oid = c.relowner
    WHERE v.relowner = v_definer OR v.relowner = c.relowner
    ORDER BY v.relowner = v_definer DESC, v.oid
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    table_oid := v_place.source;
    table_name := format('%I.%I', v_place.nspname, v_place.relname);
    view_oid := v_place.view;
    view_name := format('%I.%I', v_place.view_schema, v_place.view_relname);
    SELECT a.attname, format_type(a.atttypid, a.atttypmod) INTO output_name, output_type
    FROM pg_attribute AS a
    WHERE a.attrelid = v_place.source AND a.attnum = v_place.output;
    SELECT array_agg(a.attname ORDER BY key.place), array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY key.place)
    INTO key_names, key_types
    FROM unnest(v_place.keys) WITH ORDINALITY AS key (attnum, place)
    JOIN pg_attribute AS a ON a.attrelid = v_place.source AND a.attnum = key.attnum;
    input_names := ARRAY(
        SELECT a.attname
        FROM pg_attribute AS a
        WHERE a.attrelid = v_place.source AND a.attnum = ANY (v_place.inputs)
        ORDER BY a.attnum);
    owner := v_place.rolname;
    problem := CASE
        WHEN v_place.rolname <> v_maker THEN
            format('table %s belongs to %I now, and not to %I, who made the column', table_name, v_place.rolname, v_maker)
        WHEN v_place.rolsuper THEN
            format('%I, to whom table %s belongs, is a superuser, and nothing runs as one', v_place.rolname, table_name)
        WHEN NOT has_schema_privilege(v_place.role, '@extschema@', 'USAGE')
             OR NOT has_function_privilege(v_place.role, '@extschema@.chat_complete(text, jsonb, jsonb, text, text)', 'EXECUTE') THEN
            format('%I, to whom table %s belongs, may not chat', v_place.rolname, table_name)
    END;
    RETURN NEXT;
END
$$;

COMMENT ON TABLE @extschema@.aggregator_ai_columns IS 'AI columns, which ai_column() makes: what is asked of which model, for whom, and how far it is. Where they are says ai_column_status.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.id IS 'Id of the AI column; the names of its view and triggers, and its triggers'' argument, hold it.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.user_id IS 'Who pays for its calls, and with whose keys they are made.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.definer IS 'Name of the role that owned the table when it called ai_column(); inputs are read and values written as it.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.kind IS 'embed, chat or json.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.model IS 'The model that is asked.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.provider IS 'Name or id of the only provider that may serve it; NULL: any.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.request IS 'The request with its options, without input and messages.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.concurrency IS 'Requests at a time.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.batch_size IS 'Inputs of one request for embeddings; rows that are claimed at a time.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.status IS 'active or paused.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.paused_for IS 'The error for which it was paused; NULL: a person has paused it, or nobody.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.wait_until IS 'Nothing is asked before: a limit is reached, or something is down. It goes on by itself.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.backfill IS 'Which rows that were there before are computed: those whose value is missing, all, or none.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.backfill_status IS 'none, running or done.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.backfill_after IS 'Key of the last row that the backfill has looked at, as texts.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.backfill_seen IS 'Rows that it has looked at.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.backfill_total IS 'Rows of the table when it began, as the planner estimated them; NULL: unknown.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.last_error IS 'The last error, of a row or of all.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.last_error_at IS 'When that was.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.detached_at IS 'Since when its view is known to be gone; a week later the row goes as well. NULL: it is there.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.created_at IS 'When it was made.';
COMMENT ON COLUMN @extschema@.aggregator_ai_columns.updated_at IS 'When it was last paused, resumed or made.';

COMMENT ON TABLE @extschema@.aggregator_ai_queue IS 'Rows of users'' tables whose AI column is to be computed, and those where that has failed.';
COMMENT ON COLUMN @extschema@.aggregator_ai_queue.column_id IS 'The AI column.';
COMMENT ON COLUMN @extschema@.aggregator_ai_queue.key IS 'The row''s primary key: what casts to text give, with ISO dates and in UTC.';
COMMENT ON COLUMN @extschema@.aggregator_ai_queue.version IS 'The transaction that changed the row last: an answer to what was there before is dropped.';
COMMENT ON COLUMN @extschema@.aggregator_ai_queue.status IS 'queued, running or failed.';
COMMENT ON COLUMN @extschema@.aggregator_ai_queue.epoch IS 'Epoch of the worker that runs it: when that started.';
COMMENT ON COLUMN @extschema@.aggregator_ai_queue.attempts IS 'How often it was begun.';
COMMENT ON COLUMN @extschema@.aggregator_ai_queue.run_after IS 'When it is due.';
COMMENT ON COLUMN @extschema@.aggregator_ai_queue.queued_at IS 'When the row was last changed.';
COMMENT ON COLUMN @extschema@.aggregator_ai_queue.error IS 'Why it failed.';

COMMENT ON FUNCTION @extschema@.aggregator_ai_view(oid) IS 'What the view of an AI column says: its table, and which columns are key, output and inputs. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_place(uuid) IS 'Where an AI column is now, under its names of now, and why nothing can be done there (problem). No row: its view is gone. Internal.';

SET LOCAL search_path = @extschema@, pg_temp;
