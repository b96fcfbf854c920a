//! The answers of the response cache, as the main thread has them: a batch in one transaction, of which nothing need
//! be on disk.

use crate::core::secret::Print;
use crate::error::Error;
use crate::fresh::required;
use crate::gateway::task::{AnswerAsked, AnswerFound, AnswerKept};
use crate::routing::pg_uuid;
use crate::worker::process;
use crate::worker::statements::Statements;
use crate::{route_cache, settings};
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, OwnedPreparedStatement, Spi, SpiClient};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What a row takes beside the answer, with its places in the indexes.
const OVERHEAD: usize = 512;
/// Rows that are dropped by one statement, and statements in one transaction: what is beyond goes with the next.
const AT_ONCE: i32 = 256;
const MOST_DROPS: usize = 16;
const EXPIRED_AT_ONCE: i32 = 1024;
/// How often what is kept is counted: that reads an index, and is not for every minute.
const RECOUNT: Duration = Duration::from_secs(60 * 60);
/// Of what may be kept, so much is made room for at one time.
const MARGIN: usize = 16;

/// Whoever waits for an answer, and for which.
pub type Asking = (Box<AnswerAsked>, oneshot::Sender<Result<Option<AnswerFound>, Error>>);

/// What is kept, as far as is known: never less than there is. What others delete is noticed when it is counted anew.
#[derive(Debug, Default)]
pub struct Answers {
    /// Bytes, and when they were counted. `None`: not yet.
    size: Option<(usize, Instant)>,
}

impl Answers {
    /// Keeps answers, and drops the oldest beyond what may be kept. What cannot be kept is asked for again.
    pub fn keep(&mut self, statements: &Statements, kept: &[Box<AnswerKept>]) {
        if kept.is_empty() {
            return;
        }
        let known = self.size;
        let most = settings::cache_size();
        let written = process::fleeting_transaction(|_| {
            Spi::connect_mut(|client| {
                let (before, counted_at) = match known {
                    Some(known) => known,
                    None => (count(client, statements)?, Instant::now()),
                };
                let mut size = before;
                for answer in kept {
                    let older = write(client, statements, answer)?;
                    size = size.saturating_add(size_of(answer)).saturating_sub(older);
                }
                Ok((evict(client, statements, size, most)?, counted_at))
            })
        });
        match written {
            Ok(size) => self.size = Some(size),
            Err(failure) => {
                self.size = None;
                pgrx::warning!("aggregator: answers are not kept: {failure:?}");
            }
        }
    }

    /// Drops what is no longer good, some at a time, and more than may be kept.
    pub fn sweep(&mut self, statements: &Statements) {
        let known = self.size;
        let most = settings::cache_size();
        let swept = process::fleeting_transaction(|_| {
            Spi::connect_mut(|client| {
                let arguments = [EXPIRED_AT_ONCE.into()];
                let expired = dropped(client, &statements.expire_answers, &arguments)?.0;
                // Also where nothing has been kept yet: what an earlier worker has kept may be more than may be now.
                let (size, counted_at) = match known {
                    Some((size, counted_at)) if counted_at.elapsed() <= RECOUNT => {
                        (size.saturating_sub(expired), counted_at)
                    }
                    _ => (count(client, statements)?, Instant::now()),
                };
                Ok(Some((evict(client, statements, size, most)?, counted_at)))
            })
        });
        self.size = swept.unwrap_or_default();
    }
}

/// Answers everybody who asks. Whom that fails for is told so by the end of the channel, and asks upstream.
pub fn find(statements: &Statements, asking: Vec<Asking>) {
    let answered = process::fleeting_transaction(|_| {
        let generation = route_cache::generation();
        Spi::connect(|client| {
            for (asked, reply) in asking {
                // Who may call, or who may answer, has changed since.
                if asked.generation.is_some_and(|of| of != generation) {
                    let _ = reply.send(Err(Error::Stale));
                } else if !reply.is_closed() {
                    let _ = reply.send(Ok(look(client, statements, &asked)?));
                }
            }
            Ok(())
        })
    });
    if let Err(failure) = answered {
        pgrx::warning!("aggregator: kept answers cannot be read: {failure:?}");
    }
}

fn look(
    client: &SpiClient,
    statements: &Statements,
    asked: &AnswerAsked,
) -> spi::Result<Option<AnswerFound>> {
    let prints: Vec<&[u8]> = asked.prints.iter().map(|print| print.0.as_slice()).collect();
    let arguments: [DatumWithOid<'_>; 2] = [prints.into(), f64::from(asked.ttl_s).into()];
    let mut rows = client.select(&statements.find_answer, Some(1), &arguments)?;
    let Some(row) = rows.next() else { return Ok(None) };
    let print: Vec<u8> = required(&row, 1)?;
    let Ok(print) = print.try_into() else { return Ok(None) };
    let (answer, age_s) = (required(&row, 2)?, required(&row, 3)?);
    Ok(Some(AnswerFound { print: Print(print), answer, age_s }))
}

/// Says how large the one was whose place it takes.
fn write(client: &mut SpiClient, statements: &Statements, kept: &AnswerKept) -> spi::Result<usize> {
    let arguments: [DatumWithOid<'_>; 8] = [
        kept.print.0.as_slice().into(),
        kept.user_id.as_str().into(),
        pg_uuid(kept.provider_id).into(),
        kept.model_id.as_str().into(),
        kept.is_shared.into(),
        kept.answer.as_slice().into(),
        i32::try_from(size_of(kept)).unwrap_or(i32::MAX).into(),
        f64::from(kept.ttl_s).into(),
    ];
    let older =
        client.update(&statements.keep_answer, None, &arguments)?.first().get_one::<i32>()?;
    Ok(older.and_then(|older| usize::try_from(older).ok()).unwrap_or(0))
}

fn size_of(kept: &AnswerKept) -> usize {
    kept.answer.len() + kept.user_id.len() + kept.model_id.len() + OVERHEAD
}

fn count(client: &SpiClient, statements: &Statements) -> spi::Result<usize> {
    let size = client.select(&statements.count_answers, Some(1), &[])?.first().get_one::<i64>()?;
    Ok(size.and_then(|size| usize::try_from(size).ok()).unwrap_or(0))
}

/// Drops the oldest until so much is left as may be, and a little less. Says how much that is.
fn evict(
    client: &mut SpiClient,
    statements: &Statements,
    mut size: usize,
    most: usize,
) -> spi::Result<usize> {
    let left = if size > most { most - most / MARGIN } else { most };
    for _ in 0..MOST_DROPS {
        if size <= left {
            break;
        }
        let beyond = i64::try_from(size - left).unwrap_or(i64::MAX);
        let arguments = [AT_ONCE.into(), beyond.into()];
        let (bytes, rows) = dropped(client, &statements.evict_answers, &arguments)?;
        if rows == 0 {
            return Ok(0);
        }
        size = size.saturating_sub(bytes);
    }
    Ok(size)
}

/// Runs a statement that drops rows: how many bytes and rows that were.
fn dropped(
    client: &mut SpiClient,
    statement: &OwnedPreparedStatement,
    arguments: &[DatumWithOid<'_>],
) -> spi::Result<(usize, usize)> {
    let (mut bytes, mut rows) = (0, 0);
    for row in client.update(statement, None, arguments)? {
        let size: i32 = required(&row, 1)?;
        bytes += usize::try_from(size).unwrap_or(0);
        rows += 1;
    }
    Ok((bytes, rows))
}
