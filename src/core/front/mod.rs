//! What stands between HTTP clients and the gateway: who they are, what they say, and how they are answered.

pub mod console;
pub mod cors;
pub mod credential;
pub mod event;
pub mod failure;
#[cfg(test)]
mod fuzz;
pub mod gateway_key;
pub mod limits;
pub mod opaque;
pub mod openai;
pub mod path;
pub mod place;
pub mod proxies;
pub mod responses;
pub mod session;
pub mod throttle;
pub mod token;
pub(super) mod write;
