//! The HTTP clients of providers: two (TLS, and plain for private networks), no redirects, no proxy from
//! the environment; and what goes to each provider with every request.

use crate::core::standard::Standard;
use crate::core::standard::anthropic::front::native::BETAS;
use crate::core::{address, headers as extra};
use crate::error::{Error, Target};
use crate::gateway::body::{Limit, Requests};
use crate::gateway::connection::{BUFFER, Connector};
use crate::gateway::departure::Departure;
use crate::gateway::http::{Pooled, Prepared};
use crate::gateway::resolver::GuardedResolver;
use crate::gateway::settings::Settings;
use crate::protocol::Provider;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use rustls_platform_verifier::ConfigVerifierExt;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tower_http::decompression::Decompression;
use uuid::Uuid;

const IDLE_CONNECTION: Duration = Duration::from_secs(90);
/// Of a response: more headers than any provider sends.
const MOST_HEADERS: usize = 100;
/// What one answer may have on its way over HTTP/2, and all that share the connection: one whose
/// caller does not take it must not hold up the others.
const STREAM_WINDOW: u32 = 128 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * STREAM_WINDOW;
/// Providers whose URL and headers are kept ready.
const MOST_CHATS: usize = 256;

/// The pooled clients, made anew when the guard's switch changes: a connection that was allowed
/// must not outlive the permission.
pub struct Clients {
    tls: Pooled,
    plain: Pooled,
    allow_private: bool,
    /// Where chats go, by provider.
    chats: Mutex<HashMap<Uuid, Arc<Chat>>>,
}

/// Where chats go to a provider whose row has this in it.
struct Chat {
    standard: Standard,
    base_url: String,
    extra: Vec<(String, String)>,
    place: Place,
    /// Where embeddings are asked for.
    embeddings: Option<Place>,
}

impl Chat {
    fn is_of(&self, provider: &Provider) -> bool {
        self.standard == provider.standard
            && self.base_url == provider.base_url
            && self.extra == provider.headers
    }
}

/// A URL that was checked, and the headers that go there, but for the key.
#[derive(Clone)]
struct Place {
    uri: Uri,
    is_plain: bool,
    headers: HeaderMap,
}

/// A request to be sent.
pub struct Outgoing<'a> {
    pub provider: &'a Provider,
    pub target: Target,
    pub what: What<'a>,
    pub key: Option<&'a str>,
    /// Bytes of the answer, packed or not.
    pub limit: usize,
}

