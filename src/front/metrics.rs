//! What is counted of the endpoint, for Prometheus. No label holds a user, a key, or a name that a client chose.

use crate::core::front::failure::Failure;
use crate::core::front::path::Route;
use crate::front::Front;
use crate::front::connection::Peer;
use crate::front::reply::{self, Body};
use crate::gateway::shared::Shared;
use crate::protocol::ChatReply;
use http::Response;
use http::request::Parts;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// As Prometheus asks for it; the form is that of OpenMetrics.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Providers with a label of their own, of which users may make more; those that come later are one.
const MOST_PROVIDERS: usize = 32;
const LONGEST_PROVIDER: usize = 64;
const OTHER: &str = "other";

/// Seconds until the head of an answer.
const BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: Name,
    status: Class,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Routed {
    route: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Called {
    provider: String,
    outcome: Name,
}

/// One of the words of this file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name(&'static str);

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.0)
    }
}

/// The hundred of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Class(u16);

impl EncodeLabelValue for Class {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(encoder, "{}xx", self.0)
    }
}

/// What proxies say of those for whom they ask.
const PROXIED: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];

/// Answers whoever asks on this machine, and no proxy on it that asks for somebody else; and readers from anywhere.
pub async fn tell(front: &Front, parts: &Parts, peer: Peer) -> Result<Response<Body>, Failure> {
    let is_here = peer.from.is_none_or(|from| from.is_loopback());
    if !is_here || PROXIED.iter().any(|name| parts.headers.contains_key(*name)) {
        front.callers.check_reader(front, peer, &parts.headers).await?;
    }
    Ok(reply::text(CONTENT_TYPE, front.metrics.tell(&front.shared)))
}

/// What is counted.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Routed, Histogram>,
    calls: Family<Called, Counter>,
    attempts: Counter,
    cache_hits: Counter,
    cache_misses: Counter,
    in_flight: Gauge,
    waiting: Gauge,
    ledger_queue: Gauge,
    stall: Gauge,
    providers: Mutex<BTreeSet<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("aggregator");
        let requests = Family::<Answered, Counter>::default();
        let of_buckets: fn() -> Histogram = || Histogram::new(BUCKETS);
        let durations = Family::new_with_constructor(of_buckets);
        let calls = Family::<Called, Counter>::default();
        let [attempts, cache_hits, cache_misses] = [(); 3].map(|()| Counter::default());
        let [in_flight, waiting, ledger_queue, stall] = [(); 4].map(|()| Gauge::default());
        registry.register("http_requests", "Requests over HTTP", requests.clone());
        let about = "Until the head of the answer to a request over HTTP";
        registry.register_with_unit("http_head", about, Unit::Seconds, durations.clone());
        registry.register("http_calls", "Chat calls over HTTP, by who answered", calls.clone());
        let about = "Requests to providers for chat calls over HTTP";
        registry.register("http_attempts", about, attempts.clone());
        let about = "Calls that a kept answer has answered, of sessions and jobs too";
        registry.register("cache_hits", about, cache_hits.clone());
        let about = "Calls that looked for a kept answer in vain";
        registry.register("cache_misses", about, cache_misses.clone());
        for (name, about, gauge) in [
            ("in_flight", "Requests that are not answered yet, of sessions too", &in_flight),
            ("waiting", "Chat calls that wait for a concurrency limit", &waiting),
            ("ledger_queue", "What waits to be written to the ledger", &ledger_queue),
            ("stall_milliseconds", "The longest that the gateway was held lately", &stall),
        ] {
            registry.register(name, about, gauge.clone());
        }
        Self {
            registry,
            requests,
            durations,
            calls,
            attempts,
            cache_hits,
            cache_misses,
            in_flight,
            waiting,
            ledger_queue,
            stall,
            providers: Mutex::default(),
        }
    }
}

impl Metrics {
    /// A request was answered. `None`: it was for no endpoint.
    pub fn answered(&self, route: Option<&Route>, status: u16, took: Duration) {
        let route = Name(name(route));
        self.requests.get_or_create(&Answered { route, status: Class(status / 100) }).inc();
        self.durations.get_or_create(&Routed { route }).observe(took.as_secs_f64());
    }

    /// A call has ended.
    pub fn called(&self, reply: &ChatReply) {
        self.attempts.inc_by(reply.attempts.into());
        let (provider, outcome) = match &reply.outcome {
            Ok(answer) => (Some(answer.provider.as_str()), "success"),
            Err(error) => (error.target().map(|target| target.provider.as_str()), "error"),
        };
        let provider = provider.map_or_else(|| "none".to_owned(), |name| self.provider(name));
        self.calls.get_or_create(&Called { provider, outcome: Name(outcome) }).inc();
    }

