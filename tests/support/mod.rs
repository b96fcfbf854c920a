//! What tests run on: clusters and their databases, mock providers, a client that sees rows arrive, and what many tests
//! begin with.

pub mod bed;
pub mod fixtures;
pub mod upstream;
pub mod wire;
