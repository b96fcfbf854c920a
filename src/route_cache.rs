//! Who may serve a call, and the rules that it has to keep, kept in each process between calls: of each
//! user, of the models and the provider that they ask for.
//!
//! It is emptied the way in which PostgreSQL empties its own caches. Whoever changes what a route is made of
//! (providers, keys, models, budgets, rate limits) registers an invalidation of a table that stands for all of
//! them (`aggregator_routes_changed()`, called by triggers). That is transactional: the changing transaction
//! sees its own change at once, one that is rolled back leaves nothing, and everybody else is told before the
//! commit returns, and looks before each call. What a transaction saw when it began does not matter, also in
//! REPEATABLE READ: rules are those of now.

use crate::core::budget::Rules;
use crate::error::Error;
use crate::installed::Installed;
use crate::protocol::{Candidate, Whose};
use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What is kept at the most, in entries and in bytes.
const MOST_ENTRIES: usize = 256;
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// The tables that a route is made of, and first the one that stands for them: nothing plans a statement
/// that is in a hurry over it.
const WATCHED: usize = 8;
const TABLES: [&CStr; WATCHED] = [
    c"aggregator_worker_epochs",
    c"api_providers",
    c"user_api_providers",
    c"aggregator_models",
    c"aggregator_user_models",
    c"aggregator_budgets",
    c"aggregator_rate_limits",
    c"aggregator_gateway_keys",
];

static TABLES_WATCHED: [AtomicU32; WATCHED] = [const { AtomicU32::new(0) }; WATCHED];
/// Grows with each invalidation.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The ledger, which is invalidated when a partition comes, goes or is detached.
const LEDGER: &CStr = c"aggregator_usage_logs";
static LEDGER_WATCHED: AtomicU32 = AtomicU32::new(0);
static LEDGER_GENERATION: AtomicU64 = AtomicU64::new(0);

/// What a call asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    extension: u32,
    whose: Whose,
    models: Vec<String>,
    provider: Option<String>,
}

impl Key {
    /// About how many bytes it takes; it is kept twice.
    fn size(&self) -> usize {
        let texts = self.models.iter().chain([&self.whose.user]).chain(&self.provider);
        texts.map(|text| size_of::<String>() + text.len()).sum()
    }
}

/// Candidates, best first, and rules.
pub type Route = (Arc<[Candidate]>, Arc<Rules>);

#[derive(Default)]
struct Cache {
    generation: u64,
    entries: HashMap<Key, (Route, usize)>,
    order: VecDeque<Key>,
    bytes: usize,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
    /// The extension whose tables are watched.
    static WATCHING: Cell<u32> = const { Cell::new(0) };
}

/// The route for a call, kept or found by `find`, which reads what is committed now.
pub fn get(
    installed: &Installed,
    whose: &Whose,
    models: impl Iterator<Item = impl Into<String>>,
    provider: Option<&str>,
    find: impl FnOnce() -> Result<Route, Error>,
) -> Result<Route, Error> {
    let extension = u32::from(installed.oid);
    let models = models.map(Into::into).collect();
    let provider = provider.map(str::to_owned);
    let key = Key { extension, whose: whose.clone(), models, provider };
    if !watch(installed) {
        return find();
    }
    let generation = generation();
    if let Some(route) = CACHE.with_borrow_mut(|cache| cache.find(generation, &key)) {
        return Ok(route);
    }
    let route = find()?;
    // What has changed while it was read is read again by the next call. What changes after this is told
    // before the next call looks.
    if GENERATION.load(Ordering::Relaxed) == generation {
        CACHE.with_borrow_mut(|cache| cache.keep(key, route.clone()));
    }
    Ok(route)
}

impl Cache {
    fn find(&mut self, generation: u64, key: &Key) -> Option<Route> {
        if self.generation != generation {
            *self = Self { generation, ..Self::default() };
        }
        self.entries.get(key).map(|(route, _)| route.clone())
    }

    /// Keeps a route, in the place of those that have been there longest.
    fn keep(&mut self, key: Key, route: Route) {
        // A request names what it falls back on: the key has no size of its own.
        let bytes = size(&route) + 2 * key.size();
        if bytes > MOST_BYTES / 4 {
            return;
        }
        while self.entries.len() >= MOST_ENTRIES || self.bytes + bytes > MOST_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            if let Some((_, bytes)) = self.entries.remove(&oldest) {
                self.bytes -= bytes;
            }
        }
        self.bytes += bytes;
        self.order.push_back(key.clone());
        if let Some((_, bytes)) = self.entries.insert(key, (route, bytes)) {
            self.bytes -= bytes;
        }
    }
}

/// Grows whenever something that a route is made of has changed, as far as it is known in this transaction:
/// whoever has committed a change has said so by now.
pub fn generation() -> u64 {
    // SAFETY: inside a transaction, where PostgreSQL does the same at each lock that it takes.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    GENERATION.load(Ordering::Relaxed)
}

/// The generation as far as this process knows, for a thread of it that asks nothing of PostgreSQL.
pub fn shared() -> &'static AtomicU64 {
    &GENERATION
}

/// Forgets what is kept: a setting has changed that it depends on.
pub fn forget() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
}

/// What a claimed role may do depends on these as well, in the worker: roles and their members, the rights to a
/// function and the marks of authenticators and of administrators.
static RIGHTS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

