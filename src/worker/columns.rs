//! AI columns as the main thread has them: which of them have something to do. It looks into our own tables alone;
//! what is in users' tables, a clerk reads and writes.

use crate::fresh::{self, required};
use crate::gateway::Handle;
use crate::routing::pg_uuid;
use crate::worker::process;
use crate::worker::statements::Statements;
use pgrx::spi::{self, Spi};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Without being told, how often columns are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// Between looks at the least, however often somebody tells.
const PAUSE: Duration = Duration::from_millis(5);

pub struct Columns {
    look_at: Instant,
    looked_at: Instant,
    /// The last column that the last look gave.
    turn: Uuid,
}

impl Columns {
    pub fn new() -> Self {
        Self { look_at: Instant::now(), looked_at: Instant::now(), turn: Uuid::nil() }
    }

    /// Something may be due by now.
    pub fn written(&mut self) {
        self.look_at = Instant::now().max(self.looked_at + PAUSE);
    }

    /// How long nothing has to be done. `None`: for long.
    pub fn patience(&self) -> Option<Duration> {
        let left = self.look_at.saturating_duration_since(Instant::now());
        (left < LOOK / 2).then_some(left)
    }

    /// Has the gateway work on what is due. Says whether there was anything.
    pub fn work(&mut self, statements: &Statements, gateway: &Handle) -> bool {
        if Instant::now() < self.look_at {
            return false;
        }
        self.looked_at = Instant::now();
        self.look_at = self.looked_at + LOOK;
        let at_work: Vec<pgrx::Uuid> = gateway.columns_at_work().into_iter().map(pg_uuid).collect();
        let turn = pg_uuid(self.turn);
        let due = process::transaction(|_| {
            Spi::connect(|client| {
                let arguments = [at_work.into(), turn.into()];
                client
                    .select(&statements.due_columns, None, &arguments)?
                    .map(|row| Ok((fresh::uuid(&row, 1)?, required::<String>(&row, 2)?)))
                    .collect::<spi::Result<Vec<_>>>()
            })
        });
        // A lock on the table is somebody's mistake; the next look comes soon.
        let due = due.unwrap_or_default();
        if let Some((last, _)) = due.last() {
            self.turn = *last;
        }
        let has_any = !due.is_empty();
        if has_any {
            gateway.work_on_columns(due);
        }
        has_any
    }

    /// Whether rows wait for a column that is not paused: then the worker stays.
    pub fn any_unfinished(&self, statements: &Statements) -> bool {
        process::transaction(|_| {
            Spi::connect(|client| {
                client.select(&statements.any_columns, Some(1), &[])?.first().get_one::<bool>()
            })
        })
        .is_ok_and(|any| any == Some(true))
    }
}
