//! The pages of docs/reference that the catalogue tells: functions, tables, views and settings. `make reference`
//! writes them; a page that says anything else than the catalogue fails.

use crate::bed::{self, Cluster, json, tree};
use serde::Deserialize;

fn compare(name: &str, page: &str) {
    let path = tree("docs/reference").join(name);
    if std::env::var_os("AGGREGATOR_WRITE_GOLDENS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/reference/{name} is not up to date: make reference");
}

/// A text as a cell of a table holds it.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// For whom something is, by what `aggregator_privileges` grants.
fn people(kinds: &[String]) -> &'static str {
    if kinds.is_empty() {
        return "superusers and the owner";
    }
    let has = |kind: &str| kinds.iter().any(|granted| granted == kind);
    match (has("public"), has("user"), has("reader"), has("admin")) {
        (true, ..) => "everybody",
        (_, true, true, true) => "users, readers and administrators",
        (_, true, false, true) => "users and administrators",
        (_, false, true, true) => "readers and administrators",
        (_, false, false, true) => "administrators",
        other => panic!("nobody thought of {other:?}"),
    }
}

#[derive(Deserialize)]
struct Function {
    name: String,
    arguments: String,
    result: String,
    comment: String,
    kinds: Vec<String>,
}

const FUNCTIONS: &str = "
    SELECT jsonb_agg(jsonb_build_object('name', name, 'arguments', arguments, 'result', result, 'comment', comment, 'kinds', kinds)
        ORDER BY name COLLATE \"C\", identity COLLATE \"C\")
    FROM (
        SELECT p.proname::text AS name, p.oid::regprocedure::text AS identity,
            pg_get_function_result(p.oid) AS result, obj_description(p.oid, 'pg_proc') AS comment,
            pg_get_function_arguments(p.oid) AS arguments,
            ARRAY(
                SELECT kind
                FROM unnest('{public,user,reader,admin}'::text[]) AS kind
                WHERE EXISTS (
                    SELECT FROM aggregator_privileges(kind) AS granted
                    WHERE granted.class = 'pg_proc'::regclass AND granted.object = p.oid
                )
            ) AS kinds
        FROM pg_proc AS p
        JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
        JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
        WHERE e.extname = 'aggregator' AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
    ) AS functions
    WHERE comment !~ '\\mInternal\\.'";

/// The signature in one line, or with a line for each argument and column.
fn signature(function: &Function) -> String {
    let Function { name, arguments, result, .. } = function;
    let line = format!("{name}({arguments}) → {result}");
    if line.chars().count() <= 100 {
        return line;
    }
    let lines = |list: &str| format!("\n    {}\n", list.replace(", ", ",\n    "));
    let arguments = if arguments.is_empty() { String::new() } else { lines(arguments) };
    match result.strip_prefix("TABLE(").and_then(|columns| columns.strip_suffix(')')) {
        Some(columns) => format!("{name}({arguments}) → TABLE({})", lines(columns)),
        None => format!("{name}({arguments}) → {result}"),
    }
}

#[tokio::test]
async fn the_page_of_functions_is_what_the_catalogue_says() {
    let database = bed::database().await;
    let root = database.root().await;
    let functions: Vec<Function> = serde_json::from_value(json(&root, FUNCTIONS).await).unwrap();
    assert!(functions.len() > 100, "{}", functions.len());
    let mut page = String::from(
        "# Functions\n\n\
         <!-- Written by `make reference`. -->\n\n\
         Who may call a function is what [roles](../guides/roles.md) are granted; row-level security narrows what it \
         sees and does. PT codes are in [Errors](errors.md). Functions that the extension alone calls are left out.\n",
    );
    for is_prefixed in [false, true] {
        page += if is_prefixed {
            "\n## Running it, and parts\n\nThe names of these begin with `aggregator_`.\n"
        } else {
            "\n## For applications and administrators\n"
        };
        let mut last = "";
        for function in
            functions.iter().filter(|f| f.name.starts_with("aggregator_") == is_prefixed)
        {
            if function.name != last {
                page += &format!("\n### {}\n", function.name);
            }
            last = &function.name;
            page += &format!(
                "\n```text\n{}\n```\n\n{}\n*For {}.*\n",
                signature(function),
                function.comment,
                people(&function.kinds)
            );
        }
    }
    compare("functions.md", &page);
}

#[derive(Deserialize)]
struct Relation {
    name: String,
    is_view: bool,
    comment: String,
    granted: Vec<String>,
    columns: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    name: String,
    takes: String,
    comment: String,
}

const RELATIONS: &str = "
    SELECT jsonb_agg(jsonb_build_object('name', c.relname, 'is_view', c.relkind = 'v', 'comment', obj_description(c.oid, 'pg_class'),
        'granted', ARRAY(
            SELECT CASE kind WHEN 'anon' THEN 'anonymous callers' WHEN 'user' THEN 'users' WHEN 'reader' THEN 'readers' ELSE 'administrators' END
                || ': ' || string_agg(granted.privileges, ', ' ORDER BY granted.privileges)
            FROM unnest('{anon,user,reader,admin}'::text[]) WITH ORDINALITY AS kinds(kind, n), aggregator_privileges(kind) AS granted
            WHERE granted.class = 'pg_class'::regclass AND granted.object = c.oid
            GROUP BY n, kind
            ORDER BY n
        ),
        'columns', (
            SELECT jsonb_agg(jsonb_build_object('name', a.attname,
                'takes', format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ', not null' ELSE '' END,
                'comment', coalesce(col_description(c.oid, a.attnum), '')) ORDER BY a.attnum)
            FROM pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        )) ORDER BY c.relname COLLATE \"C\")
    FROM pg_class AS c
    JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
    WHERE e.extname = 'aggregator' AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition";

#[tokio::test]
async fn the_page_of_tables_is_what_the_catalogue_says() {
    let database = bed::database().await;
    let root = database.root().await;
    let relations: Vec<Relation> = serde_json::from_value(json(&root, RELATIONS).await).unwrap();
    assert!(relations.len() > 20, "{}", relations.len());
    let mut page = String::from(
        "# Tables and views\n\n\
         <!-- Written by `make reference`. -->\n\n\
         Row-level security shows users their own rows, and readers and administrators all of them. What nobody is \
         granted is the extension's own.\n",
    );
    for is_view in [false, true] {
        page += if is_view { "\n## Views\n" } else { "\n## Tables\n" };
        for relation in relations.iter().filter(|relation| relation.is_view == is_view) {
            let granted = match relation.granted.as_slice() {
                [] => "nobody".to_owned(),
                granted => granted.join("; "),
            };
            page += &format!(
                "\n### {}\n\n{}\n*Granted to {granted}.*\n\n| Column | Type | |\n| --- | --- | --- |\n",
                relation.name, relation.comment
            );
            for column in &relation.columns {
                page += &format!(
                    "| `{}` | {} | {} |\n",
                    column.name,
                    cell(&column.takes),
                    cell(&column.comment)
                );
            }
        }
    }
    compare("tables.md", &page);
}

#[derive(Deserialize)]
struct Setting {
    name: String,
    boot_val: Option<String>,
    unit: Option<String>,
    vartype: String,
    context: String,
    enumvals: Option<Vec<String>>,
    min_val: Option<String>,
    max_val: Option<String>,
    short_desc: String,
    extra_desc: Option<String>,
}

const SETTINGS: &str = "
    SELECT jsonb_agg(to_jsonb(s) ORDER BY name COLLATE \"C\") FROM pg_settings AS s WHERE name LIKE 'aggregator.%'";

/// A number of a unit in the largest unit in which it is a whole one.
fn with_unit(number: &str, unit: &str) -> String {
    let scale: &[(u64, &str)] = match unit {
        "kB" => &[(1024 * 1024, "GB"), (1024, "MB"), (1, "kB")],
        "ms" => &[(60_000, "min"), (1000, "s"), (1, "ms")],
        "s" => &[(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")],
        "" => return number.to_owned(),
        other => panic!("what is {other}?"),
    };
    match number.parse::<u64>() {
        Ok(0) | Err(_) => number.to_owned(),
        Ok(number) => {
            let (each, name) = scale.iter().find(|(each, _)| number % each == 0).unwrap();
            format!("{}{name}", number / each)
        }
    }
}

#[tokio::test]
async fn the_page_of_settings_is_what_the_server_says() {
    // Without preloading, what takes effect when the server starts is not told from what does on reload.
    let cluster = Cluster::start("documented", "shared_preload_libraries = 'aggregator'");
    let root = cluster.connect("postgres", "postgres").await;
    let settings: Vec<Setting> = serde_json::from_value(json(&root, SETTINGS).await).unwrap();
    assert!(settings.len() > 30, "{}", settings.len());
    let mut page = String::from(
        "# Settings\n\n\
         <!-- Written by `make reference`. -->\n\n\
         Set them in `postgresql.conf` or with `ALTER SYSTEM`, and reload or restart. The worker obeys those of the server: a \
         session's `SET` does not reach it.\n\n\
         | Setting | Type | Default | Takes effect | |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for setting in &settings {
        let unit = setting.unit.as_deref().unwrap_or("");
        let takes = match (setting.vartype.as_str(), &setting.enumvals) {
            ("bool", _) => "on or off".to_owned(),
            ("enum", Some(values)) => values.join(", "),
            ("integer", _) => {
                let bound = |value: &Option<String>| with_unit(value.as_deref().unwrap(), unit);
                match setting.max_val.as_deref() {
                    Some("2147483647") => format!("from {}", bound(&setting.min_val)),
                    _ => format!("{} to {}", bound(&setting.min_val), bound(&setting.max_val)),
                }
            }
            ("string", _) => "text".to_owned(),
            other => panic!("what is {other:?}?"),
        };
        let default = match setting.boot_val.as_deref() {
            None | Some("") => String::new(),
            Some(value) => format!("`{}`", with_unit(value, unit)),
        };
        let when = match setting.context.as_str() {
            "sighup" => "on reload",
            "postmaster" => "on restart",
            "superuser" => "at once, by a superuser",
            other => panic!("what is {other}?"),
        };
        let words = match setting.extra_desc.as_deref() {
            None | Some("") => setting.short_desc.clone(),
            Some(more) => format!("{} {more}", setting.short_desc),
        };
        page +=
            &format!("| `{}` | {takes} | {default} | {when} | {} |\n", setting.name, cell(&words));
    }
    compare("settings.md", &page);
}
