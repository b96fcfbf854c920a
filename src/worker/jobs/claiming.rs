//! Claiming what is due, in turns of the users, and what the gateway needs to run it.

use super::ending::{Ended, finish};
use super::{CLAIMS, Jobs, some_more};
use crate::core::budget::Rules;
use crate::core::fair;
use crate::core::options::Prepared;
use crate::core::tags::Labels;
use crate::error::Error;
use crate::fresh::{self, required};
use crate::gateway::Handle;
use crate::gateway_keys;
use crate::installed::Installed;
use crate::protocol::{ChatCall, Checking, Whose};
use crate::route_cache;
use crate::routing;
use crate::time;
use crate::worker::process::{self, Failure};
use crate::worker::statements::Statements;
use pgrx::datum::DatumWithOid;
use pgrx::spi::{self, Spi, SpiClient};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Bounded work between two ledger commits, beside the jobs themselves: users that one look passes, those of them
/// whose jobs it takes, and bytes of requests.
const WALK: usize = 4096;
const USERS: usize = 64;
const CLAIMED_BYTES: i64 = 32 << 20;
/// Between two looks, where the last one found little.
const PAUSE: Duration = Duration::from_millis(20);

/// A job as it was claimed.
struct Claimed {
    id: Uuid,
    user: String,
    provider: Option<String>,
    request: String,
    earlier_attempts: u16,
    gateway_key: Option<Uuid>,
}

/// What a look at the queue gave.
#[derive(Default)]
struct Look {
    ready: Vec<(String, ChatCall)>,
    /// Jobs that cannot be run, and their ends are written.
    failed: Vec<Uuid>,
    turn: String,
    /// Every user was passed.
    is_whole: bool,
}

impl Look {
    /// Adds jobs that were leased; those that cannot be run are ended.
    fn take(
        &mut self,
        client: &mut SpiClient,
        statements: &Statements,
        installed: &Installed,
        claimed: Vec<Claimed>,
    ) -> spi::Result<()> {
        let mut failed = Vec::new();
        for (user, job, call) in prepare(client, installed, claimed) {
            match call {
                Ok(call) => self.ready.push((user, call)),
                Err(error) => failed.push((job, error)),
            }
        }
        let ends: Vec<Ended<'_>> =
            failed.iter().map(|(job, error)| Ended { job: *job, outcome: Err(error) }).collect();
        finish(client, statements, &ends)?;
        self.failed.extend(failed.iter().map(|(job, _)| job));
        Ok(())
    }
}

impl Jobs {
    /// Leases due jobs, commits that, and hands them to the gateway.
    ///
    /// That is not flushed here: before a request leaves, its pending row is, and with it all that was committed before.
    /// After a crash between, the job is queued as it was, and nothing was sent. Only the end of a job is told at once.
    pub(super) fn claim(&mut self, statements: &Statements, gateway: &Handle) -> bool {
        self.freed = 0;
        let room = some_more(self.limits.all).saturating_sub(self.claimed.len()).min(CLAIMS);
        if room == 0 {
            // Until one has ended.
            self.is_hungry = false;
            return false;
        }
        let looked = process::passing_transaction_by_keys(|installed| {
            Spi::connect_mut(|client| self.look(client, statements, installed, gateway, room))
        });
        let Look { ready, failed, turn, is_whole } = match looked {
            Ok(look) => look,
            // Somebody's job, or what it needs, cannot be read: it must not hold up the others.
            Err(Failure::Data(reason)) => {
                pgrx::warning!("aggregator: jobs are claimed one by one: {reason}");
                self.look_alone(statements, gateway)
            }
            Err(failure) => {
                pgrx::warning!("aggregator: jobs cannot be claimed: {failure:?}");
                self.is_hungry = false;
                return false;
            }
        };
        self.turn = turn;
        // Until a look at everybody finds nothing.
        let taken = ready.len() + failed.len();
        self.is_hungry = taken > 0 || !is_whole;
        // Where there was much, there is more; where there was nothing, the walk goes on.
        let goes_on = taken >= CLAIMS / 4 || (taken == 0 && !is_whole);
        self.claim_at = Instant::now() + if goes_on { Duration::ZERO } else { PAUSE };
        if !failed.is_empty()
            && let Err(failure) = process::flush()
        {
            pgrx::warning!("aggregator: ends of jobs are not on disk yet: {failure:?}");
        }
        self.ended.extend(failed);
        let mut calls = Vec::new();
        for (user, call) in ready {
            *self.busy.entry(user.clone()).or_default() += 1;
            self.claimed.insert(call.call_id, user);
            calls.push(call);
        }
        let has_any = !calls.is_empty();
        if has_any {
            gateway.run_jobs(calls);
        }
        has_any
    }

