-- How AI columns are made: a view that says what goes in and where the answer goes, and triggers on the user's table that
-- note which rows have changed. Both are the caller's own, made with the caller's rights by functions that run as the
-- caller; the expression is never run here.

SET LOCAL search_path = pg_catalog, pg_temp;

-- Runs as whoever writes the user's row, and trusts nothing of what it is given (src/session/ai_columns/trigger.rs). It
-- only notes the key of the row.
CREATE FUNCTION @extschema@.aggregator_ai_column_changed() RETURNS trigger
LANGUAGE c
AS 'MODULE_PATHNAME', 'aggregator_ai_column_changed_wrapper';

-- What a domain is made of; any other type is itself.
CREATE FUNCTION @extschema@.aggregator_ai_base_type(p_type oid) RETURNS oid
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_type oid := p_type;
    v_base oid;
BEGIN
    LOOP
        SELECT t.typbasetype INTO v_base FROM pg_type AS t WHERE t.oid = v_type AND t.typtype = 'd';
        IF v_base IS NULL THEN
            RETURN v_type;
        END IF;
        v_type := v_base;
    END LOOP;
END
$$;

-- Whether values of a type can be the key of a row: their texts are always the same, and made by PostgreSQL itself.
CREATE FUNCTION @extschema@.aggregator_ai_is_key_type(p_type oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.oid = ANY ('{bool,int2,int4,int8,oid,numeric,text,varchar,bpchar,name,uuid,date,timestamp,timestamptz,bytea}'::regtype[]::oid[])
        OR t.typtype = 'e'
    FROM pg_type AS t
    WHERE t.oid = @extschema@.aggregator_ai_base_type(p_type)
$$;

-- The key of a relation that an AI column is about: its table, or a partition of that. No row: the column is nowhere any
-- more. PT403: the relation is another one.
CREATE FUNCTION @extschema@.aggregator_ai_key(
    p_column       uuid,
    p_relation     oid,
    OUT attnum     smallint,
    OUT base_type  oid,
    OUT typoutput  oid
) RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_place record;
BEGIN
    SELECT place.table_oid, place.key_names INTO v_place
    FROM @extschema@.aggregator_ai_columns AS c
    CROSS JOIN LATERAL @extschema@.aggregator_ai_place(c.id) AS place
    WHERE c.id = p_column;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF v_place.table_oid <> p_relation
       AND NOT EXISTS (SELECT FROM pg_partition_ancestors(p_relation) AS above WHERE above.relid = v_place.table_oid) THEN
        RAISE EXCEPTION 'the AI column % is not one of table %', p_column, p_relation::regclass
            USING ERRCODE = 'PT403', HINT = 'DROP TRIGGER takes the trigger away that says so.';
    END IF;
    RETURN QUERY
    SELECT a.attnum, t.oid, t.typoutput::oid
    FROM unnest(v_place.key_names) WITH ORDINALITY AS key (name, place)
    JOIN pg_attribute AS a ON a.attrelid = p_relation AND a.attname = key.name AND NOT a.attisdropped
    JOIN pg_type AS t ON t.oid = @extschema@.aggregator_ai_base_type(a.atttypid)
    WHERE @extschema@.aggregator_ai_is_key_type(t.oid)
    ORDER BY key.place;
END
$$;

-- The expression that a template means: texts, and {columns} of the table. NULL: it is none, as it names no column.
CREATE FUNCTION @extschema@.aggregator_ai_template(p_table oid, p_input text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_table CONSTANT text := (SELECT quote_ident(c.relname) FROM pg_class AS c WHERE c.oid = p_table);
    c_names CONSTANT text[] := ARRAY(
        SELECT a.attname::text FROM pg_attribute AS a
        WHERE a.attrelid = p_table AND a.attnum > 0 AND NOT a.attisdropped);
    c_parts CONSTANT text[] := ARRAY(
        SELECT found.parts[1]
        FROM regexp_matches(p_input, '[{][{]|[}][}]|[{][^{}]*[}]|[^{}]+|[{}]', 'g') WITH ORDINALITY AS found (parts, place)
        ORDER BY found.place);
    v_part   text;
    v_name   text;
    v_column text;
    v_texts  text[] := '{}';
    v_values text[] := '{}';
BEGIN
    IF NOT EXISTS (SELECT FROM unnest(c_parts) AS part WHERE part LIKE '{_%}' AND btrim(part, '{}') = ANY (c_names)) THEN
        RETURN NULL;
    END IF;
    FOREACH v_part IN ARRAY c_parts LOOP
        IF v_part IN ('{{', '}}') THEN
            v_texts := v_texts || format('%L::pg_catalog.text', left(v_part, 1));
        ELSIF v_part LIKE '{%}' THEN
            v_name := substr(v_part, 2, length(v_part) - 2);
            IF NOT v_name = ANY (c_names) THEN
                RAISE EXCEPTION 'p_input names {%}, and table % has no such column', v_name, p_table::regclass
                    USING ERRCODE = 'PT400', HINT = '{{ and }} are braces.';
            END IF;
            v_column := format('(%s.%I)::pg_catalog.text', c_table, v_name);
            v_texts := v_texts || v_column;
            v_values := v_values || v_column;
        ELSIF v_part IN ('{', '}') THEN
            RAISE EXCEPTION 'p_input is a template, and has a % alone', v_part
                USING ERRCODE = 'PT400', HINT = '{{ and }} are braces.';
        ELSE
            v_texts := v_texts || format('%L::pg_catalog.text', v_part);
        END IF;
    END LOOP;
    RETURN format(
        'CASE WHEN pg_catalog.num_nonnulls(VARIADIC ARRAY[%s]) OPERATOR(pg_catalog.>) 0 THEN pg_catalog.array_to_string(ARRAY[%s], '''') END',
        array_to_string(v_values, ', '), array_to_string(v_texts, ', '));
END
$$;

-- How it is seen that a column has changed. As texts, where two values may be equal and not the same, or cannot be
-- compared at all.
CREATE FUNCTION @extschema@.aggregator_ai_change(p_table oid, p_columns smallint[]) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(
        CASE
            -- A cast of the user's own makes plain comparisons ambiguous.
            WHEN t.typtype = 'e'
                THEN format('pg_catalog.enum_ne((OLD.%1$I)::%2$s, (NEW.%1$I)::%2$s) OR (OLD.%1$I IS NULL) <> (NEW.%1$I IS NULL)',
                    a.attname, format_type(t.oid, NULL))
            WHEN t.oid = ANY ('{bool,int2,int4,int8,oid,uuid,date,timestamp,timestamptz,bytea}'::regtype[]::oid[])
                 OR t.oid = ANY ('{text,varchar}'::regtype[]::oid[]) AND l.collisdeterministic
                THEN format('OLD.%1$I IS DISTINCT FROM NEW.%1$I', a.attname)
            ELSE format('(OLD.%1$I)::pg_catalog.text IS DISTINCT FROM (NEW.%1$I)::pg_catalog.text', a.attname)
        END,
        ' OR ' ORDER BY a.attnum)
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = @extschema@.aggregator_ai_base_type(a.atttypid)
    LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
    WHERE a.attrelid = p_table AND a.attnum = ANY (p_columns)
$$;

-- The views of a table's AI columns that belong to its owner.
CREATE FUNCTION @extschema@.aggregator_ai_views(p_table oid, OUT view oid, OUT output smallint, OUT inputs smallint[]) RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT v.oid, told.output, told.inputs
    FROM pg_class AS v
    JOIN pg_class AS c ON c.oid = p_table AND c.relowner = v.relowner
    CROSS JOIN LATERAL @extschema@.aggregator_ai_view(v.oid) AS told
    WHERE v.oid IN (
            SELECT r.ev_class
            FROM pg_depend AS d
            JOIN pg_rewrite AS r ON r.oid = d.objid
            WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p_table)
      AND v.relkind = 'v'
      AND v.relname ~ '^aggregator_ai_[0-9a-f]{32}$'
$$;

-- What can be said against an AI column of this kind in this column of this table. Raises it.
CREATE FUNCTION @extschema@.aggregator_ai_check_table(p_table regclass, p_column name, p_kind text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_table  record;
    v_column record;
    v_key    record;
BEGIN
    SELECT c.relkind, c.relpersistence, c.relispartition, c.relnamespace, o.rolname AS owner, o.rolsuper
    INTO v_table
    FROM pg_class AS c
    JOIN pg_roles AS o ON o.oid = c.relowner
    WHERE c.oid = p_table;
    IF NOT FOUND OR v_table.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION '% is no table', p_table USING ERRCODE = 'PT400', HINT = 'AI columns are columns of tables.';
    ELSIF v_table.relispartition THEN
        RAISE EXCEPTION '% is a partition', p_table
            USING ERRCODE = 'PT400', HINT = 'Give the partitioned table: the column is in all of its partitions.';
    ELSIF v_table.relpersistence = 't' THEN
        RAISE EXCEPTION '% is a temporary table, which only this session sees', p_table USING ERRCODE = 'PT400';
    ELSIF p_table::oid < 16384 OR v_table.owner = 'aggregator_owner' THEN
        RAISE EXCEPTION '% is a table of the system', p_table USING ERRCODE = 'PT400';
    ELSIF v_table.owner <> current_user THEN
        RAISE EXCEPTION 'role ''%'' does not own table %', current_user, p_table
            USING ERRCODE = 'PT403', HINT = format('SET ROLE %I;', v_table.owner);
    ELSIF v_table.rolsuper THEN
        RAISE EXCEPTION 'table % belongs to a superuser, and nothing runs as one', p_table
            USING ERRCODE = 'PT403',
                HINT = format('ALTER TABLE %s OWNER TO a role that may chat, then SET ROLE to it.', p_table);
    END IF;

    SELECT a.attnum, a.attgenerated, a.attidentity, format_type(a.atttypid, a.atttypmod) AS type,
        @extschema@.aggregator_ai_base_type(a.atttypid) AS base
    INTO v_column
    FROM pg_attribute AS a
    WHERE a.attrelid = p_table AND a.attname = p_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % has no column ''%''', p_table, p_column
            USING ERRCODE = 'PT404', HINT = format('ALTER TABLE %s ADD COLUMN %I ...;', p_table, p_column);
    ELSIF v_column.attgenerated <> '' OR v_column.attidentity <> '' THEN
        RAISE EXCEPTION 'column ''%'' of table % is generated, and cannot be written', p_column, p_table
            USING ERRCODE = 'PT400';
    ELSIF NOT (CASE p_kind
        WHEN 'chat' THEN v_column.base IN ('text'::regtype, 'varchar'::regtype)
        WHEN 'json' THEN v_column.base IN ('jsonb'::regtype, 'json'::regtype)
        ELSE v_column.base IN ('real[]'::regtype, 'double precision[]'::regtype)
             OR EXISTS (SELECT FROM pg_cast AS k WHERE k.castsource = 'real[]'::regtype AND k.casttarget = v_column.base)
    END) THEN
        RAISE EXCEPTION 'column ''%'' of type % cannot take what kind ''%'' gives', p_column, v_column.type, p_kind
            USING ERRCODE = 'PT400',
                HINT = CASE p_kind
                    WHEN 'chat' THEN 'Its type must be text or varchar.'
                    WHEN 'json' THEN 'Its type must be jsonb or json.'
                    ELSE 'Its type must be real[], or one to which real[] can be cast, such as pgvector''s vector.'
                END;
    END IF;

    SELECT i.indkey::smallint[] AS columns INTO v_key
    FROM pg_index AS i
    WHERE i.indrelid = p_table AND i.indisprimary;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % has no primary key', p_table
            USING ERRCODE = 'PT400', HINT = format('ALTER TABLE %s ADD PRIMARY KEY (...);', p_table);
    ELSIF v_column.attnum = ANY (v_key.columns) THEN
        RAISE EXCEPTION 'column ''%'' is part of the primary key', p_column USING ERRCODE = 'PT400';
    END IF;
    SELECT a.attname, format_type(a.atttypid, a.atttypmod) AS type INTO v_key
    FROM pg_attribute AS a
    WHERE a.attrelid = p_table
      AND a.attnum = ANY (v_key.columns)
      AND NOT @extschema@.aggregator_ai_is_key_type(a.atttypid)
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'column ''%'' of the primary key has type %', v_key.attname, v_key.type
            USING ERRCODE = 'PT400',
                HINT = 'Keys may be of numbers without fractions, numeric, text, uuid, boolean, dates and timestamps, bytea and enums.';
    END IF;
    IF EXISTS (SELECT FROM @extschema@.aggregator_ai_views(p_table::oid) AS other WHERE other.output = v_column.attnum) THEN
        RAISE EXCEPTION 'column ''%'' of table % is an AI column already', p_column, p_table
            USING ERRCODE = 'PT409', HINT = format('SELECT ai_column_drop(%L, %L);', p_table::text, p_column);
    END IF;
END
$$;

-- What can be said against what goes in, once the view is there. Raises it.
CREATE FUNCTION @extschema@.aggregator_ai_check_view(p_view oid, p_table regclass, p_column name) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_told     record;
    v_query    text;
    v_problem  text;
    v_circle   text;
BEGIN
    SELECT r.ev_action::text INTO v_query FROM pg_rewrite AS r WHERE r.ev_class = p_view AND r.rulename = '_RETURN';
    SELECT told.* INTO v_told FROM @extschema@.aggregator_ai_view(p_view) AS told;
    v_problem := CASE
        WHEN v_query LIKE '%{SUBLINK %' THEN 'must not have a subquery'
        -- Of a row as a whole, or of what the system keeps of it, nobody is told when it changes.
        WHEN v_query ~ '[{]VAR :varno [0-9]+ :varattno (0|-[0-9]+) ' THEN 'must name columns of the table, and not whole rows or system columns'
        WHEN v_told.source IS NULL THEN 'must name a column of the table'
        WHEN v_told.output = ANY (v_told.inputs) THEN format('must not name column ''%s'', which it is to fill', p_column)
        -- What gives several rows, or sums them up, makes a view that cannot be written.
        WHEN pg_relation_is_updatable(p_view, false) & 4 = 0 THEN 'must give one value for each row'
        WHEN NOT pg_column_is_updatable(p_view, (cardinality(v_told.keys) + 1)::smallint, false) THEN 'must give one value for each row'
    END;
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION 'p_input %', v_problem
            USING ERRCODE = 'PT400',
                HINT = 'It is an SQL expression of the row''s columns, such as title || '' '' || body, or a template, such as {title} {body}.';
    END IF;
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attname) INTO v_circle
    FROM (
        WITH RECURSIVE fed (attnum) AS (
            SELECT v_told.output
            UNION
            SELECT other.output
            FROM fed
            JOIN @extschema@.aggregator_ai_views(p_table::oid) AS other ON fed.attnum = ANY (other.inputs)
            WHERE other.view <> p_view
        )
        SELECT fed.attnum FROM fed WHERE fed.attnum = ANY (v_told.inputs)
    ) AS circle
    JOIN pg_attribute AS a ON a.attrelid = p_table AND a.attnum = circle.attnum;
    IF v_circle IS NOT NULL THEN
        RAISE EXCEPTION 'column ''%'' would be computed from itself, by way of %', p_column, v_circle
            USING ERRCODE = 'PT400', HINT = 'AI columns may follow one another, and not in a circle.';
    END IF;
END
$$;

-- Makes view and triggers of an AI column as the caller, under whose search_path (p_search_path) the expression is
-- understood. Returns an estimate of the table's rows; NULL: there is none.
CREATE FUNCTION @extschema@.aggregator_ai_make(
    p_id          uuid,
    p_table       regclass,
    p_column      name,
    p_kind        text,
    p_input       text,
    p_search_path text
) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c_name CONSTANT text := 'aggregator_ai_' || replace(p_id::text, '-', '');
    v_table      record;
    v_keys       text;
    v_expression text;
    v_sql        text;
    v_view       oid;
    v_grantee    record;
    v_told       record;
    v_estimate   double precision;
BEGIN
    PERFORM @extschema@.aggregator_ai_check_table(p_table, p_column, p_kind);
    SELECT quote_ident(n.nspname) AS schema, quote_ident(c.relname) AS name, c.relkind, c.reltuples,
        CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END AS only
    INTO v_table
    FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = p_table;
    SELECT string_agg(format('%s.%I AS key_%s', v_table.name, a.attname, key.place), ', ' ORDER BY key.place) INTO v_keys
    FROM pg_index AS i
    CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS key (attnum, place)
    JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = key.attnum
    WHERE i.indrelid = p_table AND i.indisprimary AND key.place <= i.indnkeyatts;

    v_expression := @extschema@.aggregator_ai_template(p_table::oid, p_input);
    v_sql := format(
        E'CREATE VIEW %s.%I WITH (security_invoker = true) AS\nSELECT %s, %s.%I AS output, (\n%s\n)::pg_catalog.text AS input FROM %s%s.%s AS %s',
        v_table.schema, c_name, v_keys, v_table.name, p_column, coalesce(v_expression, p_input), v_table.only, v_table.schema, v_table.name, v_table.name);
    BEGIN
        IF v_expression IS NULL THEN
            PERFORM @extschema@.aggregator_ai_check_expression(p_input);
        END IF;
        PERFORM set_config('search_path', p_search_path, true);
        EXECUTE v_sql;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    EXCEPTION
        WHEN insufficient_privilege THEN RAISE;
        WHEN syntax_error_or_access_rule_violation OR data_exception OR feature_not_supported THEN
            RAISE EXCEPTION 'p_input is no expression over a row of table %: %', p_table, SQLERRM
                USING ERRCODE = 'PT400',
                    HINT = 'It is an SQL expression of the row''s columns, such as title || '' '' || body, or a template, such as {title} {body}.';
    END;
    v_view := format('%s.%I', v_table.schema, c_name)::regclass;
    PERFORM @extschema@.aggregator_ai_check_view(v_view, p_table, p_column);

    -- Default privileges may have given it to others.
    FOR v_grantee IN
        SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END AS role
        FROM pg_class AS c
        CROSS JOIN LATERAL aclexplode(c.relacl) AS acl
        WHERE c.oid = v_view AND acl.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON %s.%I FROM %s', v_table.schema, c_name, v_grantee.role);
    END LOOP;
    EXECUTE format('COMMENT ON VIEW %s.%I IS %L', v_table.schema, c_name, format(
        'What goes into the AI column %I of table %s, and where the answer goes. SELECT ai_column_drop(%L, %L) removes it, and DROP TABLE ... CASCADE.',
        p_column, p_table, p_table::text, p_column));

    SELECT told.* INTO v_told FROM @extschema@.aggregator_ai_view(v_view) AS told;
    EXECUTE format(
        'CREATE TRIGGER %I AFTER INSERT OR DELETE ON %s.%s FOR EACH ROW EXECUTE FUNCTION @extschema@.aggregator_ai_column_changed(%L)',
        c_name || '_row', v_table.schema, v_table.name, p_id);
    EXECUTE format(
        'CREATE TRIGGER %I AFTER UPDATE ON %s.%s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION @extschema@.aggregator_ai_column_changed(%L)',
        c_name || '_update', v_table.schema, v_table.name,
        @extschema@.aggregator_ai_change(p_table::oid, v_told.keys || v_told.inputs), p_id);
    EXECUTE format(
        'CREATE TRIGGER %I AFTER TRUNCATE ON %s.%s FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.aggregator_ai_column_changed(%L)',
        c_name || '_truncate', v_table.schema, v_table.name, p_id);

    v_estimate := v_table.reltuples;
    IF v_table.relkind = 'p' THEN
        SELECT CASE WHEN min(part.reltuples) >= 0 THEN sum(part.reltuples) END INTO v_estimate
        FROM pg_partition_tree(p_table) AS tree
        JOIN pg_class AS part ON part.oid = tree.relid
        WHERE tree.isleaf;
    END IF;
    RETURN CASE WHEN v_estimate >= 0 THEN v_estimate::bigint END;
END
$$;

-- Takes view and triggers of an AI column away, as the caller. Others' triggers that name it stay: they do nothing.
CREATE FUNCTION @extschema@.aggregator_ai_unmake(p_id uuid, p_view oid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_trigger record;
BEGIN
    FOR v_trigger IN
        SELECT t.tgname, c.oid::regclass AS name
        FROM pg_trigger AS t
        JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE t.tgfoid = '@extschema@.aggregator_ai_column_changed()'::regprocedure
          AND t.tgargs = convert_to(p_id::text, 'UTF8') || decode('00', 'hex')
          AND t.tgparentid = 0
          AND pg_has_role(c.relowner, 'USAGE')
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', v_trigger.tgname, v_trigger.name);
    END LOOP;
    IF p_view IS NOT NULL THEN
        EXECUTE format('DROP VIEW %s', p_view::regclass);
    END IF;
END
$$;

COMMENT ON FUNCTION @extschema@.aggregator_ai_column_changed() IS 'Notes that a row of a table with an AI column was inserted, changed or deleted. Everybody may have it in a trigger; PT403 in that of a table to which the column does not belong.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_base_type(oid) IS 'What a domain is made of; any other type is itself. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_is_key_type(oid) IS 'Whether values of a type can be the key of a row with an AI column. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_key(uuid, oid) IS 'The key of a relation that an AI column is about. PT403: it is another one. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_template(oid, text) IS 'The expression that a template means; NULL: it is none. PT400. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_change(oid, smallint[]) IS 'The condition under which one of these columns has changed. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_views(oid) IS 'The views of a table''s AI columns that belong to its owner. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_check_table(regclass, name, text) IS 'Raises what can be said against an AI column in this column of this table. PT400, PT403, PT404, PT409. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_check_view(oid, regclass, name) IS 'Raises what can be said against the input of an AI column. PT400. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_make(uuid, regclass, name, text, text, text) IS 'Makes view and triggers of an AI column, as the caller. Internal.';
COMMENT ON FUNCTION @extschema@.aggregator_ai_unmake(uuid, oid) IS 'Takes view and triggers of an AI column away, as the caller. Internal.';

SET LOCAL search_path = @extschema@, pg_temp;
