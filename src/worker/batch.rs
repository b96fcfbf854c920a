//! Writing the ledger: one statement for all rows of a batch that begin, one for all that settle (and one for
//! those that were never pending), one for the sums of users and one for those of all. A batch of one is a
//! batch.

use crate::core::budget::MOST_TOKENS;
use crate::core::cost::{self, Counts, PriceList, SettledCost};
use crate::core::rollup::{self, Key, LabelKey, Rollup, Row, Sums};
use crate::core::tags::Labels;
use crate::core::usage::Parts;
use crate::error::UNREACHABLE;
use crate::fresh::Plan;
use crate::gateway::task::{Begin, Saved, Settle};
use crate::protocol::Settled;
use crate::routing::pg_uuid;
use crate::settings;
use crate::time::timestamp;
use crate::worker::arrays::array;
use crate::worker::ledger_statements::Ledger;
use crate::worker::prices::Prices;
use crate::worker::rollup_statements::{Adding, RollupStatements};
use pgrx::datum::{DatumWithOid, IntoDatum};
use pgrx::spi::{self, SpiClient, SpiHeapTupleData};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// An array of what a column is in each row.
fn column<'a, R, T: IntoDatum>(rows: &'a [R], value: impl Fn(&'a R) -> T) -> DatumWithOid<'a> {
    array(rows.iter().map(value))
}

/// The gateway keys of rows, and their tags, as arrays that are texts: an array of arrays has room only for
/// arrays of one length. `None`: no row has any, as is mostly so.
fn labels<'a, R>(
    rows: &'a [R],
    begin: impl Fn(&'a R) -> &'a Begin,
) -> Option<[DatumWithOid<'a>; 2]> {
    let labels = |row| begin(row).labels.as_ref();
    if rows.iter().all(|row| labels(row).is_none()) {
        return None;
    }
    let key = |row| labels(row).and_then(|labels| labels.gateway_key).map(pg_uuid);
    let tags = |row| labels(row).and_then(|labels| labels.array());
    Some([column(rows, key), column(rows, tags)])
}

/// Writes pending rows. One that is there already stays as it is.
pub fn begin(
    client: &mut SpiClient,
    ledger: &Ledger,
    epoch: i64,
    rows: &[&Begin],
) -> spi::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let labels = labels(rows, |begin| begin);
    let writer = ledger.begin.of(rows.len(), labels.is_some());
    let mut arguments: Vec<DatumWithOid<'_>> = vec![
        column(rows, |begin| pg_uuid(begin.key.call_id)),
        column(rows, |begin| begin.key.attempt),
        column(rows, |begin| timestamp(begin.key.created_at)),
        column(rows, |begin| begin.user_id.as_str()),
        column(rows, |begin| pg_uuid(begin.provider_id)),
        column(rows, |begin| pg_uuid(begin.user_provider_id)),
        column(rows, |begin| begin.model_id.as_str()),
        column(rows, |begin| begin.reserved.as_ref().and_then(|most| most.cost.as_deref())),
        column(rows, |begin| begin.reserved.as_ref().map(|most| most.tokens)),
        column(rows, |begin| begin.is_platform_key),
        column(rows, |begin| begin.is_listed),
        epoch.into(),
    ];
    arguments.extend(labels.into_iter().flatten());
    client.update(writer, None, &arguments).map(|_| ())
}

/// Settles rows, of which it is known whether they are pending in the ledger (`true`) or were never written,
/// as far as anybody knows; and adds them to the sums. Says what each came to; `None`: it was settled already.
pub fn settle(
    client: &mut SpiClient,
    price_lists: &Plan,
    rollups: &mut RollupStatements,
    ledger: &Ledger,
    prices: &mut Prices,
    epoch: i64,
    rows: &[(&Settle, bool)],
) -> spi::Result<Vec<Option<Settled>>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    prices.learn(client, price_lists, rows.iter().map(|(settle, _)| *settle))?;
    let settlements: Vec<Settlement<'_>> =
        rows.iter().map(|(settle, _)| Settlement::of(settle, prices)).collect();
    let settled = rows.iter().map(|_| None).collect();
    let mut open = Open { settlements: &settlements, settled };
    let (pending, new): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|i| rows[*i].1);
    open.update(client, ledger, &pending)?;
    open.insert(client, ledger, epoch, &new)?;
    // Where that was wrong. What neither changes is there and settled.
    open.insert(client, ledger, epoch, &pending)?;
    open.update(client, ledger, &new)?;
    let settled = open.settled;
    let mut rollup = Rollup::default();
    for (row, whose) in settlements.iter().zip(&settled) {
        if let Some(whose) = whose {
            rollup.add(&row.for_sums(whose));
        }
    }
    let gateway = settings::own_gateway();
    let [hourly, totals] =
        [rollup.hourly, rollup.totals].map(|sums| sums.into_iter().collect::<Vec<_>>());
    let labels: Vec<_> = rollup.labels.into_iter().collect();
    add(client, &mut rollups.hourly, &hourly, &gateway)?;
    add(client, &mut rollups.totals, &totals, &gateway)?;
    add_labels(client, &mut rollups.labels, &labels, &gateway)?;
    Ok(settlements
        .iter()
        .zip(&settled)
        .map(|(row, whose)| {
            whose.is_some().then(|| Settled {
                cost: row.cost_text.clone(),
                cost_source: Some(row.cost.source.to_owned()),
            })
        })
        .collect())
}

