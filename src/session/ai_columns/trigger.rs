//! The trigger of an AI column: it notes, in the user's own transaction, which row has changed, and nothing else. Nothing
//! of the user's is run: the key is read by the output functions of PostgreSQL's own types, and its texts are written as
//! the extension's owner.
//!
//! Anybody may have it in a trigger of their own, with whatever argument. So it believes nothing: the column must be one
//! of the very table that has fired.

use crate::core::ai_column::{self, Written};
use crate::database::{failed, no_row};
use crate::error::Error;
use crate::fresh::{self, Plan};
use crate::installed::Installed;
use crate::routing::pg_uuid;
use crate::session::outbox;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use crate::sqlstate;
use pgrx::datum::DatumWithOid;
use pgrx::htup::heap_getattr_raw;
use pgrx::pg_sys::{OIDOID, TEXTARRAYOID, UUIDOID};
use pgrx::prelude::*;
use pgrx::spi::{self, OwnedPreparedStatement, Spi, SpiClient};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CStr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

const ACTION: &str = "note a row of an AI column";
/// Keys that a session keeps, of columns and tables.
const MOST_KNOWN: usize = 256;
/// For so long a session does not ask again for a worker that it could not have. The rows stay noted.
const PAUSE: Duration = Duration::from_secs(60);

const ENQUEUE: &str = "
    INSERT INTO @extschema@.aggregator_ai_queue AS q (column_id, key)
    VALUES ($1, $2)
    ON CONFLICT (column_id, key) DO UPDATE
    SET version = excluded.version, status = 'queued', epoch = NULL, attempts = 0, error = NULL,
        run_after = excluded.run_after, queued_at = excluded.queued_at
    WHERE q.version <> excluded.version OR q.status <> 'queued'";
/// By a snapshot of now: that of a transaction may be older than the column.
const EXISTS: &str = "
    SELECT c.id FROM @extschema@.aggregator_ai_columns AS c WHERE c.id = $1";
const FORGET: &str =
    "DELETE FROM @extschema@.aggregator_ai_queue AS q WHERE q.column_id = $1 AND q.key = $2";
const EMPTY: &str = "DELETE FROM @extschema@.aggregator_ai_queue AS q WHERE q.column_id = $1";
const KEY: &str = "
    SELECT key.attnum, key.base_type, key.typoutput
    FROM @extschema@.aggregator_ai_key($1, $2) AS key";

/// What a trigger has fired for.
struct Fired {
    column: Uuid,
    relation: pg_sys::Oid,
    description: pg_sys::TupleDesc,
    change: Change,
}

enum Change {
    Came(pg_sys::HeapTuple),
    Went(pg_sys::HeapTuple),
    Changed(pg_sys::HeapTuple, pg_sys::HeapTuple),
    Emptied,
}

/// A column of a key.
struct Part {
    place: NonZeroUsize,
    output: pg_sys::Oid,
    written: Written,
}

struct Plans {
    extension: pg_sys::Oid,
    enqueue: OwnedPreparedStatement,
    forget: OwnedPreparedStatement,
    empty: OwnedPreparedStatement,
    exists: Plan,
    key: Plan,
}

#[derive(Default)]
struct Known {
    generation: u64,
    /// By column and relation.
    keys: HashMap<(Uuid, u32), Rc<[Part]>>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
    static PLANS: RefCell<Option<Rc<Plans>>> = const { RefCell::new(None) };
    static QUIET_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
    static IS_WATCHING: Cell<bool> = const { Cell::new(false) };
    static WRITTEN: Cell<Option<Uuid>> = const { Cell::new(None) };
}

/// Writes values of a column: that is no change of its rows, whatever else a trigger of the user's makes of the write.
pub fn writing<T>(column: Uuid, work: impl FnOnce() -> T) -> T {
    /// Also where the work raises.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            WRITTEN.set(None);
        }
    }
    WRITTEN.set(Some(column));
    let _end = End;
    work()
}

/// Whether it is the write of a value itself that has fired, and not a statement of a trigger that this has called.
fn is_written(fired: &Fired) -> bool {
    WRITTEN.get() == Some(fired.column)
        && matches!(fired.change, Change::Changed(..))
        // SAFETY: it looks at none of the call's data.
        && unsafe { pgrx::direct_function_call::<i32>(pg_sys::pg_trigger_depth, &[]) } == Some(1)
}

/// Grows whenever anything about a table or a view changes.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Trigger function of `AFTER` triggers on users' tables.
#[pg_extern(sql = false)]
fn aggregator_ai_column_changed(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: PostgreSQL calls it, with a call's data that lives as long as the call.
    let fired = unsafe { fired(fcinfo) };
    let noted = fired.and_then(|fired| note(&fired));
    or_raise(noted);
}

