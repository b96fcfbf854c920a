//! The asynchronous side of the worker: one thread that serves sessions and talks to providers.
//! It never touches PostgreSQL; what must be written goes to the main thread as a
//! [`task::Task`].

mod admission;
mod answer;
pub mod asked;
mod attempt;
mod batch;
mod body;
mod cache;
pub mod call;
mod catalogue;
mod checked;
mod checking;
mod checks;
pub mod clerks;
mod clients;
mod columns;
mod connection;
pub mod delivery;
mod departure;
mod exchange;
mod first_sync;
pub mod forgotten;
mod health;
mod heavy;
mod hidden;
mod http;
mod hub;
mod jobs;
mod keys;
pub mod leasing;
pub mod ledger;
pub mod listening;
pub mod memory;
mod outlet;
mod renewal;
mod resolver;
mod row;
mod running;
mod server;
mod settings;
pub mod shared;
mod spending;
pub mod stats;
mod syncing;
pub mod task;
mod watchdog;

pub use server::{Gateway, Handle};
pub use settings::{AnonymousUsers, Gateways, Http, Limits, Settings};