/// Whose a settled row is in the ledger, and by what it is found there: what the rollups add it to.
struct Whose {
    /// `None`: whose the call was.
    user_id: Option<String>,
    labels: Option<Arc<Labels>>,
}

impl Whose {
    /// As settle.sql says it.
    fn of(row: &SpiHeapTupleData<'_>) -> spi::Result<Self> {
        let key = row.get::<pgrx::Uuid>(3)?.map(|key| Uuid::from_bytes(*key.as_bytes()));
        let tags = row.get::<Vec<Option<String>>>(4)?.unwrap_or_default();
        let tags: Vec<String> = tags.into_iter().flatten().collect();
        Ok(Self { user_id: row.get(2)?, labels: Labels::of(key, &tags) })
    }
}

/// A batch on its way into the ledger.
struct Open<'a> {
    settlements: &'a [Settlement<'a>],
    /// `None`: not yet.
    settled: Vec<Option<Whose>>,
}

impl<'a> Open<'a> {
    /// Those of these rows that are not settled yet, and their places.
    fn left(&self, which: &[usize]) -> (Vec<usize>, Vec<&'a Settlement<'a>>) {
        let left = which.iter().filter(|i| self.settled[**i].is_none());
        left.map(|i| (*i, &self.settlements[*i])).unzip()
    }

    /// Settles those of these rows that are pending.
    fn update(
        &mut self,
        client: &mut SpiClient,
        ledger: &Ledger,
        which: &[usize],
    ) -> spi::Result<()> {
        let (which, rows) = self.left(which);
        if rows.is_empty() {
            return Ok(());
        }
        for row in client.update(ledger.settle.of(rows.len()), None, &settled_columns(&rows))? {
            let i = row.get::<i32>(1)?.and_then(|i| usize::try_from(i - 1).ok());
            let i = i.and_then(|i| which.get(i)).ok_or(spi::Error::InvalidPosition)?;
            self.settled[*i] = Some(Whose::of(&row)?);
        }
        Ok(())
    }

    /// Writes those of these rows that are not there.
    fn insert(
        &mut self,
        client: &mut SpiClient,
        ledger: &Ledger,
        epoch: i64,
        which: &[usize],
    ) -> spi::Result<()> {
        let (which, rows) = self.left(which);
        if rows.is_empty() {
            return Ok(());
        }
        let mut arguments = settled_columns(&rows);
        arguments.extend([
            column(&rows, |row| pg_uuid(row.settle.begin.provider_id)),
            column(&rows, |row| pg_uuid(row.settle.begin.user_provider_id)),
            column(&rows, |row| row.settle.begin.model_id.as_str()),
            column(&rows, |row| row.settle.begin.is_platform_key),
            column(&rows, |row| row.settle.begin.is_listed),
            epoch.into(),
        ]);
        let labels = labels(&rows, |row| &row.settle.begin);
        let writer = ledger.record.of(rows.len(), labels.is_some());
        arguments.extend(labels.into_iter().flatten());
        let at: HashMap<(Uuid, i16), usize> =
            which.iter().map(|i| (self.settlements[*i].key(), *i)).collect();
        for row in client.update(writer, None, &arguments)? {
            let (call, attempt) = (row.get::<pgrx::Uuid>(1)?, row.get::<i16>(2)?);
            let key = call.map(|call| Uuid::from_bytes(*call.as_bytes())).zip(attempt);
            let i = key.and_then(|key| at.get(&key)).ok_or(spi::Error::InvalidPosition)?;
            let labels = self.settlements[*i].settle.begin.labels.clone();
            self.settled[*i] = Some(Whose { user_id: None, labels });
        }
        Ok(())
    }
}

/// A settlement with all that its row will hold.
struct Settlement<'a> {
    settle: &'a Settle,
    cost: SettledCost,
    cost_text: Option<String>,
    computed_text: Option<String>,
    total_tokens: Option<i32>,
    is_cost_beyond: bool,
    are_tokens_beyond: bool,
}

