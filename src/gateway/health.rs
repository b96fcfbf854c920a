//! The health of candidates, as all calls see it.

use crate::clock::unix_micros;
use crate::core::health::{Change, Fault, Health, Subject};
use crate::core::secret;
use crate::gateway::ledger::Ledger;
use crate::gateway::task::{HealthNote, Task};
use crate::protocol::Candidate;
use std::sync::{Mutex, MutexGuard};

/// The health of every candidate, shared by all calls.
pub struct SharedHealth(Mutex<Health>);

impl SharedHealth {
    pub fn new(health: Health) -> Self {
        Self(Mutex::new(health))
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn order(&self, candidates: &[Candidate]) -> Vec<usize> {
        if candidates.len() == 1 {
            return vec![0];
        }
        let subjects: Vec<Subject> = candidates.iter().map(subject).collect();
        self.lock().order(&subjects, unix_micros())
    }

    pub fn failed(&self, ledger: &Ledger, candidate: &Candidate, fault: &Fault) {
        let change = self.lock().failed(&subject(candidate), fault, unix_micros());
        note(ledger, candidate, change);
    }

    pub fn succeeded(&self, ledger: &Ledger, candidate: &Candidate) {
        let changes = {
            let mut health = self.lock();
            if health.is_good() {
                return;
            }
            health.succeeded(&subject(candidate))
        };
        note(ledger, candidate, changes);
    }
}

fn note(ledger: &Ledger, candidate: &Candidate, changes: impl IntoIterator<Item = Change>) {
    for change in changes {
        let user_id = candidate.key.binding.user_id.clone();
        ledger.send(Task::Health(Box::new(HealthNote { change, user_id })));
    }
}

/// The subject of a candidate's health.
fn subject(candidate: &Candidate) -> Subject {
    Subject {
        provider: candidate.provider.id,
        key: candidate.user_provider_id,
        key_print: secret::print_of(&candidate.key.envelope),
        model: candidate.model_id.clone(),
    }
}
