//! Doing what the gateway asks, task by task.

use super::writing::Row;
use super::{BATCH, Desk, LOOK, MAINTAIN, NOTE, RETRY};
use crate::clerk;
use crate::core::tags::Labels;
use crate::gateway::asked::JobAsked;
use crate::gateway::ledger::Inbox;
use crate::gateway::task::Task;
use crate::route_cache;
use crate::worker::answers;
use crate::worker::asked_jobs;
use crate::worker::callers;
use crate::worker::catalogue;
use crate::worker::console;
use crate::worker::forgotten;
use crate::worker::hidden;
use crate::worker::leases;
use crate::worker::process;
use crate::worker::renewal;
use crate::worker::spending;
use std::time::Instant;

impl Desk {
    /// Does what has arrived, one batch of it: jobs are to be claimed between batches. Says whether
    /// that was anything.
    pub fn work(&mut self, inbox: &Inbox) -> bool {
        let mut did = false;
        let mut rows = Vec::new();
        // Kept before it is looked for: who waits for it asks after it was sent.
        let (mut kept, mut asking) = (Vec::new(), Vec::new());
        while rows.len() + kept.len() + asking.len() < BATCH
            && let Ok(task) = inbox.tasks.try_recv()
        {
            did = true;
            match task {
                // Nobody waits for it: it may settle before it is written.
                Task::Begin(begin, None) => {
                    self.open.insert(begin.key, begin.key.created_at);
                    self.held.hold(begin);
                    inbox.wake.done();
                }
                Task::Begin(begin, done) => rows.push(Row::Begin(begin, done)),
                Task::Settle(settle, done) => {
                    if self.held.release(&settle.begin.key) {
                        self.open.remove(&settle.begin.key);
                    }
                    self.used.extend(settle.used_key());
                    rows.push(Row::Settle(settle, done));
                }
                Task::JobEnded(end) => rows.push(Row::JobEnd(end)),
                Task::JobsWritten => {
                    self.jobs.written();
                    self.columns.written();
                    self.is_asked = true;
                    inbox.wake.done();
                }
                Task::ColumnsDue => {
                    self.columns.written();
                    inbox.wake.done();
                }
                Task::HandedOver(job) => {
                    self.jobs.adopt(job);
                    inbox.wake.done();
                }
                Task::HandOversUndone(jobs) => {
                    self.jobs.forget(&jobs);
                    inbox.wake.done();
                }
                Task::Renew(known, reply) => {
                    let _ = reply.send(renewal::find(&known));
                    inbox.wake.done();
                }
                Task::Job(asked, reply) => {
                    let is_new = matches!(*asked, JobAsked::Submit(_) | JobAsked::Cancel(..));
                    // Whoever has gone would not know of its job.
                    if !reply.is_closed() {
                        let _ = reply.send(asked_jobs::answer(*asked));
                    }
                    if is_new {
                        self.jobs.written();
                    }
                    inbox.wake.done();
                }
                Task::MaySpend(role, reply) => {
                    let _ = reply.send(callers::may_spend(&role));
                    inbox.wake.done();
                }
                Task::MayRead(role, reply) => {
                    let _ = reply.send(callers::may_read(&role));
                    inbox.wake.done();
                }
                Task::MayAct(role, reply) => {
                    let _ = reply.send(callers::may_act(&role));
                    inbox.wake.done();
                }
                Task::Session(token, reply) => {
                    let _ = reply.send(console::find(token));
                    inbox.wake.done();
                }
                Task::SignIn { code, token, reply } => {
                    // Whoever has gone would not learn the token, and may try once more.
                    if !reply.is_closed() {
                        let _ = reply.send(console::sign_in(code, token));
                    }
                    inbox.wake.done();
                }
                Task::SignOut(session, reply) => {
                    let _ = reply.send(console::sign_out(session));
                    inbox.wake.done();
                }
                Task::GatewayKey(hash, reply) => {
                    let _ = reply.send(callers::gateway_key(hash));
                    inbox.wake.done();
                }
                Task::Route(asked, reply) => {
                    let _ = reply.send(callers::route(&asked));
                    inbox.wake.done();
                }
                Task::Models(whose, reply) => {
                    let _ = reply.send(callers::models(&whose));
                    inbox.wake.done();
                }
                Task::StartClerk(reply) => {
                    let _ = reply.send(clerk::start(self.database).is_some());
                    inbox.wake.done();
                }
                Task::Generation(reply) => {
                    let _ = reply.send(process::look(route_cache::generation));
                    inbox.wake.done();
                }
                Task::Ready(reply) => {
                    let _ = reply.send(process::transaction(|_| Ok(())).is_ok());
                    inbox.wake.done();
                }
                Task::KeepAnswer(answer) => {
                    kept.push(answer);
                    inbox.wake.done();
                }
                Task::FindAnswer(asked, reply) => {
                    asking.push((asked, reply));
                    inbox.wake.done();
                }
                Task::Spending(query, reply) => {
                    // What was sent before must be in the ledger before it is read.
                    self.write_all(std::mem::take(&mut rows), inbox);
                    let _ = reply.send(spending::find(&self.statements, &query));
                    inbox.wake.done();
                }
                Task::Lend(lending) => {
                    leases::lend(&self.statements, lending);
                    inbox.wake.done();
                }
                Task::Gateways(reply) => {
                    let _ = reply.send(leases::gateways(&self.statements));
                    inbox.wake.done();
                }
                Task::BudgetWarning(warning) => {
                    spending::warn(&self.statements, &warning);
                    inbox.wake.done();
                }
                Task::Health(note) => {
                    self.health.insert(note.change.0.clone(), *note);
                    inbox.wake.done();
                }
                Task::HiddenTokens(seen) => {
                    hidden::store(&self.statements, &seen);
                    inbox.wake.done();
                }
                Task::Catalogue(fetch, fetched, reply) => {
                    let _ = reply.send(catalogue::store(&self.statements, &fetch, &fetched));
                    inbox.wake.done();
                }
                Task::UserModels(own, reply) => {
                    let _ = reply.send(catalogue::store_own(&self.statements, &own));
                    inbox.wake.done();
                }
                Task::KeyChecked(checked) => {
                    catalogue::note_check(&self.statements, &checked);
                    inbox.wake.done();
                }
                Task::RecentChecks { user, provider, since, reply } => {
                    let recent = catalogue::recent_checks(&self.statements, &user, provider, since);
                    let _ = reply.send(recent);
                    inbox.wake.done();
                }
                Task::Forget { user, anonymous, done } => {
                    self.write_all(std::mem::take(&mut rows), inbox);
                    // Before the session deletes what is theirs.
                    self.answers.keep(&self.statements, &std::mem::take(&mut kept));
                    self.forget_user(&user, &anonymous);
                    let _ = done.send(());
                    inbox.wake.done();
                }
                Task::Outdated => {
                    self.has_left = true;
                    inbox.wake.done();
                }
                Task::Log(line) => {
                    pgrx::log!("aggregator: {line}");
                    inbox.wake.done();
                }
            }
        }
        if asking.is_empty() {
            self.write_counted(rows, inbox);
            self.answers.keep(&self.statements, &kept);
        } else {
            self.answers.keep(&self.statements, &kept);
            answers::find(&self.statements, asking);
            self.write_counted(rows, inbox);
        }
        let due = self.held.due();
        self.begin(due);
        self.flush();
        if !self.stuck.is_empty() && self.stuck_since.elapsed() > RETRY {
            let stuck = std::mem::take(&mut self.stuck);
            self.stuck_since = Instant::now();
            self.write(stuck.into_iter().map(|(settle, done)| Row::Settle(settle, done)).collect());
            // Tried again in vain: the answer goes without its cost, and is not held until its deadline.
            self.stuck.iter_mut().for_each(|(_, done)| *done = None);
        }
        if self.noted_at.elapsed() > NOTE {
            self.note();
            if self.has_orphans {
                self.close_orphans();
            }
            self.is_asked = true;
            forgotten::sweep(&self.statements);
            if self.maintained_at.is_none_or(|at| at.elapsed() > MAINTAIN) {
                self.maintain();
            }
            if self.has_written {
                // A month may have begun, with an empty partition.
                self.plan_ledger();
            }
        }
        if self.is_asked && (self.has_quarantined || self.asked_at.elapsed() > LOOK) {
            self.retry_quarantined();
        }
        self.note_health();
        did
    }

    /// A user is being forgotten, and nothing of theirs is in flight any more: what could not be written
    /// yet is nobody's. That is for rows that are not in the ledger at all; one that is pending there is settled
    /// as whose it is, now or when that transaction has ended.
    fn forget_user(&mut self, user: &str, anonymous: &str) {
        for (settle, _) in &mut self.stuck {
            if settle.begin.user_id == user {
                anonymous.clone_into(&mut settle.begin.user_id);
                // Tags are words of the user's own.
                let key = settle.begin.labels.take().and_then(|labels| labels.gateway_key);
                settle.begin.labels = Labels::of(key, &[]);
            }
        }
        self.health.retain(|_, note| note.user_id.as_deref() != Some(user));
        self.jobs.forget_user(user);
    }
}
