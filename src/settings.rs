//! Every setting of the extension. Those that the worker obeys are read at reload only: a
//! session's SET does not reach it.

use crate::core::front::place;
use crate::core::front::proxies::Proxies;
use crate::core::front::token;
use crate::gateway;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

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
static STREAM_UPSTREAM: GucSetting<bool> = GucSetting::<bool>::new(false);
static STREAM_IDLE_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(60_000);
static MAX_IN_FLIGHT: GucSetting<i32> = GucSetting::<i32>::new(1000);
static MAX_IN_FLIGHT_PER_USER: GucSetting<i32> = GucSetting::<i32>::new(128);
static MAX_IN_FLIGHT_PER_KEY: GucSetting<i32> = GucSetting::<i32>::new(256);
static MAX_KEY_CHECKS_PER_MINUTE: GucSetting<i32> = GucSetting::<i32>::new(10);
static JOB_MAX_ATTEMPTS: GucSetting<i32> = GucSetting::<i32>::new(5);
static JOB_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(7 * 24 * 60 * 60);
static MAX_QUEUED_JOBS_PER_USER: GucSetting<i32> = GucSetting::<i32>::new(100_000);
static MAX_QUEUED_SIZE_PER_USER: GucSetting<i32> = GucSetting::<i32>::new(256 * 1024);
static USAGE_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(0);
static HTTP_LISTEN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static HTTP_ALLOW_REMOTE: GucSetting<bool> = GucSetting::<bool>::new(false);
static HTTP_HOSTS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static HTTP_CORS_ORIGINS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c""));
static HTTP_TRUSTED_PROXIES: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c""));
static HTTP_TLS_CERTIFICATE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c""));
static HTTP_TLS_KEY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static HTTP_MAX_BODY: GucSetting<i32> = GucSetting::<i32>::new(32 * 1024);
static TAGS_FROM_METADATA: GucSetting<bool> = GucSetting::<bool>::new(false);
static JWT_SECRET_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static JWT_AUDIENCE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static JWT_ISSUER: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static ANONYMOUS_USERS: GucSetting<AnonymousUsers> =
    GucSetting::<AnonymousUsers>::new(AnonymousUsers::OwnKeys);

/// `aggregator.anonymous_users`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum AnonymousUsers {
    #[name = c"allow"]
    Allow,
    #[name = c"own_keys"]
    OwnKeys,
    #[name = c"refuse"]
    Refuse,
}

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
        c"Takes effect with shared_preload_libraries = 'aggregator'.",
        &DATABASES,
        if is_preloading { GucContext::Postmaster } else { GucContext::Sighup },
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"aggregator.ledger_sync",
        c"Whether the pending usage row is on disk before a request leaves.",
        c"Off: a crash of the server can lose rows; a rollback, a cancel or a killed session still cannot.",
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
        c"Past it a call fails at once with PT503.",
        &MAX_MEMORY,
        1024,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    register_calls();
    register_usage();
    register_http();
    register_tags();
    register_tokens();
}

