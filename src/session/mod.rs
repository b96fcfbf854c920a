//! What runs in the caller's session: thin functions that parse, ask core, send a frame and give
//! back the result.

mod admin;
pub mod ai_columns;
mod catalogue;
mod chat;
mod console;
mod cost;
mod deadline;
mod embed;
mod flush;
mod forget;
mod gateway_keys;
mod gateways;
mod histogram;
pub mod hush;
mod identity;
mod jobs;
pub mod json;
mod keys;
mod link;
mod locks;
mod many;
mod models;
mod outbox;
mod own_models;
pub mod owner;
#[cfg(feature = "pg_test")]
mod pg_tests;
mod provider;

mod quarantine;
mod queue;
pub mod raise;
mod reference;
mod request;
mod rotation;
mod route;
mod script;
mod start;
mod stream;
mod usage;
mod wait;
mod writable;