/// Begins to watch what the rights of callers depend on. Once per worker, in a transaction.
pub fn watch_rights(function: pg_sys::Oid, authenticator: pg_sys::Oid, admin: pg_sys::Oid) {
    use pg_sys::SysCacheIdentifier::{AUTHMEMROLEMEM, AUTHOID, NAMESPACEOID, PROCOID, TYPEOID};
    let watched = [(PROCOID, function), (TYPEOID, authenticator), (TYPEOID, admin)];
    for (place, (cache, oid)) in RIGHTS.iter().zip(watched) {
        let key = oid.into();
        let none = 0.into();
        // SAFETY: a hash of keys of the types that this cache has: one oid, and what is not looked at.
        let hash = unsafe { pg_sys::GetSysCacheHashValue(cache as i32, key, none, none, none) };
        place.store(hash, Ordering::Relaxed);
    }
    for cache in [AUTHMEMROLEMEM, AUTHOID, NAMESPACEOID, PROCOID, TYPEOID] {
        // SAFETY: five of the 64 that a process may have; the function lives as long as the library.
        unsafe {
            pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(rights_changed), 0.into())
        };
    }
}

/// As [`invalidated`], for rows of the catalog; 0: any of them.
unsafe extern "C-unwind" fn rights_changed(_: pg_sys::Datum, cache: i32, hash: u32) {
    use pg_sys::SysCacheIdentifier::{PROCOID, TYPEOID};
    let watched = match cache {
        cache if cache == PROCOID as i32 => &RIGHTS[..1],
        cache if cache == TYPEOID as i32 => &RIGHTS[1..],
        _ => return forget(),
    };
    if hash == 0 || watched.iter().any(|watched| watched.load(Ordering::Relaxed) == hash) {
        forget();
    }
}

/// Likewise, whenever the ledger may have other partitions than before.
pub fn ledger_generation() -> u64 {
    // SAFETY: as above.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    LEDGER_GENERATION.load(Ordering::Relaxed)
}

/// About how many bytes a route takes.
fn size((candidates, rules): &Route) -> usize {
    let of_candidate = |candidate: &Candidate| {
        let headers = &candidate.provider.headers;
        size_of::<Candidate>()
            + candidate.provider.name.len()
            + candidate.provider.base_url.len()
            + headers.iter().map(|(name, value)| name.len() + value.len() + 64).sum::<usize>()
            + candidate.model_id.len()
            + candidate.key.envelope.len()
            + candidate.pricing.as_ref().map_or(0, String::len)
    };
    candidates.iter().map(of_candidate).sum::<usize>()
        + (rules.budgets.len() + rules.rate_limits.len()) * 512
}

/// Begins to watch the tables of an installation. `false`: they cannot be found, so nothing is kept.
pub fn watch(installed: &Installed) -> bool {
    let extension = u32::from(installed.oid);
    let before = WATCHING.get();
    if before == extension {
        return true;
    }
    let watched = TABLES_WATCHED.iter().chain([&LEDGER_WATCHED]);
    for (watched, name) in watched.zip(TABLES.into_iter().chain([LEDGER])) {
        // SAFETY: a look-up of the catalog inside a transaction; the name is a constant C string.
        let table = unsafe { pg_sys::get_relname_relid(name.as_ptr(), installed.namespace) };
        if table == pg_sys::InvalidOid {
            return false;
        }
        watched.store(table.into(), Ordering::Relaxed);
    }
    if before == 0 {
        // SAFETY: once per process, of which there are places for ten; the function lives as long as the
        // library, which is never unloaded.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), 0.into()) };
    }
    WATCHING.set(extension);
    true
}

/// PostgreSQL says that something about a table has changed; 0: about any. Called wherever it looks after
/// its caches, also in the middle of an abort: nothing here may fail.
unsafe extern "C-unwind" fn invalidated(_: pg_sys::Datum, table: pg_sys::Oid) {
    let table = u32::from(table);
    if table == 0 || TABLES_WATCHED.iter().any(|watched| watched.load(Ordering::Relaxed) == table) {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    if table == 0 || LEDGER_WATCHED.load(Ordering::Relaxed) == table {
        LEDGER_GENERATION.fetch_add(1, Ordering::Relaxed);
    }
}

/// Trigger function: has every process forget its routes, once this transaction commits; this one at once.
#[pg_extern(sql = false)]
fn aggregator_routes_changed(fcinfo: pg_sys::FunctionCallInfo) {
    // SAFETY: where the context is a trigger's, it is of this type, and its relation is open. The rest are
    // look-ups of the catalog inside a transaction; the name is a constant C string.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            return;
        }
        let relation = (*context.cast::<pg_sys::TriggerData>()).tg_relation;
        let table = pg_sys::get_relname_relid(
            TABLES[0].as_ptr(),
            pg_sys::get_rel_namespace((*relation).rd_id),
        );
        if table != pg_sys::InvalidOid {
            pg_sys::CacheInvalidateRelcacheByRelid(table);
        }
    }
}

/// Likewise for what the worker writes, whose triggers a restore may have disarmed since it began.
pub fn changed(installed: &Installed) {
    if watch(installed) {
        let table = TABLES_WATCHED[0].load(Ordering::Relaxed);
        // SAFETY: inside a transaction; the table was there when it was looked up.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table.into()) };
    }
}