    /// How many more jobs of this user may be taken.
    fn spare(&self, user: &String) -> usize {
        let own = self.busy.get(user).copied().unwrap_or(0);
        let all = some_more(self.limits.all);
        let most = fair::most(all, self.claimed.len().saturating_sub(own));
        some_more(self.limits.per_user).min(most).saturating_sub(own)
    }

    fn look(
        &self,
        client: &mut SpiClient,
        statements: &Statements,
        installed: &Installed,
        gateway: &Handle,
        room: usize,
    ) -> spi::Result<Look> {
        let (users, reached, is_whole) =
            self.users(client, statements, |user| self.spare(user) > 0)?;
        let most: Vec<usize> = users.iter().map(|user| self.spare(user)).collect();
        let mut look = Look { turn: reached, is_whole, ..Look::default() };
        let mut claimed = Vec::new();
        for (user, share) in users.iter().zip(fair::shares(room, &most)) {
            if share > 0 {
                let memory = gateway.room(user);
                self.lease(client, statements, user, (share, memory), &mut claimed)?;
                look.turn.clone_from(user);
            }
        }
        look.take(client, statements, installed, claimed)?;
        Ok(look)
    }

    /// One job of each user, each in a transaction of its own. One that cannot even be taken fails.
    fn look_alone(&self, statements: &Statements, gateway: &Handle) -> Look {
        let users = process::transaction(|_| {
            Spi::connect(|client| self.users(client, statements, |user| self.spare(user) > 0))
        });
        let Ok((users, turn, is_whole)) = users else {
            return Look { turn: self.turn.clone(), is_whole: true, ..Look::default() };
        };
        let mut look = Look { turn, is_whole, ..Look::default() };
        for user in &users {
            let found = process::transaction(|installed| {
                Spi::connect_mut(|client| {
                    let (mut claimed, mut own) = (Vec::new(), Look::default());
                    let memory = gateway.room(user);
                    self.lease(client, statements, user, (1, memory), &mut claimed)?;
                    own.take(client, statements, installed, claimed)?;
                    Ok(own)
                })
            });
            match found {
                Ok(own) => {
                    look.ready.extend(own.ready);
                    look.failed.extend(own.failed);
                }
                Err(Failure::Data(reason)) => {
                    look.failed.extend(fail_first(statements, user, &reason.to_string()));
                }
                Err(_) => {}
            }
        }
        look
    }

