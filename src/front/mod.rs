//! The HTTP endpoint: it reads requests and writes answers. What is in between is the gateway's, as it is for
//! sessions. It runs on the gateway's thread and never touches PostgreSQL.

mod addresses;
mod body;
mod caller;
mod calls;
mod chat;
mod connection;
mod console;
mod cors;
mod embeddings;
mod endpoints;
mod files;
mod form;
mod jobs;
mod kept;
mod leases;
mod listen;
mod listener;
mod messages;
mod metrics;
mod models;
mod patient;
mod pump;
mod questions;
mod reply;
mod responses;
mod routes;
mod tls;
mod writer;

use crate::clock::unix_micros;
use crate::error::Error;
use crate::gateway::shared::Shared;
use addresses::Addresses;
use caller::{Callers, Look, Rights};
use calls::Routes;
use metrics::Metrics;
use questions::Questions;
use std::net::IpAddr;
use std::sync::Arc;

/// What all connections share.
pub struct Front {
    pub shared: Arc<Shared>,
    questions: Questions,
    callers: Callers,
    routes: Routes,
    metrics: Metrics,
    addresses: Addresses,
}

impl Front {
    /// Whether the other side of a connection is a proxy that is believed for whom it asks.
    fn trusts(&self, from: Option<IpAddr>) -> bool {
        let settings = self.shared.settings();
        settings.http.proxies.as_ref().is_ok_and(|proxies| proxies.trust(from))
    }

    /// The generation of rights and routes. The ledger refuses a call that was routed by another one than that of
    /// when it is sent; where it is not waited for, the main thread is asked before.
    async fn look(&self, rights: Rights) -> Result<Look, Error> {
        let at = unix_micros();
        let generation = match rights == Rights::AsKept && self.shared.settings().ledger_sync {
            true => self.shared.generation(),
            false => caller::ask_generation(&self.shared.ledger).await?,
        };
        Ok(Look { generation, at })
    }

    /// Whether rights and routes are of another generation by now.
    async fn has_changed(&self, generation: u64) -> bool {
        caller::ask_generation(&self.shared.ledger).await.is_ok_and(|now| now != generation)
    }
}

/// Serves for as long as the gateway runs: where the settings say, or nowhere.
pub async fn run(shared: Arc<Shared>) {
    let (callers, routes, metrics) = (Callers::default(), Routes::default(), Metrics::default());
    let addresses = Addresses::default();
    let questions = Questions::new(shared.ledger.clone());
    let front = Front { shared, questions, callers, routes, metrics, addresses };
    listen::run(Arc::new(front)).await;
}
