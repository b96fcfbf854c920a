//! AI columns from SQL: what makes them, and what is done about one that is there. View and triggers are made and
//! dropped as the caller, whose they are; what the extension keeps of them is written as its owner.

mod expression;
mod trigger;

pub use trigger::writing;

use crate::core::options::Prepared;
use crate::core::schema::Schema;
use crate::database::{failed, no_row};
use crate::error::Error;
use crate::fresh;
use crate::installed::Installed;
use crate::routing::pg_uuid;
use crate::session::chat::text;
use crate::session::json::JsonText;
use crate::session::locks::as_owner_in_time;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use crate::session::request::Resolved;
use crate::session::{identity, outbox, writable};
use crate::sqlstate;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{self, Spi, SpiHeapTupleData};
use std::ffi::CStr;
use uuid::Uuid;

/// Of an expression or a template, in bytes.
const LONGEST_INPUT: usize = 64 * 1024;

const MAKE: &str = "SELECT @extschema@.aggregator_ai_make(
        $1::pg_catalog.uuid, $2::pg_catalog.regclass, $3::pg_catalog.name, $4::pg_catalog.text,
        $5::pg_catalog.text, $6::pg_catalog.text)";
const STORE: &str = "
    INSERT INTO @extschema@.aggregator_ai_columns
        (id, user_id, definer, kind, model, provider, request, concurrency, batch_size, backfill, backfill_status, backfill_total)
    VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8, $9, $10, CASE $10 WHEN 'none' THEN 'none' ELSE 'running' END, $11)";
const FIND: &str = "
    SELECT found.id, found.user_id, found.definer, found.table_owner, found.owner_name, found.view_oid, found.view_owner
    FROM @extschema@.aggregator_ai_find($1::pg_catalog.regclass, $2::pg_catalog.name) AS found";
const FIND_BY_ID: &str = "
    SELECT c.id, c.user_id, c.definer, t.relowner, place.owner::text, place.view_oid, pg_get_userbyid(v.relowner)::text
    FROM @extschema@.aggregator_ai_columns AS c
    LEFT JOIN LATERAL @extschema@.aggregator_ai_place(c.id) AS place ON true
    LEFT JOIN pg_class AS t ON t.oid = place.table_oid
    LEFT JOIN pg_class AS v ON v.oid = place.view_oid
    WHERE c.id = $1";
const PAUSE: &str = "
    UPDATE @extschema@.aggregator_ai_columns AS c
    SET status = 'paused', paused_for = NULL, updated_at = now()
    WHERE c.id = $1";
const RESUME: &str = "
    UPDATE @extschema@.aggregator_ai_columns AS c
    SET status = 'active', paused_for = NULL, wait_until = NULL, definer = $2, updated_at = now()
    WHERE c.id = $1";
const INHERIT: &str = "SELECT NULL::bigint FROM @extschema@.aggregator_ai_inherit($1::pg_catalog.oid, $2::pg_catalog.regclass)";
const PROBLEM: &str = "SELECT place.problem FROM @extschema@.aggregator_ai_place($1) AS place";
const RETRY: &str = "
    UPDATE @extschema@.aggregator_ai_queue AS q
    SET status = 'queued', attempts = 0, error = NULL, run_after = now()
    WHERE q.column_id = $1 AND q.status = 'failed'
    RETURNING q.column_id";
const UNMAKE: &str = "SELECT NULL::bigint FROM @extschema@.aggregator_ai_unmake($1::pg_catalog.uuid, $2::pg_catalog.oid)";
const FORGET: [&str; 2] = [
    "DELETE FROM @extschema@.aggregator_ai_columns AS c WHERE c.id = $1",
    "DELETE FROM @extschema@.aggregator_ai_queue AS q WHERE q.column_id = $1",
];

