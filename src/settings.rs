//! Every setting of the extension. Those that the worker obeys are read at reload only: a
//! session's SET does not reach it.

mod cache;
mod calls;
mod gateways;
mod http;

use crate::gateway;
pub use cache::size as cache_size;
pub use calls::{QueueLimits, job_max_attempts, job_retention_s, limits, queue_limits};
pub use gateways::{hub, own as own_gateway};
pub use http::{anonymous_users, console_base};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;
use std::path::PathBuf;

static USER_ID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
static TRUSTED_AUTHENTICATORS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c""));
static KEYRING_FILE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"aggregator.keyring"));
static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static LEDGER_SYNC: GucSetting<bool> = GucSetting::<bool>::new(true);
static ALLOW_PRIVATE_NETWORKS: GucSetting<bool> = GucSetting::<bool>::new(false);
static MAX_RESPONSE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(32 * 1024);
static MAX_REQUEST_SIZE: GucSetting<i32> = GucSetting::<i32>::new(32 * 1024);
static MAX_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(512 * 1024);
static USAGE_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(0);

/// Registers the settings. `is_preloading`: the library is being loaded by
/// shared_preload_libraries.
pub fn register(is_preloading: bool) {
    GucRegistry::define_string_guc(
        c"aggregator.user_id",
        c"The user id under which this session keeps keys and spends.",
        c"Only a superuser, or a role with GRANT SET ON PARAMETER, may set it. It goes before JWT claims.",
        &USER_ID,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"aggregator.trusted_authenticators",
        c"Login roles whose request.jwt.claims are believed, separated by commas.",
        c"Empty: the role authenticator, if it was there when the extension was created, and those with USAGE on the type aggregator_authenticator. Any other login could set the claims itself.",
        &TRUSTED_AUTHENTICATORS,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"aggregator.keyring_file",
        c"The file with the master keys, relative to the data directory.",
        c"Keep it outside the data directory in production, and copy it to standbys and new servers.",
        &KEYRING_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    // A setting of the postmaster can only be defined while preloading; otherwise it has no effect.
    GucRegistry::define_string_guc(
        c"aggregator.databases",
        c"Databases whose worker starts with the server, separated by commas.",
        c"Takes effect with shared_preload_libraries = 'aggregator', when the server starts.",
        &DATABASES,
        if is_preloading { GucContext::Postmaster } else { GucContext::Sighup },
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"aggregator.ledger_sync",
        c"Whether the pending usage row is on disk before a request leaves.",
        c"The answer does not wait for the disk again: after a crash of the server in between, the row is unknown, and its reservation counts in full. Off: a crash of the server can lose rows; a rollback, a cancel or a killed session still cannot.",
        &LEDGER_SYNC,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"aggregator.allow_private_networks",
        c"Whether providers may have private, loopback and link-local addresses.",
        c"Also allows http without TLS, to such addresses only.",
        &ALLOW_PRIVATE_NETWORKS,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aggregator.max_response_size",
        c"The largest answer that is read from a provider.",
        c"",
        &MAX_RESPONSE_SIZE,
        1,
        256 * 1024,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"aggregator.max_request_size",
        c"The largest request that is sent to a provider.",
        c"A larger one is refused with PT413. A job's request is 16 MB at the most.",
        &MAX_REQUEST_SIZE,
        1,
        256 * 1024,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"aggregator.max_memory",
        c"The most memory that requests and answers of all calls in flight may hold.",
        c"Past it a call fails at once with PT503, and jobs wait. One user takes at most half of what the others leave.",
        &MAX_MEMORY,
        1024,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    register_usage();
    calls::register();
    cache::register();
    gateways::register();
    http::register();
}

/// Settings of the usage log.
fn register_usage() {
    GucRegistry::define_int_guc(
        c"aggregator.usage_retention",
        c"How long the usage log and the rollups of its hours are kept.",
        c"0 keeps them for ever.",
        &USAGE_RETENTION,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
}

/// Seconds for which the usage log is kept; 0: for ever.
pub fn usage_retention_s() -> i32 {
    USAGE_RETENTION.get()
}

/// Bytes of one request.
pub fn max_request_size() -> usize {
    kilobytes(&MAX_REQUEST_SIZE)
}

/// `aggregator.user_id` as registered: a placeholder of that name, set before the library was
/// loaded, is not it.
pub fn user_id() -> Option<String> {
    text(&USER_ID)
}

pub fn trusted_authenticators() -> String {
    text(&TRUSTED_AUTHENTICATORS).unwrap_or_default()
}

pub fn keyring_file() -> PathBuf {
    text(&KEYRING_FILE)
        .filter(|path| !path.is_empty())
        .unwrap_or("aggregator.keyring".into())
        .into()
}

/// Names of the databases whose worker starts with the server.
pub fn databases() -> Vec<String> {
    let mut names = list(&DATABASES);
    names.extend(http::databases());
    names
}

/// Whether the worker of a database stays when nobody needs it. `is_kept`: it was started with the server.
pub fn stays(database: &str, is_kept: bool) -> bool {
    http::databases().iter().any(|name| name == database)
        || is_kept && list(&DATABASES).iter().any(|name| name == database)
}

/// The names of a list, separated by commas.
fn list(setting: &GucSetting<Option<CString>>) -> Vec<String> {
    let list = text(setting).unwrap_or_default();
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// What the gateway of a database obeys until the next reload.
pub fn for_gateway(database: &str) -> gateway::Settings {
    gateway::Settings {
        ledger_sync: ledger_sync(),
        max_request_size: max_request_size(),
        max_response_size: kilobytes(&MAX_RESPONSE_SIZE),
        max_memory: kilobytes(&MAX_MEMORY),
        allow_private_networks: ALLOW_PRIVATE_NETWORKS.get(),
        keyring_file: keyring_file(),
        stream_idle_timeout: calls::stream_idle_timeout(),
        stream_upstream: calls::stream_upstream(),
        limits: limits(),
        cache_ttl_s: cache::ttl_s(),
        cache_size: cache::size(),
        key_checks_per_minute: calls::key_checks_per_minute(),
        gateways: gateways::of(),
        http: http::of(database),
    }
}

fn kilobytes(setting: &GucSetting<i32>) -> usize {
    usize::try_from(setting.get()).unwrap_or(0).saturating_mul(1024)
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    setting.get().and_then(|value| value.into_string().ok())
}

static IS_PRELOADED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Notes, in the postmaster, that the library was preloaded; its children inherit it.
pub fn note_preloaded() {
    IS_PRELOADED.store(true, std::sync::atomic::Ordering::Relaxed);
}

/// Whether the pending usage row is on disk before a request leaves.
pub fn ledger_sync() -> bool {
    LEDGER_SYNC.get()
}

/// Whether shared_preload_libraries loaded the library.
pub fn is_preloaded() -> bool {
    IS_PRELOADED.load(std::sync::atomic::Ordering::Relaxed)
}