    /// The label of a provider.
    fn provider(&self, name: &str) -> String {
        let mut known = self.providers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = known.contains(name);
        if !is_known && (known.len() >= MOST_PROVIDERS || name.len() > LONGEST_PROVIDER) {
            return OTHER.to_owned();
        }
        if !is_known {
            known.insert(name.to_owned());
        }
        // The library writes a label as it is.
        name.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
    }

    /// All of it.
    pub fn tell(&self, shared: &Shared) -> String {
        let status = shared.status();
        for (gauge, value) in [
            (&self.in_flight, status.in_flight),
            (&self.waiting, status.waiting),
            (&self.ledger_queue, status.ledger_queue),
            (&self.stall, status.stall_ms),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        let (hits, misses) = shared.cache.counts();
        for (counter, now) in [(&self.cache_hits, hits), (&self.cache_misses, misses)] {
            // Another scrape may have told it already.
            counter.inc_by(now.saturating_sub(counter.get()));
        }
        let mut out = String::new();
        // A text takes whatever is written to it.
        let _ = encode(&mut out, &self.registry);
        out
    }
}

fn name(route: Option<&Route>) -> &'static str {
    match route {
        Some(Route::ChatCompletions) => "chat_completions",
        Some(Route::Responses) => "responses",
        Some(Route::Messages) => "messages",
        Some(Route::CountTokens) => "count_tokens",
        Some(Route::Embeddings) => "embeddings",
        Some(Route::Models | Route::Model(_)) => "models",
        Some(Route::SubmitJob | Route::Job(_) | Route::CancelJob(_)) => "jobs",
        Some(Route::Health | Route::Ready) => "health",
        Some(Route::Leases) => "leases",
        Some(Route::Metrics) => "metrics",
        Some(Route::ConsoleRoot | Route::Console(_) | Route::ConsoleApi(_)) => "console",
        Some(Route::Preflight) => "preflight",
        None => "none",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::retry::Sent;
    use crate::error::Error;
    use crate::protocol::ChatAnswer;

    fn called(metrics: &Metrics, provider: &str) {
        let answer = ChatAnswer {
            provider: provider.to_owned(),
            response: String::new(),
            served_model: String::new(),
            settled: Default::default(),
            native: None,
        };
        let sent = Sent::PerhapsPaid;
        metrics.called(&ChatReply {
            outcome: Ok(answer),
            attempts: 2,
            latency_ms: 1,
            sent,
            spent: None,
        });
    }

    fn text(metrics: &Metrics) -> String {
        let mut out = String::new();
        encode(&mut out, &metrics.registry).unwrap();
        out
    }

    #[test]
    fn labels_are_bounded_whatever_providers_are_called() {
        let metrics = Metrics::default();
        for number in 0..1000 {
            called(&metrics, &format!("p{number}"));
        }
        called(&metrics, &"x".repeat(LONGEST_PROVIDER + 1));
        called(&metrics, "p1");
        let told = text(&metrics);
        let lines = told.lines().filter(|line| line.starts_with("aggregator_http_calls_total"));
        assert_eq!(lines.count(), MOST_PROVIDERS + 1, "{told}");
        let other = format!(r#"provider="other",outcome="success"}} {}"#, 1001 - MOST_PROVIDERS);
        assert!(told.contains(&other), "{told}");
        assert!(told.contains("aggregator_http_attempts_total 2004"), "{told}");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let metrics = Metrics::default();
        called(&metrics, "a\"} 1\nevil{x=\"\\");
        let told = text(&metrics);
        assert!(told.contains(r#"provider="a\"} 1\nevil{x=\"\\",outcome"#), "{told}");
        assert!(!told.contains("\nevil"), "{told}");
    }

    #[test]
    fn requests_are_counted_by_route_and_class() {
        let metrics = Metrics::default();
        metrics.answered(Some(&Route::Model("secret-model".to_owned())), 404, Duration::ZERO);
        metrics.answered(None, 404, Duration::from_millis(30));
        let error = Error::Unsupported { what: "x".to_owned() };
        let sent = Sent::Nothing;
        metrics.called(&ChatReply {
            outcome: Err(error),
            attempts: 0,
            latency_ms: 1,
            sent,
            spent: None,
        });
        let told = text(&metrics);
        for line in [
            r#"aggregator_http_requests_total{route="models",status="4xx"} 1"#,
            r#"aggregator_http_requests_total{route="none",status="4xx"} 1"#,
            r#"aggregator_http_head_seconds_bucket{le="0.05",route="none"} 1"#,
            r#"aggregator_http_calls_total{provider="none",outcome="error"} 1"#,
        ] {
            assert!(told.contains(line), "{line} in {told}");
        }
        assert!(!told.contains("secret-model") && told.ends_with("# EOF\n"), "{told}");
    }
}