/// Makes a column one that a model fills and keeps up to date.
#[pg_extern(sql = "
CREATE FUNCTION ai_column(
    p_table regclass,
    p_column name,
    p_kind text,
    p_input text,
    p_model text,
    p_options jsonb DEFAULT '{}',
    p_provider text DEFAULT NULL,
    p_user_id text DEFAULT NULL
) RETURNS uuid
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
#[expect(clippy::too_many_arguments, reason = "those of the SQL function")]
fn ai_column(
    p_table: Option<pg_sys::Oid>,
    p_column: Option<&CStr>,
    p_kind: Option<&str>,
    p_input: Option<&str>,
    p_model: Option<&str>,
    p_options: Option<JsonText>,
    p_provider: Option<&str>,
    p_user_id: Option<&str>,
) -> pgrx::Uuid {
    let prepared = Prepared::of_column(p_kind, p_model, text(&p_options));
    drop(p_options);
    let made = prepared.and_then(|(prepared, column)| {
        let place = Place::of(p_table, p_column)?;
        let input = p_input.ok_or_else(|| Error::bad_request("p_input must not be NULL"))?;
        if input.len() > LONGEST_INPUT {
            let what = format!("p_input must not be longer than {LONGEST_INPUT} bytes");
            return Err(Error::bad_request(what));
        }
        if let Some(check) = &prepared.check {
            Schema::read(check.schema.get())?;
        }
        // What nobody can serve is better refused now than later.
        let resolved = Resolved::find(&prepared, p_provider, p_user_id)?;
        resolved.may_wait()?;
        let kind = p_kind.unwrap_or_default();
        let user = &resolved.whose.user;
        let id = Uuid::new_v4();
        let rows = make(id, &place, kind, input)?;
        let arguments: [DatumWithOid<'_>; 11] = [
            pg_uuid(id).into(),
            user.as_str().into(),
            identity::effective_role().into(),
            kind.into(),
            prepared.model.as_str().into(),
            p_provider.into(),
            column.request.into(),
            i32::try_from(column.concurrency).map_err(Error::internal)?.into(),
            i32::try_from(column.batch_size).map_err(Error::internal)?.into(),
            column.backfill.name().into(),
            rows.into(),
        ];
        let installed = installed()?;
        write(&installed, MAKING, STORE, &arguments)?;
        usable(&installed, id)?;
        outbox::open()?;
        Ok(id)
    });
    pg_uuid(or_raise(made))
}

/// Has an AI column wait.
#[pg_extern(sql = "
CREATE FUNCTION ai_column_pause(p_table regclass, p_column name) RETURNS void
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn ai_column_pause(p_table: Option<pg_sys::Oid>, p_column: Option<&CStr>) {
    const ACTION: &str = "pause an AI column";
    let paused = managed(p_table, p_column, ACTION).and_then(|(installed, found)| {
        write(&installed, ACTION, PAUSE, &[pg_uuid(found.id).into()]).map(|_| ())
    });
    or_raise(paused);
}

/// Has an AI column go on; one whose table has another owner now, as that one.
#[pg_extern(sql = "
CREATE FUNCTION ai_column_resume(p_table regclass, p_column name) RETURNS void
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn ai_column_resume(p_table: Option<pg_sys::Oid>, p_column: Option<&CStr>) {
    const ACTION: &str = "resume an AI column";
    let resumed = managed(p_table, p_column, ACTION).and_then(|(installed, found)| {
        if found.definer != found.owner_name {
            // Their money is spent under another role than before.
            identity::acting_user(Some(&found.user), ACTION)?;
            let arguments = [found.view.into(), p_table.into()];
            as_caller(&installed, ACTION, INHERIT, &arguments)?;
        }
        let arguments = [pg_uuid(found.id).into(), found.owner_name.into()];
        write(&installed, ACTION, RESUME, &arguments)?;
        usable(&installed, found.id)?;
        outbox::open()
    });
    or_raise(resumed);
}

/// Queues the rows of an AI column again that have failed.
#[pg_extern(sql = "
CREATE FUNCTION ai_column_retry(p_table regclass, p_column name) RETURNS bigint
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn ai_column_retry(p_table: Option<pg_sys::Oid>, p_column: Option<&CStr>) -> i64 {
    const ACTION: &str = "retry an AI column";
    let retried = managed(p_table, p_column, ACTION).and_then(|(installed, found)| {
        let count = write(&installed, ACTION, RETRY, &[pg_uuid(found.id).into()])?;
        if count > 0 {
            outbox::open()?;
        }
        i64::try_from(count).map_err(Error::internal)
    });
    or_raise(retried)
}

/// Makes an AI column an ordinary one again.
#[pg_extern(
    name = "ai_column_drop",
    sql = "
