//! What runs in the caller's session: thin functions that parse, ask core, send a frame and give
//! back the result.

mod admin;
mod answer;
mod catalogue;
mod chat;
mod cost;
mod deadline;
mod flush;
mod histogram;
mod identity;
mod jobs;
mod json;
mod keys;
mod link;
mod many;
mod models;
mod outbox;
mod owner;
#[cfg(feature = "pg_test")]
mod pg_tests;
mod provider;

mod quarantine;
mod queue;
pub mod raise;
mod request;
mod route;
mod script;
mod start;
mod stream;
mod usage;
mod wait;