/// Settings of streams, limits in flight and jobs.
fn register_calls() {
    GucRegistry::define_bool_guc(
        c"aggregator.stream_upstream",
        c"Whether answers that are wanted whole are asked for as streams.",
        c"A stalled provider is then noticed by aggregator.stream_idle_timeout. options.stream_upstream goes before it.",
        &STREAM_UPSTREAM,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aggregator.stream_idle_timeout",
        c"Silence of a provider, once its stream has begun, after which it counts as stalled.",
        c"",
        &STREAM_IDLE_TIMEOUT,
        1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
    for (name, description, setting) in [
        (
            c"aggregator.max_in_flight",
            c"Chat requests at providers at one time; more wait.",
            &MAX_IN_FLIGHT,
        ),
        (
            c"aggregator.max_in_flight_per_user",
            c"Chat requests of one user at one time; more wait.",
            &MAX_IN_FLIGHT_PER_USER,
        ),
        (
            c"aggregator.max_in_flight_per_key",
            c"Chat requests with one provider key at one time; more wait.",
            &MAX_IN_FLIGHT_PER_KEY,
        ),
    ] {
        GucRegistry::define_int_guc(
            name,
            description,
            c"",
            setting,
            1,
            100_000,
            GucContext::Sighup,
            GucFlags::default(),
        );
    }
    GucRegistry::define_int_guc(
        c"aggregator.max_key_checks_per_minute",
        c"Keys that one user may have checked at one provider in a minute.",
        c"By validate_provider_key and save_provider_key. More are PT429.",
        &MAX_KEY_CHECKS_PER_MINUTE,
        1,
        100_000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aggregator.job_max_attempts",
        c"How often a job is run before it counts as failed.",
        c"It is run again after its worker died, or after a failure that may pass.",
        &JOB_MAX_ATTEMPTS,
        1,
        1000,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aggregator.max_queued_jobs_per_user",
        c"Jobs of one user that may wait at one time; more are refused.",
        c"",
        &MAX_QUEUED_JOBS_PER_USER,
        1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"aggregator.max_queued_size_per_user",
        c"The size of the requests of one user's jobs that may wait at one time; more are refused.",
        c"",
        &MAX_QUEUED_SIZE_PER_USER,
        1,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
    GucRegistry::define_int_guc(
        c"aggregator.job_retention",
        c"How long jobs are kept after they have ended.",
        c"0 keeps them for ever.",
        &JOB_RETENTION,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
}

/// Settings of the usage log.
fn register_usage() {
    GucRegistry::define_int_guc(
        c"aggregator.usage_retention",
        c"How long the usage log and the sums of its hours are kept.",
        c"0 keeps them for ever.",
        &USAGE_RETENTION,
        0,
        i32::MAX,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
}

/// Settings of the HTTP endpoint.
fn register_http() {
    GucRegistry::define_string_guc(
        c"aggregator.http_listen",
        c"Databases that are reached over HTTP, and where: 'app=127.0.0.1:8787, other=unix:/path'.",
        c"The worker of a database that is named here stays. Empty: there is no HTTP endpoint.",
        &HTTP_LISTEN,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"aggregator.http_allow_remote",
        c"Whether the HTTP endpoint may have an address that other machines reach.",
        c"Without aggregator.http_tls_certificate, put a proxy with TLS in front of it.",
        &HTTP_ALLOW_REMOTE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    for (name, description, more, setting) in [
        (
            c"aggregator.http_hosts",
            c"Names under which the HTTP endpoint is reached, separated by commas.",
            c"Beside localhost and the address itself. A request for another host is refused.",
            &HTTP_HOSTS,
        ),
        (
            c"aggregator.http_cors_origins",
            c"Origins whose pages may call the HTTP endpoint, separated by commas.",
            c"'*': all of them. Empty: none.",
            &HTTP_CORS_ORIGINS,
        ),
        (
            c"aggregator.http_trusted_proxies",
            c"Addresses and networks of proxies that are believed for whom they ask, separated by commas.",
            c"By X-Forwarded-For. A Unix socket's are always; of others the header is passed over.",
            &HTTP_TRUSTED_PROXIES,
        ),
    ] {
        let (context, flags) = (GucContext::Sighup, GucFlags::default());
        GucRegistry::define_string_guc(name, description, more, setting, context, flags);
    }
    for (name, description, more, setting) in [
        (
            c"aggregator.http_tls_certificate",
            c"The file with the certificate of the HTTP endpoint, and those of its authorities, in PEM.",
            c"Relative to the data directory, read on reload. Empty: no TLS. Unix sockets have none.",
            &HTTP_TLS_CERTIFICATE,
        ),
        (
            c"aggregator.http_tls_key",
            c"The file with the private key of that certificate, in PEM.",
            c"Relative to the data directory, mode 0600, read on reload.",
            &HTTP_TLS_KEY,
        ),
    ] {
        let (context, flags) = (GucContext::Sighup, GucFlags::SUPERUSER_ONLY);
        GucRegistry::define_string_guc(name, description, more, setting, context, flags);
    }
    GucRegistry::define_int_guc(
        c"aggregator.http_max_body",
        c"The largest body of an HTTP request.",
        c"A larger one is refused with 413.",
        &HTTP_MAX_BODY,
        1,
        256 * 1024,
        GucContext::Sighup,
        GucFlags::UNIT_KB,
    );
}

/// Settings of what comes over HTTP.
fn register_tags() {
    GucRegistry::define_bool_guc(
        c"aggregator.tags_from_metadata",
        c"Whether the values of OpenAI's metadata are tags of a call over HTTP.",
        c"In the order of their names, after the tags that are given as such, up to eight in all. A value that can be no tag (no text, empty, longer than 64 bytes, with characters that do not show) is passed over. metadata goes to the provider all the same.",
        &TAGS_FROM_METADATA,
        GucContext::Sighup,
        GucFlags::default(),
    );
}

/// Settings of access tokens.
fn register_tokens() {
    GucRegistry::define_string_guc(
        c"aggregator.jwt_secret_file",
        c"The file with the keys of access tokens: a secret, a JWK or a JWKS, as PostgREST's jwt-secret.",
        c"Relative to the data directory, mode 0600, read on reload. Empty: no token is accepted over HTTP.",
        &JWT_SECRET_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    for (name, description, setting) in [
        (
            c"aggregator.jwt_audience",
            c"The audience that an access token must name.",
            &JWT_AUDIENCE,
        ),
        (c"aggregator.jwt_issuer", c"The issuer that an access token must name.", &JWT_ISSUER),
    ] {
        let (context, flags) = (GucContext::Sighup, GucFlags::default());
        GucRegistry::define_string_guc(name, description, c"Empty: any.", setting, context, flags);
    }
    GucRegistry::define_enum_guc(
        c"aggregator.anonymous_users",
        c"What users may spend whose access token says is_anonymous.",
        c"allow: what anybody may; own_keys: with their own keys and none of the platform's; refuse: nothing.",
        &ANONYMOUS_USERS,
        GucContext::Sighup,
        GucFlags::default(),
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

/// What may wait of one user's jobs.
#[derive(Debug, Clone, Copy)]
pub struct QueueLimits {
    pub jobs: i64,
    pub bytes: i64,
}

pub fn queue_limits() -> QueueLimits {
    QueueLimits {
        jobs: i64::from(MAX_QUEUED_JOBS_PER_USER.get()),
        bytes: i64::from(MAX_QUEUED_SIZE_PER_USER.get()) * 1024,
    }
}

/// How often a job may be run.
pub fn job_max_attempts() -> i32 {
    JOB_MAX_ATTEMPTS.get()
}

/// Seconds for which ended jobs are kept; `None`: for ever.
pub fn job_retention_s() -> Option<i32> {
    Some(JOB_RETENTION.get()).filter(|seconds| *seconds > 0)
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
    let listen = text(&HTTP_LISTEN).unwrap_or_default();
    names.extend(place::databases(&listen).map(str::to_owned));
    names
}

/// Whether the worker of a database stays when nobody needs it. `is_kept`: it was started with the server.
pub fn stays(database: &str, is_kept: bool) -> bool {
    let listen = text(&HTTP_LISTEN).unwrap_or_default();
    let is_named = place::databases(&listen).any(|name| name == database);
    is_named || is_kept && list(&DATABASES).iter().any(|name| name == database)
}

/// The names of a list, separated by commas.
fn list(setting: &GucSetting<Option<CString>>) -> Vec<String> {
    let list = text(setting).unwrap_or_default();
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// What users may do who have signed in without saying who they are.
pub fn anonymous_users() -> gateway::AnonymousUsers {
    match ANONYMOUS_USERS.get() {
        AnonymousUsers::Allow => gateway::AnonymousUsers::Allow,
        AnonymousUsers::OwnKeys => gateway::AnonymousUsers::OwnKeys,
        AnonymousUsers::Refuse => gateway::AnonymousUsers::Refuse,
    }
}

fn http(database: &str) -> gateway::Http {
    let given = |setting| text(setting).filter(|text| !text.is_empty());
    gateway::Http {
        place: place::of(&text(&HTTP_LISTEN).unwrap_or_default(), database),
        allow_remote: HTTP_ALLOW_REMOTE.get(),
        hosts: list(&HTTP_HOSTS),
        origins: list(&HTTP_CORS_ORIGINS),
        proxies: Proxies::read(&text(&HTTP_TRUSTED_PROXIES).unwrap_or_default()),
        tls_certificate: given(&HTTP_TLS_CERTIFICATE).map(PathBuf::from),
        tls_key: given(&HTTP_TLS_KEY).map(PathBuf::from),
        max_body: kilobytes(&HTTP_MAX_BODY),
        token_keys: given(&JWT_SECRET_FILE).map(PathBuf::from),
        token_rules: token::Rules { audience: given(&JWT_AUDIENCE), issuer: given(&JWT_ISSUER) },
        anonymous_users: anonymous_users(),
        tags_from_metadata: TAGS_FROM_METADATA.get(),
    }
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
        stream_idle_timeout: Duration::from_millis(
            u64::try_from(STREAM_IDLE_TIMEOUT.get()).unwrap_or(1),
        ),
        stream_upstream: STREAM_UPSTREAM.get(),
        limits: limits(),
        key_checks_per_minute: i64::from(MAX_KEY_CHECKS_PER_MINUTE.get()),
        http: http(database),
    }
}

/// Limits in flight.
pub fn limits() -> gateway::Limits {
    gateway::Limits {
        all: number(&MAX_IN_FLIGHT),
        per_user: number(&MAX_IN_FLIGHT_PER_USER),
        per_key: number(&MAX_IN_FLIGHT_PER_KEY),
    }
}

fn number(setting: &GucSetting<i32>) -> usize {
    usize::try_from(setting.get()).unwrap_or(1)
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
