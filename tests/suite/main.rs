//! Tests from outside: real connections to real clusters, with stand-in upstreams.

mod bad_input;
mod bed;
mod catalogue;
mod chat;
mod cost;
mod dump;
mod guard;
mod lifecycle;
mod readme;
mod rls;
mod schema;
mod secrets;
mod upstream;
