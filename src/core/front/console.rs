//! What the console may ask of the database: statements of ours by their names, with values for their parameters.
//! Nothing of a request becomes part of a statement's text.

pub mod arguments;
pub mod origins;
pub mod statements;
pub mod told;