impl<'a> Settlement<'a> {
    fn of(settle: &'a Settle, prices: &Prices) -> Self {
        // The model that answered decides the price; its own price list first.
        let requested;
        let list = match prices.of(settle) {
            Some(list) => list,
            None => {
                // What is no price list prices nothing: the cost stays unknown.
                requested =
                    settle.pricing.as_deref().and_then(PriceList::parse).unwrap_or_default();
                &requested
            }
        };
        let parts = settle.usage.parts;
        let cost = match settle.cached {
            Some(_) => SettledCost::cached(),
            None => cost::settled(
                list,
                parts.map(Counts::from).as_ref(),
                settle.usage.reported_cost.as_deref().and_then(cost::exact),
                settle.is_free_of_charge,
                cost::clock(settle.begin.key.created_at),
                settle.is_estimate,
            ),
        };
        // A bound that is no number bounds everything; the table then refuses the row.
        let most_usd =
            settle.limits.cost.as_deref().map(|most| cost::exact(most).unwrap_or_default());
        let most_usd = most_usd.unwrap_or_else(rollup::most_usd);
        let most_tokens = settle.limits.tokens.unwrap_or(MOST_TOKENS);
        let tokens = parts.map(|p| i64::from(p.prompt()) + i64::from(p.completion()));
        Self {
            settle,
            cost_text: cost.cost.as_ref().map(cost::shown),
            computed_text: cost.computed.as_ref().map(cost::shown),
            total_tokens: parts.map(|p| p.prompt().saturating_add(p.completion())),
            is_cost_beyond: cost.cost.as_ref().is_some_and(|cost| *cost > most_usd),
            are_tokens_beyond: tokens.is_some_and(|tokens| tokens > most_tokens),
            cost,
        }
    }

    /// What is reserved for it: where more was reported than its request can have come to, as much as
    /// that.
    fn reserved_cost(&self) -> Option<&str> {
        if self.is_cost_beyond {
            return self.settle.limits.cost.as_deref();
        }
        self.settle.begin.reserved.as_ref().and_then(|most| most.cost.as_deref())
    }

    fn reserved_tokens(&self) -> Option<i64> {
        if self.are_tokens_beyond {
            return self.settle.limits.tokens;
        }
        self.settle.begin.reserved.as_ref().map(|most| most.tokens)
    }

    /// What is rare, and has no column.
    fn metadata(&self) -> Option<String> {
        let mut members = serde_json::Map::new();
        if self.settle.is_estimate {
            members.insert("estimated".to_owned(), true.into());
        }
        let parts = self.settle.usage.input().unwrap_or_default();
        for (key, pieces) in [("image", parts.image), ("web_search", parts.web_search)] {
            if pieces != 0 {
                members.insert(key.to_owned(), pieces.into());
            }
        }
        let beyond: Vec<&str> = [("cost", self.is_cost_beyond), ("tokens", self.are_tokens_beyond)]
            .into_iter()
            .filter_map(|(what, is_beyond)| is_beyond.then_some(what))
            .collect();
        if let Some(Saved { cost, tokens, age_s }) = &self.settle.cached {
            let cost = cost.as_deref().map(Into::into);
            let tokens = tokens.map(Into::into);
            for (key, saved) in [("saved_cost", cost), ("saved_tokens", tokens)] {
                members.extend(saved.map(|saved: serde_json::Value| (key.to_owned(), saved)));
            }
            members.insert("age_s".to_owned(), (*age_s).into());
        }
        if let Some(cost) = &self.settle.usage.refused_cost {
            members.insert("refused_cost".to_owned(), cost.as_str().into());
        }
        if !beyond.is_empty() {
            members.insert("beyond_bound".to_owned(), beyond.into());
        }
        (!members.is_empty()).then(|| serde_json::Value::Object(members).to_string())
    }

    fn key(&self) -> (Uuid, i16) {
        (self.settle.begin.key.call_id, self.settle.begin.key.attempt)
    }

    fn part(&self, part: impl Fn(&Parts) -> i32) -> Option<i32> {
        self.settle.usage.parts.as_ref().map(part)
    }

    /// What went in is noted also where nothing says what came out.
    fn input_part(&self, part: impl Fn(&Parts) -> i32) -> Option<i32> {
        self.settle.usage.input().as_ref().map(part)
    }