/// What is asked of a provider.
pub enum What<'a> {
    /// With this body.
    Chat(Bytes),
    Embeddings(Bytes),
    /// In the provider's own form, with the headers that go with it.
    Native(Bytes, Vec<(&'static str, String)>),
    /// What is at this URL.
    Url(&'a str),
}

impl Clients {
    pub fn new(settings: &Settings) -> Result<Self, rustls::Error> {
        let allow_private = settings.allow_private_networks;
        let authorities = ClientConfig::with_platform_verifier()?;
        let client = |plain| pool(GuardedResolver { plain, allow_private }, authorities.clone());
        Ok(Self { tls: client(false), plain: client(true), allow_private, chats: Mutex::default() })
    }

    /// Whether the clients were built for these settings.
    pub fn fit(&self, settings: &Settings) -> bool {
        self.allow_private == settings.allow_private_networks
    }

    /// Checks and builds a request; nothing is sent yet.
    pub fn prepare(&self, request: Outgoing<'_>) -> Result<Prepared, Error> {
        let Outgoing { provider, target, what, key, limit } = request;
        let (method, body, mut place) = match &what {
            What::Chat(body) | What::Native(body, _) => {
                (Method::POST, Some(body.clone()), self.chat(provider, &target)?.place.clone())
            }
            What::Embeddings(body) => {
                let chat = self.chat(provider, &target)?;
                let place = chat
                    .embeddings
                    .clone()
                    .ok_or_else(|| Error::unsupported("embeddings in this API standard"))?;
                (Method::POST, Some(body.clone()), place)
            }
            What::Url(url) => (Method::GET, None, self.place(url, provider, &target)?),
        };
        if let What::Native(_, headers) = what {
            add(&mut place.headers, headers)?;
        }
        let client = if place.is_plain { &self.plain } else { &self.tls };
        let departure = Departure::default();
        let mut request = Request::new(departure.body(body));
        request.extensions_mut().insert(Limit(limit));
        *request.method_mut() = method;
        *request.uri_mut() = place.uri;
        *request.headers_mut() = place.headers;
        if let Some(key) = key {
            let (name, value) = key_header(provider, key)?;
            request.headers_mut().insert(name, value);
        }
        Ok(Prepared { client: client.clone(), request, target, departure })
    }

    /// Where chats go. What a provider's row says is checked once, until it says something else.
    fn chat(&self, provider: &Provider, target: &Target) -> Result<Arc<Chat>, Error> {
        let known = self.chats().get(&provider.id).filter(|chat| chat.is_of(provider)).cloned();
        if let Some(chat) = known {
            return Ok(chat);
        }
        let post = |url: &str| {
            let mut place = self.place(url, provider, target)?;
            place.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok::<_, Error>(place)
        };
        let place = post(&provider.standard.chat_url(&provider.base_url))?;
        let embeddings = provider.standard.embeddings_url(&provider.base_url);
        let embeddings = embeddings.map(|url| post(&url)).transpose()?;
        let (base_url, extra) = (provider.base_url.clone(), provider.headers.clone());
        let chat =
            Arc::new(Chat { standard: provider.standard, base_url, extra, place, embeddings });
        let mut chats = self.chats();
        if chats.len() >= MOST_CHATS {
            chats.clear();
        }
        chats.insert(provider.id, chat.clone());
        Ok(chat)
    }

    fn chats(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Chat>>> {
        self.chats.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn place(&self, url: &str, provider: &Provider, target: &Target) -> Result<Place, Error> {
        let url = address::check_url(url, self.allow_private).map_err(|reason| {
            Error::AddressRefused { provider: target.provider.clone(), reason }
        })?;
        let headers = headers(provider)?;
        let uri = Uri::try_from(url.as_str()).map_err(|_| Error::Unreachable {
            target: target.clone(),
            reason: "its URL is not one".to_owned(),
        })?;
        Ok(Place { uri, is_plain: url.scheme() == "http", headers })
    }
}

/// A pool of connections to what this resolver finds.
pub fn pool(resolver: GuardedResolver, authorities: ClientConfig) -> Pooled {
    let connector = Connector::new(resolver, authorities);
    let client = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_CONNECTION)
        .http1_max_buf_size(BUFFER)
        .http1_max_headers(MOST_HEADERS)
        .http2_max_header_list_size(BUFFER as u32)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .build(connector);
    Decompression::new(Requests(client))
}

fn headers(provider: &Provider) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("aggregator/", env!("CARGO_PKG_VERSION"))),
    );
    let invalid = |name: &str| {
        Error::bad_request(format!("header '{name}' of provider '{}' is not valid", provider.name))
    };
    for (name, value) in &provider.headers {
        // The row may have been written past the trigger that checks it.
        if extra::problem(name, value).is_some() {
            return Err(invalid(name));
        }
        let header = HeaderName::try_from(name.as_str()).map_err(|_| invalid(name))?;
        headers.insert(header, HeaderValue::try_from(value.as_str()).map_err(|_| invalid(name))?);
    }
    for (name, value) in provider.standard.wire().fixed_headers() {
        headers.insert(*name, HeaderValue::from_static(value));
    }
    Ok(headers)
}

