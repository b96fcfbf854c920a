//! Tests from outside: real connections to real clusters, with stand-in upstreams.

mod anthropic;
mod bad_input;
mod bed;
mod catalogue;
mod chat;
mod cost;
mod crash;
mod dump;
mod fallback;
mod guard;
mod health;
mod job_access;
mod job_load;
mod jobs;
mod lifecycle;
mod limits;
mod many;
mod readme;
mod reports;
mod rls;
mod schema;
mod secrets;
mod stream;
mod stream_ends;
mod upstream;
mod wire;
