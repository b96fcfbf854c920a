//! What runs in the caller's session: thin functions that parse, ask core, send a frame and give
//! back the result.

mod admin;
mod catalogue;
mod chat;
mod cost;
mod deadline;
mod identity;
mod json;
mod keys;
mod link;
mod owner;
#[cfg(feature = "pg_test")]
mod pg_tests;
mod provider;
pub mod raise;
mod route;
mod start;
mod wait;