/// # Safety
/// The data of a call that goes on.
unsafe fn fired(fcinfo: pg_sys::FunctionCallInfo) -> Result<Fired, Error> {
    // SAFETY: where the context is a trigger's, it is of this type; its relation is open, its tuples are there for its
    // kind of event, and its arguments are C strings.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return Err(misused());
        }
        let data = &*context.cast::<pg_sys::TriggerData>();
        let event = data.tg_event;
        let trigger = &*data.tg_trigger;
        let is_after = event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER;
        let is_of_row = event & pg_sys::TRIGGER_EVENT_ROW != 0;
        let change = match event & pg_sys::TRIGGER_EVENT_OPMASK {
            _ if !is_after || trigger.tgnargs != 1 => return Err(misused()),
            pg_sys::TRIGGER_EVENT_TRUNCATE => Change::Emptied,
            _ if !is_of_row => return Err(misused()),
            pg_sys::TRIGGER_EVENT_INSERT => Change::Came(data.tg_trigtuple),
            pg_sys::TRIGGER_EVENT_DELETE => Change::Went(data.tg_trigtuple),
            _ => Change::Changed(data.tg_trigtuple, data.tg_newtuple),
        };
        let argument = CStr::from_ptr(*trigger.tgargs).to_str().unwrap_or_default();
        Ok(Fired {
            column: Uuid::parse_str(argument).map_err(|_| misused())?,
            relation: (*data.tg_relation).rd_id,
            description: (*data.tg_relation).rd_att,
            change,
        })
    }
}

fn misused() -> Error {
    Error::bad_request_hint(
        "aggregator_ai_column_changed() is for the AFTER triggers that ai_column() makes",
        "SELECT ai_column(...) makes them.",
    )
}

fn note(fired: &Fired) -> Result<(), Error> {
    if is_written(fired) {
        return Ok(());
    }
    let installed = installed()?;
    let parts = key(&installed, fired)?;
    if parts.is_empty() {
        return Ok(());
    }
    let text = |tuple| texts(&parts, tuple, fired.description);
    let (gone, come) = match fired.change {
        Change::Came(row) => (None, Some(text(row)?)),
        Change::Went(row) => (Some(text(row)?), None),
        Change::Changed(before, after) => {
            let (before, after) = (text(before)?, text(after)?);
            ((before != after).then_some(before), Some(after))
        }
        Change::Emptied => (None, None),
    };
    let plans = plans(&installed)?;
    let column = pg_uuid(fired.column);
    let is_work = as_owner(&installed, || {
        Spi::connect_mut(|client| {
            // A user who is forgotten takes their columns along, and leaves the triggers.
            let exists = |client: &SpiClient<'_>| {
                fresh::select(client, &plans.exists, &[column.into()]).map(|rows| !rows.is_empty())
            };
            let is_work = come.is_some() && exists(client)?;
            let mut run = |plan: &OwnedPreparedStatement, arguments: &[DatumWithOid<'_>]| {
                client.update(plan, None, arguments).map(|_| ())
            };
            if matches!(fired.change, Change::Emptied) {
                run(&plans.empty, &[column.into()])?;
            }
            if let Some(key) = gone {
                run(&plans.forget, &[column.into(), key.into()])?;
            }
            if let Some(key) = come.filter(|_| is_work) {
                run(&plans.enqueue, &[column.into(), key.into()])?;
            }
            spi::Result::Ok(is_work)
        })
    })
    .map_err(failed(ACTION))?;
    if is_work {
        wake();
    }
    Ok(())
}

/// Has the worker told once the transaction is committed. A worker that cannot be had keeps nobody from writing.
fn wake() {
    if QUIET_UNTIL.get().is_some_and(|until| Instant::now() < until) {
        return;
    }
    let opened = outbox::open();
    QUIET_UNTIL.set(opened.err().map(|_| Instant::now() + PAUSE));
}

