//! What a clerk does for an AI column: it takes rows that are due, writes what became of them, and queues rows that
//! were there before the column. What is the extension's own it does as the owner of that; what is the user's it
//! reads and writes as the role that has defined the column.

use crate::core::front::console::told::Raised;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

/// How long a transaction may take that reads or writes a user's table, and one of our own tables alone.
pub const TIME: Duration = Duration::from_secs(10);
pub const OWN_TIME: Duration = Duration::from_secs(5);

/// Rows of one question, and bytes of what is read or written with them.
pub const MOST_ROWS: usize = 1024;
pub const MOST_BYTES: usize = 4 << 20;

/// A piece of work for one column.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ColumnQuestion {
    /// Oid of the extension that is served.
    pub extension: u32,
    /// This life of the worker.
    pub epoch: i64,
    pub column: Uuid,
    pub unit: Unit,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Unit {
    Take {
        /// Nothing of this column is in memory: what is said to run does not.
        is_first: bool,
        most: u32,
        bytes: u64,
    },
    Write {
        done: Vec<Done>,
        /// What is to be noted of the column itself.
        note: Option<Note>,
    },
    Backfill,
}

impl Unit {
    /// The longest that its transactions may take together.
    pub fn patience(&self) -> Duration {
        match self {
            Self::Take { .. } => OWN_TIME + TIME,
            Self::Write { .. } | Self::Backfill => TIME,
        }
    }

    /// As `pg_stat_activity` tells of it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Take { .. } => "take",
            Self::Write { .. } => "write",
            Self::Backfill => "backfill",
        }
    }
}

/// A row that was taken, by the text of each part of its primary key, as of the transaction that changed it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub key: Vec<String>,
    pub version: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    pub entry: Entry,
    pub became: Became,
}

/// What became of a row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Became {
    Value(Value),
    /// The row is not there any more.
    Gone,
    /// Why, as JSON.
    Failed(String),
    /// Queued once more, after so many milliseconds. Where that was no fault of the row's, it is not counted.
    Again {
        after_ms: u64,
        is_counted: bool,
        error: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Value {
    Null,
    Text(String),
    Json(String),
    Vector(Vec<f32>),
}

impl Value {
    /// In bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Text(text) | Self::Json(text) => text.len(),
            Self::Vector(numbers) => 4 * numbers.len(),
        }
    }
}

impl Done {
    /// About how many bytes it takes in a frame.
    pub fn size(&self) -> usize {
        let key: usize = self.entry.key.iter().map(String::len).sum();
        let became = match &self.became {
            Became::Value(value) => value.size(),
            Became::Failed(error) => error.len(),
            Became::Again { error, .. } => error.as_ref().map_or(0, String::len),
            Became::Gone => 0,
        };
        64 + key + became
    }
}

/// What is noted of a column.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Note {
    /// Nothing of it is taken for so many milliseconds, and why.
    Wait { for_ms: u64, error: String },
    /// It waits for nothing any more.
    Goes,
}

/// What came of a unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Told {
    Taken(Box<Taken>),
    /// Nothing is to be done for the column now: it is paused, waits or is gone.
    Idle,
    /// The places of those that somebody holds a lock on: they are to be offered again. Whether the note was written:
    /// not where somebody holds the column.
    Written {
        held: Vec<u32>,
        is_noted: bool,
    },
    /// How many rows were queued, and whether there may be more to look at.
    Backfilled {
        queued: u32,
        goes_on: bool,
    },
}

/// What is asked of whom, as it is defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub user_id: String,
    /// embed, chat or json.
    pub kind: String,
    pub model: String,
    pub provider: Option<String>,
    /// The request without what changes from row to row.
    pub request: String,
    pub concurrency: u32,
    pub batch_size: u32,
    /// The table and the column, for the usage log.
    pub label: String,
    /// How often a row is tried.
    pub max_attempts: u32,
    pub backfills: bool,
    /// It has waited for something.
    pub has_waited: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Taken {
    pub definition: Definition,
    pub rows: Vec<TakenRow>,
    /// As many were taken as were asked for.
    pub has_more: bool,
    /// Why some rows could not be read, where that is no row's own fault.
    pub trouble: Option<Raised>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TakenRow {
    pub entry: Entry,
    /// This one included.
    pub attempts: u32,
    pub input: Input,
}

/// What a row's expression gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Input {
    Text(String),
    /// NULL or ''.
    Nothing,
    /// The row is not there any more.
    Gone,
    TooLong {
        bytes: u64,
    },
    Failed(Raised),
    /// There was no room or no time for it.
    Unread,
}