/// Puts the headers of one request to those of its provider. A list goes on where the provider's row has begun it.
fn add(all: &mut HeaderMap, headers: Vec<(&'static str, String)>) -> Result<(), Error> {
    for (name, value) in headers {
        let begun = all.get(name).filter(|_| name == BETAS).and_then(|value| value.to_str().ok());
        let value = match begun {
            Some(begun) => format!("{begun},{value}"),
            None => value,
        };
        let value = HeaderValue::try_from(value)
            .map_err(|_| Error::bad_request(format!("{name}: cannot be sent as a header")))?;
        all.insert(name, value);
    }
    Ok(())
}

/// The header that carries the key.
fn key_header(provider: &Provider, key: &str) -> Result<(HeaderName, HeaderValue), Error> {
    let (name, value) = provider.standard.wire().auth_header(key);
    let mut value = HeaderValue::try_from(value).map_err(|_| Error::KeyUnreadable {
        provider: provider.name.clone(),
        reason: "it has characters that no header can carry".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok((HeaderName::from_static(name), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::departure::Noted;
    use crate::gateway::settings::{AnonymousUsers, Gateways, Http, Limits};

    fn clients() -> Clients {
        Clients::new(&Settings {
            ledger_sync: true,
            max_request_size: 1 << 20,
            max_response_size: 1 << 20,
            max_memory: 1 << 20,
            allow_private_networks: false,
            keyring_file: "keyring".into(),
            stream_idle_timeout: Duration::from_secs(1),
            stream_upstream: false,
            cache_ttl_s: 0,
            cache_size: 0,
            limits: Limits { all: 1, per_user: 1, per_key: 1 },
            key_checks_per_minute: 1,
            gateways: Gateways { name: Ok(None), hub: None },
            http: Http {
                place: None,
                proxies: Ok(Default::default()),
                tls_certificate: None,
                tls_key: None,
                allow_remote: false,
                hosts: vec![],
                origins: vec![],
                max_body: 1 << 20,
                token_keys: None,
                token_rules: Default::default(),
                anonymous_users: AnonymousUsers::Refuse,
                tags_from_metadata: false,
                console: true,
                console_origins: vec![],
            },
        })
        .unwrap()
    }

    fn provider(id: u128, base_url: &str, header: &str) -> Provider {
        Provider {
            id: Uuid::from_u128(id),
            name: "p".to_owned(),
            standard: Standard::OpenAi,
            base_url: base_url.to_owned(),
            headers: vec![("x-title".to_owned(), header.to_owned())],
        }
    }

    fn chat(clients: &Clients, provider: &Provider, key: &str) -> Result<Request<Noted>, Error> {
        let target = provider.target("m");
        let what = What::Chat(Bytes::from_static(b"{}"));
        let asked = Outgoing { provider, target, what, key: Some(key), limit: 1 };
        clients.prepare(asked).map(|prepared| prepared.request)
    }

    #[test]
    fn what_a_providers_row_says_now_is_where_a_chat_goes() {
        let clients = clients();
        for (base_url, header, key) in [
            ("https://a.example/v1", "one", "sk-1"),
            ("https://a.example/v1", "one", "sk-2"),
            ("https://b.example/v1", "one", "sk-1"),
            ("https://b.example/v1", "two", "sk-1"),
        ] {
            let request = chat(&clients, &provider(1, base_url, header), key).unwrap();
            assert_eq!(request.uri().to_string(), format!("{base_url}/chat/completions"));
            assert_eq!(request.headers()["x-title"], header);
            assert_eq!(request.headers()["authorization"], format!("Bearer {key}"));
            assert!(request.headers()["authorization"].is_sensitive());
            assert_eq!(request.headers()["content-type"], "application/json");
        }
        let anthropic = Provider {
            standard: Standard::Anthropic,
            ..provider(1, "https://b.example/v1", "two")
        };
        let request = chat(&clients, &anthropic, "sk-1").unwrap();
        assert_eq!(request.uri().path(), "/v1/messages");
        assert!(!request.headers().contains_key("authorization"));
        // What may not be asked is not asked because an earlier row might have been.
        for bad in ["http://b.example/v1", "https://127.0.0.1/v1", "b.example"] {
            let refused = chat(&clients, &provider(1, bad, "two"), "sk-1");
            assert!(matches!(refused, Err(Error::AddressRefused { .. })), "{bad}");
        }
        assert!(chat(&clients, &provider(1, "https://b.example/v1", "a\nb"), "sk-1").is_err());
    }

    #[test]
    fn a_request_of_the_providers_own_form_brings_its_version_and_betas() {
        let clients = clients();
        let mut anthropic = Provider {
            standard: Standard::Anthropic,
            ..provider(1, "https://api.anthropic.com/v1", "one")
        };
        let sent = |provider: &Provider, headers: Vec<(&'static str, String)>| {
            let what = What::Native(Bytes::from_static(b"{}"), headers);
            let target = provider.target("m");
            let asked = Outgoing { provider, target, what, key: Some("sk-1"), limit: 1 };
            clients.prepare(asked).map(|prepared| prepared.request)
        };
        let headers = |betas: &str| {
            vec![("anthropic-version", "2026-10-21".to_owned()), (BETAS, betas.to_owned())]
        };
        let request = sent(&anthropic, headers("a,b")).unwrap();
        assert_eq!(request.headers()["anthropic-version"], "2026-10-21");
        assert_eq!(request.headers()[BETAS], "a,b");
        assert_eq!(request.headers()["x-api-key"], "sk-1");
        anthropic.headers.push((BETAS.to_owned(), "row".to_owned()));
        let request = sent(&anthropic, headers("a,b")).unwrap();
        assert_eq!(request.headers()[BETAS], "row,a,b");
        assert_eq!(request.headers().get_all(BETAS).iter().count(), 1);
        // The next request has none of it.
        let request = chat(&clients, &anthropic, "sk-1").unwrap();
        assert_eq!(request.headers()["anthropic-version"], "2023-06-01");
        assert_eq!(request.headers()[BETAS], "row");
        assert!(sent(&anthropic, headers("a\r\nx-evil: 1")).is_err());
    }

    #[test]
    fn no_more_providers_are_kept_ready_than_there_is_room_for() {
        let clients = clients();
        for id in 0..1000 {
            chat(&clients, &provider(id, "https://a.example/v1", "one"), "sk-1").unwrap();
            assert!((1..=MOST_CHATS).contains(&clients.chats().len()));
        }
    }
}
