//! Embeddings: texts go in, and for each a vector of numbers comes out. They are asked for in OpenAI's form, which
//! nearly everybody has who computes them, and paid for by what goes in.

pub mod answer;
pub mod batch;
mod parameters;
pub mod request;
#[cfg(test)]
mod tests;
pub mod vector;

pub use parameters::{MEMBERS, find};

use serde::{Deserialize, Serialize};

/// Inputs of one request at the most, as OpenAI's.
pub const MOST_PER_REQUEST: usize = 2048;
/// Inputs of one statement at the most.
pub const MOST_PER_STATEMENT: usize = 50_000;
/// Bytes of one input at the most: many times what any model reads of it.
pub const LONGEST_INPUT: usize = 1 << 20;
/// Numbers of a vector at the most: more than any model gives.
pub const MOST_DIMENSIONS: usize = 32_768;

/// What is asked of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    #[default]
    Chat,
    Embeddings,
}

/// What an answer must have, by what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Inputs, each of which has one vector.
    pub inputs: usize,
    /// Numbers of each, where the request says.
    pub dimensions: Option<usize>,
}

impl Wanted {
    /// Of how many inputs an answer of so many bytes can hold the vectors, in base64. `None`: nobody knows.
    pub fn most_inputs(self, bytes: usize) -> Option<usize> {
        self.dimensions.map(|dimensions| bytes / (4 * dimensions).div_ceil(3).max(1) / 4)
    }
}
