//! The price lists of models that answer, kept until something about routes changes.

use crate::core::cost::PriceList;
use crate::fresh::{self, Plan};
use crate::gateway::task::Settle;
use crate::route_cache;
use crate::routing::pg_uuid;
use pgrx::spi::{self, SpiClient};
use std::collections::HashMap;
use uuid::Uuid;

/// Of how many models they are kept.
const MOST: usize = 1000;

#[derive(Default)]
pub struct Prices {
    generation: u64,
    /// By provider. `None`: the catalogue has no list of its own for the model.
    lists: HashMap<Uuid, HashMap<String, Option<PriceList>>>,
    models: usize,
}

impl Prices {
    /// The list of the model that answered.
    pub fn of(&self, settle: &Settle) -> Option<&PriceList> {
        self.known(settle.begin.provider_id, settle.served_model.as_deref()?)?.as_ref()
    }

    fn known(&self, provider: Uuid, model: &str) -> Option<&Option<PriceList>> {
        self.lists.get(&provider)?.get(model)
    }

    /// Finds the lists of the models that answered, as of now, where they are not known.
    pub fn learn<'a>(
        &mut self,
        client: &SpiClient,
        plan: &Plan,
        rows: impl Iterator<Item = &'a Settle>,
    ) -> spi::Result<()> {
        let generation = route_cache::generation();
        if self.generation != generation || self.models > MOST {
            *self = Self { generation, ..Self::default() };
        }
        let mut asked: Vec<(Uuid, &str)> = rows
            .filter_map(|settle| Some((settle.begin.provider_id, settle.served_model.as_deref()?)))
            .filter(|(provider, model)| self.known(*provider, model).is_none())
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        asked.sort_unstable();
        asked.dedup();
        let providers: Vec<pgrx::Uuid> = asked.iter().map(|model| pg_uuid(model.0)).collect();
        let models: Vec<&str> = asked.iter().map(|model| model.1).collect();
        // By a snapshot that is not older than the generation, which this transaction's own may be.
        let mut found = HashMap::new();
        for row in fresh::select(client, plan, &[providers.into(), models.into()])? {
            let (i, pricing) = (row.get::<i32>(1)?, row.get::<String>(2)?);
            if let Some((i, pricing)) = i.and_then(|i| usize::try_from(i - 1).ok()).zip(pricing) {
                // What is no price list prices nothing: the cost stays unknown.
                found.insert(i, PriceList::parse(&pricing).unwrap_or_default());
            }
        }
        for (i, (provider, model)) in asked.into_iter().enumerate() {
            self.models += 1;
            self.lists.entry(provider).or_default().insert(model.to_owned(), found.remove(&i));
        }
        Ok(())
    }
}