CREATE FUNCTION ai_column_drop(p_table regclass, p_column name) RETURNS void
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"
)]
fn ai_column_drop(p_table: Option<pg_sys::Oid>, p_column: Option<&CStr>) {
    let dropped = Place::of(p_table, p_column).and_then(|place| drop_at(&place));
    or_raise(dropped);
}

/// Likewise by its id. False: there is none.
#[pg_extern(
    name = "ai_column_drop",
    sql = "
CREATE FUNCTION ai_column_drop(p_column_id uuid) RETURNS boolean
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
"
)]
fn ai_column_drop_by_id(p_column_id: Option<pgrx::Uuid>) -> bool {
    let dropped = match p_column_id {
        Some(id) => drop_by_id(crate::routing::uuid(Some(id))),
        None => Err(Error::bad_request("p_column_id must not be NULL")),
    };
    or_raise(dropped)
}

/// A column of a table.
struct Place {
    table: pg_sys::Oid,
    column: String,
}

impl Place {
    fn of(table: Option<pg_sys::Oid>, column: Option<&CStr>) -> Result<Self, Error> {
        let table = table.ok_or_else(|| Error::bad_request("p_table must not be NULL"))?;
        let column = column.ok_or_else(|| Error::bad_request("p_column must not be NULL"))?;
        Ok(Self { table, column: column.to_string_lossy().into_owned() })
    }
}

/// An AI column that is there.
struct Found {
    id: Uuid,
    /// Empty: what the extension kept of it is gone.
    user: String,
    definer: String,
    table_owner: pg_sys::Oid,
    owner_name: String,
    view: pg_sys::Oid,
    view_owner: String,
}

const MAKING: &str = "make an AI column";
const DROPPING: &str = "drop an AI column";

/// Makes view and triggers as the caller. About how many rows the table has.
fn make(id: Uuid, place: &Place, kind: &str, input: &str) -> Result<Option<i64>, Error> {
    writable::require(MAKING)?;
    let installed = installed()?;
    let arguments: [DatumWithOid<'_>; 6] = [
        pg_uuid(id).into(),
        place.table.into(),
        place.column.as_str().into(),
        kind.into(),
        input.into(),
        search_path().into(),
    ];
    as_caller(&installed, MAKING, MAKE, &arguments)
}

/// The caller's own, under which the names in an expression are understood.
fn search_path() -> String {
    // SAFETY: a setting that is always there, copied before anything can change it.
    unsafe {
        let path = pg_sys::GetConfigOption(c"search_path".as_ptr(), true, false);
        match path.is_null() {
            true => String::new(),
            false => CStr::from_ptr(path).to_string_lossy().into_owned(),
        }
    }
}