    /// Users with due jobs whom this test lets pass, from the one after the last that was served
    /// and then from the start; how far the walk came, and whether it passed everybody.
    fn users(
        &self,
        client: &SpiClient,
        statements: &Statements,
        may_run: impl Fn(&String) -> bool,
    ) -> spi::Result<(Vec<String>, String, bool)> {
        let mut users = Vec::new();
        let mut reached = self.turn.clone();
        let mut walked = 0;
        let mut is_whole = false;
        // To the end, and from the start to where it began.
        for from in [self.turn.as_str(), ""] {
            let is_second = walked > 0 || from.is_empty();
            let arguments: [DatumWithOid<'_>; 2] = [from.into(), ((WALK - walked) as i32).into()];
            let mut last = 0;
            for row in client.select(&statements.claim_users, None, &arguments)? {
                let user: String = required(&row, 1)?;
                last = usize::try_from(required::<i32>(&row, 3)?).unwrap_or(WALK);
                if is_second && !self.turn.is_empty() && user > self.turn {
                    is_whole = true;
                    break;
                }
                reached.clone_from(&user);
                if required(&row, 2)? && may_run(&user) {
                    users.push(user);
                    if users.len() == USERS {
                        return Ok((users, reached, false));
                    }
                }
            }
            walked += last;
            if walked >= WALK {
                return Ok((users, reached, false));
            }
            if from.is_empty() {
                is_whole = true;
                break;
            }
        }
        Ok((users, reached, is_whole))
    }

    fn lease(
        &self,
        client: &mut SpiClient,
        statements: &Statements,
        user: &str,
        (share, memory): (usize, usize),
        claimed: &mut Vec<Claimed>,
    ) -> spi::Result<()> {
        let taken: usize = claimed.iter().map(|job| job.request.len()).sum();
        // Of one's share of the memory, the job that reaches its end is taken whole.
        let left = (CLAIMED_BYTES - i64::try_from(taken).unwrap_or(CLAIMED_BYTES))
            .min(i64::try_from(memory).unwrap_or(i64::MAX));
        if left <= 0 {
            return Ok(());
        }
        let arguments = [user.into(), self.epoch.into(), (share as i64).into(), left.into()];
        for row in client.update(&statements.claim, None, &arguments)? {
            claimed.push(Claimed {
                id: fresh::uuid(&row, 1)?,
                user: user.to_owned(),
                provider: row.get(2)?,
                request: required(&row, 3)?,
                // A number that no attempt ever had says nothing.
                earlier_attempts: required::<i16>(&row, 4)?.try_into().unwrap_or(0),
                gateway_key: row.get::<pgrx::Uuid>(5)?.map(|id| routing::uuid(Some(id))),
            });
        }
        Ok(())
    }
}

/// Ends the job of a user that is due first and cannot be taken.
fn fail_first(statements: &Statements, user: &str, reason: &str) -> Option<Uuid> {
    let error = serde_json::json!({
        "message": "the job, or what it needs, cannot be read",
        "code": "unreadable",
        "sqlstate": "PT500",
        "detail": reason,
        "hint": "Nothing was sent in this run. An administrator finds the reason in the server log.",
    });
    let error = error.to_string();
    let ended = process::transaction(|_| {
        Spi::connect_mut(|client| {
            let arguments = [user.into(), error.as_str().into()];
            let rows = client.update(&statements.fail_first, None, &arguments)?;
            rows.map(|row| fresh::uuid(&row, 1)).next().transpose()
        })
    });
    ended.unwrap_or_else(|failure| {
        pgrx::warning!("aggregator: a job that cannot be read is not ended: {failure:?}");
        None
    })
}

/// What the gateway needs to run each job, or why it cannot be run.
fn prepare(
    client: &SpiClient,
    installed: &Installed,
    claimed: Vec<Claimed>,
) -> Vec<(String, Uuid, Result<ChatCall, Error>)> {
    // Jobs of one batch mostly find the same lack of a route.
    let mut missing: HashSet<(Whose, Vec<String>, Option<String>)> = HashSet::new();
    let resolved_at = time::now();
    let mut prepare = |job: &Claimed| {
        let prepared = Prepared::of_job(&job.request)?;
        let models: Vec<String> = prepared.models().map(str::to_owned).collect();
        let provider = job.provider.as_deref();
        let no_route = || Error::NoRoute { model: prepared.model.clone() };
        let whose = Whose::of(job.user.as_str(), job.gateway_key);
        let wanted = (whose.clone(), models, job.provider.clone());
        if missing.contains(&wanted) {
            return Err(no_route());
        }
        let key = gateway_keys::require(client, installed, job.gateway_key)?;
        let wanted_models: Vec<&str> = prepared.models().collect();
        let find = || {
            let user = job.user.as_str();
            let found = routing::candidates(
                client,
                installed,
                &wanted_models,
                user,
                provider,
                |candidate| whose.may_ask(key.as_ref(), candidate),
            )?;
            if found.is_empty() {
                return Err(no_route());
            }
            let rules = routing::rules(client, installed, user, job.gateway_key)?;
            Ok((found.into(), Arc::new(rules)))
        };
        let found = route_cache::get(installed, &whose, prepared.models(), provider, find);
        if matches!(found, Err(Error::NoRoute { .. })) {
            missing.insert(wanted);
        }
        let (candidates, rules) = found?;
        let labels = match &key {
            Some(key) => key.labels(&prepared.tags)?,
            None => Labels::of(None, &prepared.tags),
        };
        Ok(ChatCall {
            kind: prepared.kind,
            call_id: job.id,
            user_id: job.user.clone(),
            candidates,
            body: prepared.body().into(),
            max_retries: prepared.max_retries,
            deadline_ms: prepared.timeout_ms,
            stream_upstream: prepared.stream_upstream,
            cache: prepared.caching(),
            rules: Rules::about(&rules, labels.as_deref()),
            resolved_at,
            earlier_attempts: job.earlier_attempts,
            labels,
            check: Checking::of(&prepared),
            generation: None,
            native: None,
            standings: None,
        })
    };
    claimed
        .into_iter()
        .map(|job| {
            let call = prepare(&job);
            (job.user, job.id, call)
        })
        .collect()
}
