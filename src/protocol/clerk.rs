//! The frames between the gateway and a clerk, over a socket beside the worker's own: the gateway asks, the clerk
//! answers, one question at a time. A clerk leaves when the connection is closed.

use super::columns::{ColumnQuestion, Told};
use super::{DIRECTORY, VERSION};
use crate::core::front::console::told::Raised;
use serde::{Deserialize, Serialize};

/// No question and no answer is larger.
pub const MAX_FRAME: usize = 8 << 20;

/// Where the worker of a database waits for its clerks.
pub fn socket_path(database: u32) -> String {
    format!("{DIRECTORY}/aggregator.{database}.v{VERSION}.clerks.sock")
}

/// Whom a clerk acts for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    pub user_id: String,
    /// The database role as which everything runs.
    pub role: String,
    /// The user has signed in without saying who they are.
    pub is_anonymous: bool,
}

/// What a clerk is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Asked {
    Statement(Question),
    Column(ColumnQuestion),
}

/// A statement to run. Its text is not sent: the clerk has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Question {
    /// Oid of the extension that is served.
    pub extension: u32,
    pub principal: Principal,
    pub statement: String,
    /// A JSON object.
    pub arguments: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// What the statement gave, which is JSON. What it wrote is committed.
    Given(String),
    /// What came of a piece of work for an AI column.
    Told(Told),
    /// Nothing of it is written.
    Failed(Raised),
}
