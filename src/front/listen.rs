//! Listening: at the address that is set, or trying to, for as long as it is set.

use crate::core::front::console::origins;
use crate::core::front::place::Place;
use crate::front::connection::{self, Peer};
use crate::front::listener::{Listener, Stream};
use crate::front::{Front, tls};
use crate::gateway::Http;
use crate::gateway::shared::until_true;
use crate::gateway::task::Task;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;

/// Between tries to have the address: the first pause, doubled each time, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After accepting has failed: out of descriptors, say.
const BREATH: Duration = Duration::from_millis(50);
/// Connections at one time.
const MOST_CONNECTIONS: usize = 4096;
/// For connections to say their last words when the worker stops: it has its calls to settle, too.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Times that each of them has its turn after that.
const LAST_ROUNDS: usize = 16;

/// Serves where the settings say, also after they have changed, until the worker stops.
pub async fn run(front: Arc<Front>) {
    let mut reloads = front.shared.reloads.subscribe();
    let mut stopping = front.shared.stopping.subscribe();
    let mut door =
        Door { front, open: None, connections: JoinSet::new(), pause: FIRST_PAUSE, retry_at: None };
    door.obey();
    loop {
        tokio::select! {
            accepted = accept(&door.open) => match accepted {
                Ok(stream) => door.let_in(stream),
                Err(_) => sleep(BREATH).await,
            },
            Some(_) = door.connections.join_next(), if !door.connections.is_empty() => {}
            () = until(door.retry_at) => door.open_as_set(),
            reloaded = reloads.changed() => {
                if reloaded.is_err() {
                    break;
                }
                door.obey();
            }
            () = until_true(&mut stopping) => break,
        }
    }
    door.close();
    let given_up = Instant::now() + LAST_WORDS;
    while let Ok(Some(_)) = timeout_at(given_up, door.connections.join_next()).await {}
    // A machine that is busy may not have let this thread run in that time: whoever can speak does so now.
    for _ in 0..LAST_ROUNDS {
        yield_now().await;
        while door.connections.try_join_next().is_some() {}
    }
}