/// The key of the relation that has fired.
fn key(installed: &Installed, fired: &Fired) -> Result<Rc<[Part]>, Error> {
    watch();
    let wanted = (fired.column, u32::from(fired.relation));
    let generation = GENERATION.load(Ordering::Relaxed);
    let known = KNOWN.with_borrow_mut(|known| {
        if known.generation != generation || known.keys.len() >= MOST_KNOWN {
            known.keys.clear();
            known.generation = generation;
        }
        known.keys.get(&wanted).cloned()
    });
    if let Some(parts) = known {
        return Ok(parts);
    }
    let plans = plans(installed)?;
    let arguments = [pg_uuid(fired.column).into(), fired.relation.into()];
    let parts: Rc<[Part]> = as_owner(installed, || {
        Spi::connect(|client| {
            let rows = fresh::select(client, &plans.key, &arguments)?;
            rows.iter()
                .map(|row| {
                    let place = row.get::<i16>(1)?.and_then(|place| usize::try_from(place).ok());
                    let written =
                        row.get::<pg_sys::Oid>(2)?.map(|base| ai_column::written(base.into()));
                    let (place, written) =
                        place.and_then(NonZeroUsize::new).zip(written).ok_or(fresh::UNREADABLE)?;
                    let output = fresh::required(row, 3)?;
                    Ok(Part { place, output, written })
                })
                .collect::<spi::Result<Vec<_>>>()
        })
    })
    .map_err(failed(ACTION))?
    .into();
    // What was changed meanwhile is looked up anew.
    KNOWN.with_borrow_mut(|known| {
        if known.generation == generation && !parts.is_empty() {
            known.keys.insert(wanted, parts.clone());
        }
    });
    Ok(parts)
}

/// Begins to watch what places are made of.
fn watch() {
    if !IS_WATCHING.replace(true) {
        // SAFETY: once per process; the function lives as long as the library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), 0.into()) };
    }
}

/// PostgreSQL says that something about a relation has changed. Called wherever it looks after its caches, also in the
/// middle of an abort: nothing here may fail.
unsafe extern "C-unwind" fn invalidated(_: pg_sys::Datum, _: pg_sys::Oid) {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// The texts of a row's key.
fn texts(
    parts: &[Part],
    row: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
) -> Result<Vec<String>, Error> {
    let read = || parts.iter().map(|part| part_text(part, row, description)).collect();
    let texts: Option<Vec<String>> =
        match parts.iter().any(|part| part.written == Written::BySettings) {
            true => in_standard_form(read),
            false => read(),
        };
    let texts = texts.ok_or_else(|| no_row(ACTION))?;
    ai_column::check_key(&texts)?;
    Ok(texts)
}

fn part_text(
    part: &Part,
    row: pg_sys::HeapTuple,
    description: pg_sys::TupleDesc,
) -> Option<String> {
    // SAFETY: the row is one of the relation that this describes, and the place that of a column of it, of a type
    // with this output function; that gives a palloc'd C string.
    unsafe {
        let value = heap_getattr_raw(row, part.place, description)?;
        let text = pg_sys::OidOutputFunctionCall(part.output, value);
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        pg_sys::pfree(text.cast());
        Some(part.written.as_cast(copy))
    }
}

/// Runs `work` under settings by which a date, a time or bytes have one text, whatever those of the session are.
fn in_standard_form<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: as in `as_owner`: put back below, or by the abort of the (sub)transaction.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        for (name, value) in
            [(c"DateStyle", c"ISO"), (c"TimeZone", c"UTC"), (c"bytea_output", c"hex")]
        {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
        let result = sqlstate::keeping(work);
        pg_sys::AtEOXact_GUC(false, level);
        result
    }
}

/// The statements, prepared for this installation.
fn plans(installed: &Installed) -> Result<Rc<Plans>, Error> {
    let known = PLANS.with_borrow(Clone::clone);
    if let Some(plans) = known.filter(|plans| plans.extension == installed.oid) {
        return Ok(plans);
    }
    let plans = as_owner(installed, || Spi::connect(|client| prepare(client, installed)));
    let plans = Rc::new(plans.map_err(failed(ACTION))?);
    PLANS.set(Some(plans.clone()));
    Ok(plans)
}

fn prepare(client: &SpiClient<'_>, installed: &Installed) -> spi::Result<Plans> {
    let prepare = |sql: &str, types: &[pg_sys::Oid]| {
        let types: Vec<PgOid> = types.iter().map(|oid| PgOid::from(*oid)).collect();
        client.prepare_mut(installed.sql(sql).as_str(), &types).map(|plan| plan.keep())
    };
    Ok(Plans {
        extension: installed.oid,
        enqueue: prepare(ENQUEUE, &[UUIDOID, TEXTARRAYOID])?,
        forget: prepare(FORGET, &[UUIDOID, TEXTARRAYOID])?,
        empty: prepare(EMPTY, &[UUIDOID])?,
        exists: Plan::prepare(client, &installed.sql(EXISTS), &[UUIDOID])?,
        key: Plan::prepare(client, &installed.sql(KEY), &[UUIDOID, OIDOID])?,
    })
}
