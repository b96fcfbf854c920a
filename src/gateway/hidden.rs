//! What providers were seen to count beyond the bounds of their requests, by model. The bound of the
//! next request grows by it, for all users: they are asked by the same provider. It is kept for the
//! next life of the worker, and written only when it grows.

use crate::core::bound::{Hidden, Size};
use crate::core::usage::Parts;
use crate::gateway::ledger::Ledger;
use crate::gateway::task::{HiddenTokens, Task};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use uuid::Uuid;

/// By provider, and by model as rules know it: what no catalogue lists is one model.
type Known = HashMap<Uuid, HashMap<String, Hidden>>;

#[derive(Default)]
pub struct Excesses {
    known: Mutex<Known>,
}

/// A request whose usage is compared with its bound.
pub struct Watch {
    excesses: Arc<Excesses>,
    provider: Uuid,
    model: String,
    size: Size,
    /// Tokens that each answer was limited to, where it was.
    most_output: Option<i64>,
}

impl Excesses {
    /// As the last worker left it.
    pub fn restored(seen: Vec<HiddenTokens>) -> Self {
        let mut known = Known::new();
        for HiddenTokens { provider, model, hidden } in seen {
            let of_model = known.entry(provider).or_default().entry(model).or_default();
            *of_model = of_model.most(hidden);
        }
        Self { known: Mutex::new(known) }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn of(&self, provider: Uuid, model: &str) -> Hidden {
        let known = self.lock();
        known.get(&provider).and_then(|models| models.get(model)).copied().unwrap_or_default()
    }

    pub fn watch(
        self: &Arc<Self>,
        provider: Uuid,
        model: &str,
        size: Size,
        most_output: Option<i64>,
    ) -> Watch {
        let model = model.to_owned();
        Watch { excesses: self.clone(), provider, model, size, most_output }
    }
}

impl Watch {
    /// Compares the provider's own counts with the bound.
    pub fn note(&self, ledger: &Ledger, parts: &Parts) {
        let known = self.excesses.of(self.provider, &self.model);
        let Some(grown) = known.grown(&self.size, self.most_output, parts) else { return };
        {
            let mut all = self.excesses.lock();
            let models = all.entry(self.provider).or_default();
            let known = models.entry(self.model.clone()).or_default();
            // Many that were sent before the first of them ended have the same excess.
            let most = known.most(grown);
            if most == *known {
                return;
            }
            *known = most;
        }
        ledger.send(Task::HiddenTokens(Box::new(HiddenTokens {
            provider: self.provider,
            model: self.model.clone(),
            hidden: grown,
        })));
    }
}
