//! Pure rules: no PostgreSQL, no I/O, no clock. Everything here can be tested with plain values.

pub mod address;
pub mod bound;
pub mod budget;
pub mod calls;
pub mod catalogue;
pub mod cost;
pub mod estimate;
pub mod failure;
pub mod fair;
pub mod front;
#[cfg(test)]
mod fuzz;
pub mod headers;
pub mod health;
pub mod histogram;
pub mod hush;
pub mod identity;
pub mod jobs;
pub mod json;
pub mod mend;
pub mod model;
pub mod options;
pub mod parameters;
pub mod price;
pub mod rate;
pub mod refusal;
pub mod reply;
pub mod request;
pub mod retry;
pub mod rollup;
pub mod scan;
pub mod secret;
pub mod sse;
pub mod standard;
pub mod stream;
pub mod tags;
pub mod usage;
