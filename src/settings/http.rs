//! Settings of the HTTP endpoint, and of those who come over it.

use super::{kilobytes, list, text};
use crate::core::front::place;
use crate::core::front::proxies::Proxies;
use crate::core::front::session;
use crate::core::front::token;
use crate::error::Error;
use crate::gateway;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::CString;
use std::path::PathBuf;

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
static CONSOLE: GucSetting<bool> = GucSetting::<bool>::new(true);
static CONSOLE_BASE_URL: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c""));
static CONSOLE_ORIGINS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
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

pub fn register() {
    register_listening();
    register_console();
    register_tags();
    register_tokens();
}

/// Where it is reached, by whom, and what it takes.
fn register_listening() {
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

/// Settings of the console.
fn register_console() {
    GucRegistry::define_bool_guc(
        c"aggregator.console",
        c"Whether the HTTP endpoint has the console at /console/.",
        c"",
        &CONSOLE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"aggregator.console_base_url",
        c"Where browsers reach the HTTP endpoint, for the links of console_url(): 'https://llm.example.org'.",
        c"Empty: at the address of aggregator.http_listen. Behind a proxy, name the proxy.",
        &CONSOLE_BASE_URL,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"aggregator.console_origins",
        c"Origins whose pages may show the console in a frame or open it, and sign users in there, separated by commas.",
        c"They post an access token to it. Empty: none, and no page has it in a frame.",
        &CONSOLE_ORIGINS,
        GucContext::Sighup,
        GucFlags::default(),
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
        c"A secret has 32 bytes at least. Relative to the data directory, mode 0600, read on reload. Empty: no token is accepted over HTTP.",
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
        c"allow: what anybody may; own_keys: with their own keys, none of the platform's, no jobs and no gateway keys; refuse: nothing.",
        &ANONYMOUS_USERS,
        GucContext::Sighup,
        GucFlags::default(),
    );
}

/// Names of the databases that are reached over HTTP.
pub fn databases() -> Vec<String> {
    place::databases(&text(&HTTP_LISTEN).unwrap_or_default()).map(str::to_owned).collect()
}

/// What users may do who have signed in without saying who they are.
pub fn anonymous_users() -> gateway::AnonymousUsers {
    match ANONYMOUS_USERS.get() {
        AnonymousUsers::Allow => gateway::AnonymousUsers::Allow,
        AnonymousUsers::OwnKeys => gateway::AnonymousUsers::OwnKeys,
        AnonymousUsers::Refuse => gateway::AnonymousUsers::Refuse,
    }
}

/// What the endpoint of a database obeys.
pub fn of(database: &str) -> gateway::Http {
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
        console: CONSOLE.get(),
        console_origins: list(&CONSOLE_ORIGINS),
    }
}

/// Where browsers reach a database's console, as far as it is known here.
pub fn console_base(database: &str) -> Result<String, Error> {
    let down = |reason: &str, hint: &str| Error::GatewayDown {
        reason: reason.to_owned(),
        hint: hint.to_owned(),
    };
    let http = of(database);
    let place = match http.place {
        Some(Ok(place)) => place,
        _ => {
            let listen =
                format!("ALTER SYSTEM SET aggregator.http_listen = '{database}=127.0.0.1:8787';");
            return Err(down("this database is not reached over HTTP", &listen));
        }
    };
    if !http.console {
        let switch = "ALTER SYSTEM SET aggregator.console = on;";
        return Err(down("the console is switched off", switch));
    }
    if let Some(base) = text(&CONSOLE_BASE_URL).filter(|base| !base.is_empty()) {
        return match session::base_problem(&base) {
            None => Ok(base),
            Some(problem) => Err(down(
                &format!("aggregator.console_base_url {problem}"),
                "For example: 'https://llm.example.org'.",
            )),
        };
    }
    place.page(http.tls_certificate.is_some(), &http.hosts).ok_or_else(|| {
        down(
            "no browser reaches a Unix socket",
            "Name the proxy in front of it: aggregator.console_base_url = 'https://llm.example.org'.",
        )
    })
}