/// The next connection, where there is listening.
async fn accept(open: &Option<Open>) -> io::Result<Stream> {
    match open {
        Some(open) => open.listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// The way in.
struct Door {
    front: Arc<Front>,
    open: Option<Open>,
    /// Also those of earlier places, which end what they are at.
    connections: JoinSet<()>,
    pause: Duration,
    /// When what is wanted and cannot be had is tried again.
    retry_at: Option<Instant>,
}

/// A place at which there is listening.
struct Open {
    place: Place,
    listener: Listener,
    tls: Option<TlsAcceptor>,
    /// Has its connections end.
    closing: watch::Sender<bool>,
}

impl Door {
    /// Does as the settings say from now on.
    fn obey(&mut self) {
        // Whoever has other keys of tokens knows nobody that the last ones did.
        let http = &self.front.shared.settings().http;
        let (_, problems) = origins::read(&http.console_origins);
        let problems =
            problems.iter().map(|problem| format!("aggregator.console_origins: {problem}"));
        for problem in self.front.callers.reload(http).into_iter().chain(problems) {
            log(&self.front, problem);
        }
        if let Err(problem) = &http.proxies {
            let problem =
                format!("no proxy is trusted: aggregator.http_trusted_proxies: {problem}");
            log(&self.front, problem);
        }
        self.pause = FIRST_PAUSE;
        self.open_as_set();
    }

    /// Listens where that is wanted, as it is wanted, if it can be.
    fn open_as_set(&mut self) {
        self.retry_at = None;
        let settings = self.front.shared.settings();
        let place = match wanted(&settings.http) {
            None => {
                self.close();
                self.front.shared.listening.is_at(None, None);
                return;
            }
            Some(Err(problem)) => {
                self.close();
                return fails(&self.front, &problem);
            }
            Some(Ok(place)) => place,
        };
        let wants_tls = settings.http.tls_certificate.is_some() || settings.http.tls_key.is_some();
        let url = place.url(wants_tls);
        let (tls, problem) = match self.tls(&place, &settings.http) {
            Ok(tls) => tls,
            Err(problem) => {
                self.close();
                fails(&self.front, &format!("{url}: {problem}"));
                return self.try_again();
            }
        };
        if let Err(error) = self.open_at(&place, tls.clone()) {
            fails(&self.front, &format!("{url}: {error}"));
            return self.try_again();
        }
        if self.front.shared.listening.is_at(Some(&url), problem.as_deref()) {
            if !place.is_local() && tls.is_none() {
                log(
                    &self.front,
                    format!("HTTP at {url} is not encrypted: put a proxy with TLS before it"),
                );
            }
            log(&self.front, format!("HTTP requests are taken at {url}"));
        }
    }

    /// How connections are encrypted, and what is wrong with it. As the server does with its own certificate, the
    /// last one that could be read serves on.
    fn tls(
        &self,
        place: &Place,
        http: &Http,
    ) -> Result<(Option<TlsAcceptor>, Option<String>), String> {
        let earlier = self.open.as_ref().and_then(|open| open.tls.clone());
        match (tls::read(http), earlier) {
            _ if matches!(place, Place::Unix(_)) => Ok((None, None)),
            (Ok(tls), _) => Ok((tls, None)),
            (Err(problem), Some(earlier)) => {
                let problem = format!("the last certificate is still in use: {problem}");
                log(&self.front, problem.clone());
                Ok((Some(earlier), Some(problem)))
            }
            (Err(problem), None) => Err(problem),
        }
    }

    /// Listens at a place. Where it was before is given up once the new one is there.
    fn open_at(&mut self, place: &Place, tls: Option<TlsAcceptor>) -> io::Result<()> {
        if let Some(open) = self.open.as_mut().filter(|open| open.place == *place) {
            if open.tls.is_some() != tls.is_some() {
                // What they say is no longer to be said so.
                open.closing.send_replace(true);
                open.closing = watch::Sender::new(false);
            }
            open.tls = tls;
            return Ok(());
        }
        let listener = match Listener::at(place) {
            // What is in the way can be ourselves: of 0.0.0.0, 127.0.0.1 is a part.
            Err(_) if self.open.is_some() => {
                self.close();
                Listener::at(place)
            }
            got => got,
        }?;
        self.close();
        let (place, closing) = (place.clone(), watch::Sender::new(false));
        self.open = Some(Open { place, listener, tls, closing });
        Ok(())
    }

    /// Listens no more. Connections end when they have answered what they are at.
    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.closing.send_replace(true);
        }
    }

    fn try_again(&mut self) {
        self.retry_at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn let_in(&mut self, stream: Stream) {
        let Some(open) = &self.open else { return };
        // Proxies ask for many, whose requests are counted.
        let address = stream.address();
        let counted = self.front.addresses.count(address.filter(|_| !self.front.trusts(address)));
        match counted {
            Some(counted) if self.connections.len() < MOST_CONNECTIONS => {
                let (front, closing) = (self.front.clone(), open.closing.subscribe());
                let tls = open.tls.clone();
                self.connections.spawn(async move {
                    let _counted = counted;
                    serve(front, stream, tls, closing).await;
                });
            }
            _ => stream.refuse(open.tls.is_none()),
        }
    }
}

/// Where to listen, or why that may not be.
fn wanted(http: &Http) -> Option<Result<Place, String>> {
    Some(match http.place.clone()? {
        Ok(place) if !place.is_local() && !http.allow_remote => Err(format!(
            "{place}: other machines can reach it, which needs aggregator.http_allow_remote"
        )),
        place => place,
    })
}

async fn serve(
    front: Arc<Front>,
    stream: Stream,
    tls: Option<TlsAcceptor>,
    closing: watch::Receiver<bool>,
) {
    match stream {
        Stream::Tcp(stream, from) => {
            let Ok(reached) = stream.local_addr() else { return };
            let (from, is_encrypted) = (Some(from), tls.is_some());
            let peer = Peer { reached: Some(reached), from, address: from, is_encrypted };
            connection::serve(front, stream, tls, peer, closing).await;
        }
        Stream::Unix(stream) => {
            connection::serve(front, stream, None, Peer::default(), closing).await;
        }
    }
}

fn log(front: &Front, line: String) {
    front.shared.ledger.send(Task::Log(line));
}

/// Notes why there is no listening, and says so once.
fn fails(front: &Front, problem: &str) {
    if front.shared.listening.fails(problem) {
        log(front, format!("no HTTP requests are taken: {problem}"));
    }
}
