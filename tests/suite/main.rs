//! Tests from outside: real connections to real clusters, with stand-in upstreams.

mod bad_input;
mod bed;
mod chat;
mod lifecycle;
mod rls;
mod upstream;