/// Runs a function of SQL with the caller's rights, and gives the number that it returns, if that is one.
fn as_caller(
    installed: &Installed,
    action: &str,
    sql: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<Option<i64>, Error> {
    let sql = installed.sql(sql);
    let run = || {
        Spi::connect_mut(|client| {
            client.update(sql.as_str(), None, arguments)?.first().get::<i64>(1)
        })
    };
    sqlstate::keeping(run).map_err(failed(action))
}

/// Writes what the extension keeps, and says how many rows were given back.
fn write(
    installed: &Installed,
    action: &str,
    sql: &str,
    arguments: &[DatumWithOid<'_>],
) -> Result<usize, Error> {
    let sql = installed.sql(sql);
    as_owner_in_time(installed, action, || {
        Spi::connect_mut(|client| {
            client.update(sql.as_str(), None, arguments).map(|rows| rows.len())
        })
    })
}

/// The first row that a statement gives to the extension's owner.
fn first<T>(
    installed: &Installed,
    action: &str,
    sql: &str,
    arguments: &[DatumWithOid<'_>],
    read: impl Fn(&SpiHeapTupleData<'_>) -> spi::Result<T>,
) -> Result<Option<T>, Error> {
    let sql = installed.sql(sql);
    // Not read-only, so that it sees what this very function has done.
    as_owner(installed, || {
        Spi::connect_mut(|client| {
            let rows = client.update(sql.as_str(), Some(1), arguments)?;
            rows.map(|row| read(&row)).next().transpose()
        })
    })
    .map_err(failed(action))
}

/// Refuses where nothing can be done as the owner of the table, who is the caller.
fn usable(installed: &Installed, id: Uuid) -> Result<(), Error> {
    let arguments = [pg_uuid(id).into()];
    let problem = first(installed, MAKING, PROBLEM, &arguments, |row| row.get::<String>(1))?;
    match problem.flatten() {
        Some(_) => Err(Error::Forbidden {
            role: identity::effective_role(),
            action: "chat, as the owner of a table with an AI column has to".to_owned(),
        }),
        None => Ok(()),
    }
}

fn find(installed: &Installed, place: &Place, action: &str) -> Result<Found, Error> {
    let arguments = [place.table.into(), place.column.as_str().into()];
    let found = first(installed, action, FIND, &arguments, Found::read);
    found?.ok_or_else(|| no_row(action))
}

/// An AI column about which the caller may do something: as who owns the table, or who may act for the user who pays.
fn managed(
    table: Option<pg_sys::Oid>,
    column: Option<&CStr>,
    action: &str,
) -> Result<(Installed, Found), Error> {
    writable::require(action)?;
    let installed = installed()?;
    let found = find(&installed, &Place::of(table, column)?, action)?;
    found.may_be_managed(action)?;
    Ok((installed, found))
}

impl Found {
    fn read(row: &SpiHeapTupleData<'_>) -> spi::Result<Self> {
        Ok(Self {
            id: fresh::uuid(row, 1)?,
            user: row.get::<String>(2)?.unwrap_or_default(),
            definer: row.get::<String>(3)?.unwrap_or_default(),
            table_owner: fresh::required(row, 4)?,
            owner_name: fresh::required(row, 5)?,
            view: fresh::required(row, 6)?,
            view_owner: fresh::required(row, 7)?,
        })
    }

    fn may_be_managed(&self, action: &str) -> Result<(), Error> {
        // A view that somebody else has made, under such a name, for a table of theirs, is none of this column's.
        let is_its_view = self.user.is_empty()
            || self.view_owner == self.definer
            || self.owner_name == self.definer;
        // SAFETY: a look-up in the catalog inside a transaction.
        let owns_table =
            unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), self.table_owner) };
        match (owns_table && is_its_view, self.user.as_str()) {
            (true, _) => Ok(()),
            (false, "") => Err(Error::Forbidden {
                role: identity::effective_role(),
                action: action.to_owned(),
            }),
            (false, user) => identity::acting_user(Some(user), action).map(drop),
        }
    }
}

fn drop_at(place: &Place) -> Result<(), Error> {
    writable::require(DROPPING)?;
    let installed = installed()?;
    let found = find(&installed, place, DROPPING)?;
    found.may_be_managed(DROPPING)?;
    unmake(&installed, found.id, Some(found.view))
}

fn drop_by_id(id: Uuid) -> Result<bool, Error> {
    writable::require(DROPPING)?;
    let installed = installed()?;
    let known = first(&installed, DROPPING, FIND_BY_ID, &[pg_uuid(id).into()], |row| {
        let is_detached = row.get::<pg_sys::Oid>(6)?.is_none();
        let found = if is_detached { None } else { Some(Found::read(row)?) };
        Ok((fresh::required::<String>(row, 2)?, fresh::required::<String>(row, 3)?, found))
    })?;
    match known {
        None => return Ok(false),
        // Of this very column, whatever else is made for the same place.
        Some((_, _, Some(found))) => {
            found.may_be_managed(DROPPING)?;
            unmake(&installed, id, Some(found.view))?;
        }
        Some((user, definer, None)) => {
            if definer != identity::effective_role() {
                identity::acting_user(Some(&user), DROPPING)?;
            }
            unmake(&installed, id, None)?;
        }
    }
    Ok(true)
}

/// Drops view and triggers as the caller, and then what the extension keeps: whoever writes into the table has ended.
fn unmake(installed: &Installed, id: Uuid, view: Option<pg_sys::Oid>) -> Result<(), Error> {
    as_caller(installed, DROPPING, UNMAKE, &[pg_uuid(id).into(), view.into()])?;
    for sql in FORGET {
        write(installed, DROPPING, sql, &[pg_uuid(id).into()])?;
    }
    Ok(())
}