    fn for_sums<'s>(&'s self, whose: &'s Whose) -> Row<'s> {
        let settle = self.settle;
        Row {
            labels: whose.labels.as_deref(),
            user_id: whose.user_id.as_deref().unwrap_or(&settle.begin.user_id),
            provider_id: settle.begin.provider_id,
            model_id: &settle.begin.model_id,
            is_listed: settle.begin.is_listed,
            is_platform_key: settle.begin.is_platform_key,
            created_at: settle.begin.key.created_at,
            status: settle.outcome.as_str(),
            is_unreachable: settle.error_code.as_deref() == Some(UNREACHABLE),
            // Nothing came out of what is known of the input alone.
            parts: settle.usage.input(),
            total_tokens: self.total_tokens,
            is_estimate: settle.is_estimate,
            latency_ms: settle.latency_ms,
            time_to_first_token_ms: settle.time_to_first_token_ms,
            cost: self.cost.cost.as_ref(),
            cost_source: self.cost.source,
            reserved_cost: self.reserved_cost().and_then(cost::exact),
            reserved_tokens: self.reserved_tokens(),
            is_cost_beyond: self.is_cost_beyond,
            are_tokens_beyond: self.are_tokens_beyond,
        }
    }
}

/// The arguments of settle.sql, and the first of record.sql.
fn settled_columns<'a>(rows: &'a [&'a Settlement<'a>]) -> Vec<DatumWithOid<'a>> {
    vec![
        column(rows, |row| pg_uuid(row.settle.begin.key.call_id)),
        column(rows, |row| row.settle.begin.key.attempt),
        column(rows, |row| timestamp(row.settle.begin.key.created_at)),
        column(rows, |row| row.settle.begin.user_id.as_str()),
        column(rows, |row| row.settle.outcome.as_str()),
        column(rows, |row| row.settle.served_model.as_deref()),
        column(rows, |row| row.input_part(Parts::prompt)),
        column(rows, |row| row.part(Parts::completion)),
        column(rows, |row| row.total_tokens),
        column(rows, |row| row.input_part(|parts| parts.cache_read)),
        column(rows, |row| row.input_part(|parts| parts.cache_write)),
        column(rows, |row| row.input_part(|parts| parts.cache_write_1h)),
        column(rows, |row| row.input_part(|parts| parts.audio_input)),
        column(rows, |row| row.part(|parts| parts.reasoning)),
        column(rows, |row| row.part(|parts| parts.audio_output)),
        column(rows, |row| row.settle.latency_ms),
        column(rows, |row| row.settle.time_to_first_token_ms),
        column(rows, |row| row.settle.http_status),
        column(rows, |row| row.settle.error_code.as_deref()),
        column(rows, |row| row.settle.request_id.as_deref()),
        column(rows, |row| row.settle.finish_reason.as_deref()),
        column(rows, |row| row.cost_text.as_deref()),
        column(rows, |row| row.computed_text.as_deref()),
        column(rows, |row| row.cost.source),
        column(rows, |row| row.reserved_cost()),
        column(rows, |row| row.reserved_tokens()),
        column(rows, |row| row.metadata()),
    ]
}

/// Adds to one of the tables of sums.
fn add(
    client: &mut SpiClient,
    adding: &mut Adding,
    sums: &[(Key<'_>, Sums)],
    gateway: &str,
) -> spi::Result<()> {
    if sums.is_empty() {
        return Ok(());
    }
    let arguments: [DatumWithOid<'_>; 9] = [
        column(sums, |(key, _)| key.0),
        column(sums, |(key, _)| timestamp(key.1)),
        column(sums, |(key, _)| pg_uuid(key.2)),
        column(sums, |(key, _)| key.3),
        column(sums, |(key, _)| key.4),
        counts(sums),
        amounts(sums),
        array(sums.iter().flat_map(|(_, sums)| sums.latency)),
        gateway.into(),
    ];
    client.update(adding.of(client, sums)?, None, &arguments).map(|_| ())
}

/// Adds to the sums of gateway keys and tags.
fn add_labels(
    client: &mut SpiClient,
    adding: &mut Adding,
    sums: &[(LabelKey<'_>, Sums)],
    gateway: &str,
) -> spi::Result<()> {
    if sums.is_empty() {
        return Ok(());
    }
    let arguments: [DatumWithOid<'_>; 10] = [
        column(sums, |(key, _)| key.0.kind()),
        column(sums, |(key, _)| key.0.name()),
        column(sums, |(key, _)| timestamp(key.1)),
        column(sums, |(key, _)| key.2),
        column(sums, |(key, _)| pg_uuid(key.3)),
        column(sums, |(key, _)| key.4),
        column(sums, |(key, _)| key.5),
        counts(sums),
        amounts(sums),
        gateway.into(),
    ];
    client.update(adding.of(client, sums)?, None, &arguments).map(|_| ())
}

/// All counts of the first, then those of the next.
fn counts<'a, K>(sums: &[(K, Sums)]) -> DatumWithOid<'a> {
    array(sums.iter().flat_map(|(_, sums)| sums.counts))
}

/// Likewise.
fn amounts<'a, K>(sums: &[(K, Sums)]) -> DatumWithOid<'a> {
    array(sums.iter().flat_map(|(_, sums)| sums.amounts.iter().map(cost::shown)))
}
