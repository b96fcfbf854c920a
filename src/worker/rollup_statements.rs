//! The prepared statements that add to the rollups, a batch at a time: of their many measures only those to which
//! anything is added, because each costs in every statement.

use crate::core::rollup::{AMOUNTS, COUNTS, Sums};
use crate::installed::Installed;
use crate::worker::ledger_statements::Writer;
use bigdecimal::Zero;
use pgrx::pg_sys::{
    INT4ARRAYOID, INT8ARRAYOID, Oid, TEXTARRAYOID, TEXTOID, TIMESTAMPTZARRAYOID, UUIDARRAYOID,
};
use pgrx::spi::{self, OwnedPreparedStatement, SpiClient};
use std::collections::HashMap;

/// A statement is kept for so many choices of measures. What is chosen beyond them gets the one with all.
const MOST_CHOICES: usize = 16;

pub struct RollupStatements {
    pub hourly: Adding,
    pub totals: Adding,
    pub labels: Adding,
}

/// A statement that adds to a rollup.
pub struct Adding {
    /// With places for what is about measures.
    sql: String,
    types: &'static [Oid],
    /// Its rows come in pairs that are in the order of their keys.
    is_of_pairs: bool,
    /// In the order of their columns.
    measures: Vec<Measure>,
    with_all: Writer,
    chosen: HashMap<Choice, Writer>,
}

/// Which measures anything is added to: of each count, and then of each amount, a bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Choice(u32);

const _: () = assert!(COUNTS.len() + AMOUNTS.len() <= u32::BITS as usize);

#[derive(Clone)]
struct Measure {
    name: String,
    /// Its bit in a choice.
    place: usize,
    /// Where the arguments have what is added to it.
    added: String,
    /// How it grows, as the database says (sql/rollup.sql).
    grown: String,
}

/// The arguments of add_hourly.sql and add_totals.sql.
const SUMS: &[Oid] = &[
    TEXTARRAYOID,
    TIMESTAMPTZARRAYOID,
    UUIDARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    INT8ARRAYOID,
    TEXTARRAYOID,
    INT4ARRAYOID,
    TEXTOID,
];

/// Which of them has the counts. The next has what is USD.
const COUNTS_OF_SUMS: usize = 6;

/// The arguments of add_labels.sql.
const LABELS: &[Oid] = &[
    TEXTARRAYOID,
    TEXTARRAYOID,
    TIMESTAMPTZARRAYOID,
    TEXTARRAYOID,
    UUIDARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    INT8ARRAYOID,
    TEXTARRAYOID,
    TEXTOID,
];

const COUNTS_OF_LABELS: usize = 8;

impl RollupStatements {
    pub fn prepare(client: &SpiClient<'_>, installed: &Installed) -> spi::Result<Self> {
        let of_sums = measures(client, installed, COUNTS_OF_SUMS, false)?;
        let of_labels = measures(client, installed, COUNTS_OF_LABELS, true)?;
        let adding = |sql, types, measures, is_of_pairs| {
            Adding::prepare(client, installed.sql(sql), types, measures, is_of_pairs)
        };
        Ok(Self {
            hourly: adding(
                include_str!("../../sql/statements/add_hourly.sql"),
                SUMS,
                of_sums.clone(),
                false,
            )?,
            // A batch of one model adds to its hour and to its day.
            totals: adding(
                include_str!("../../sql/statements/add_totals.sql"),
                SUMS,
                of_sums,
                true,
            )?,
            labels: adding(
                include_str!("../../sql/statements/add_labels.sql"),
                LABELS,
                of_labels,
                false,
            )?,
        })
    }
}

/// The measures of a rollup, whose counts are argument number `counts`. Their names and how they grow are the database's
/// own; where the arguments have what is added, the worker knows.
fn measures(
    client: &SpiClient<'_>,
    installed: &Installed,
    counts: usize,
    is_of_labels: bool,
) -> spi::Result<Vec<Measure>> {
    let sql = installed.sql(
        "SELECT name, @extschema@.aggregator_rollup_grown(name, unit)
         FROM @extschema@.aggregator_rollup_measures()
             WITH ORDINALITY AS measure (name, unit, is_labelled, added, description, place)
         WHERE is_labelled OR NOT $1
         ORDER BY place",
    );
    client
        .select(sql.as_str(), None, &[is_of_labels.into()])?
        .map(|row| {
            let (Some(name), Some(grown)) = (row.get::<String>(1)?, row.get::<String>(2)?) else {
                return Err(spi::Error::InvalidPosition);
            };
            let count = COUNTS.iter().position(|(known, _)| *known == name);
            // All counts of the first row, then those of the next; and amounts likewise.
            let (place, added) = match count {
                Some(at) => {
                    (at, format!("${counts}[{0} * i - {1}]", COUNTS.len(), COUNTS.len() - 1 - at))
                }
                None => {
                    let amount = AMOUNTS.iter().position(|known| *known == name);
                    let at = amount.ok_or(spi::Error::InvalidPosition)?;
                    let (argument, length) = (counts + 1, AMOUNTS.len());
                    let added = format!("${argument}[{length} * i - {}]::numeric", length - 1 - at);
                    (COUNTS.len() + at, added)
                }
            };
            Ok(Measure { name, place, added, grown })
        })
        .collect()
}

impl Choice {
    const ALL: Self = Self(u32::MAX);

    /// Of rows that are added.
    fn of<K>(rows: &[(K, Sums)]) -> Self {
        let mut choice = Self(0);
        for (_, sums) in rows {
            let counts = sums.counts.iter().map(|count| *count != 0);
            let amounts = sums.amounts.iter().map(|amount| !amount.is_zero());
            for (place, _) in counts.chain(amounts).enumerate().filter(|(_, is_any)| *is_any) {
                choice.0 |= 1 << place;
            }
        }
        choice
    }

    fn has(self, measure: &Measure) -> bool {
        self.0 >> measure.place & 1 == 1
    }
}

impl Adding {
    fn prepare(
        client: &SpiClient<'_>,
        sql: String,
        types: &'static [Oid],
        measures: Vec<Measure>,
        is_of_pairs: bool,
    ) -> spi::Result<Self> {
        let with_all = write(client, &sql, types, &measures, is_of_pairs, Choice::ALL)?;
        Ok(Self { sql, types, is_of_pairs, measures, with_all, chosen: HashMap::new() })
    }

    /// The statement that adds these rows.
    pub fn of<K>(
        &mut self,
        client: &SpiClient<'_>,
        rows: &[(K, Sums)],
    ) -> spi::Result<&OwnedPreparedStatement> {
        let choice = Choice::of(rows);
        let Self { sql, types, is_of_pairs, measures, with_all, chosen } = self;
        let is_any = measures.iter().any(|measure| choice.has(measure));
        if is_any && chosen.len() < MOST_CHOICES && !chosen.contains_key(&choice) {
            chosen.insert(choice, write(client, sql, types, measures, *is_of_pairs, choice)?);
        }
        Ok(chosen.get(&choice).unwrap_or(with_all).of(rows.len()))
    }
}

fn write(
    client: &SpiClient<'_>,
    sql: &str,
    types: &[Oid],
    measures: &[Measure],
    is_of_pairs: bool,
    choice: Choice,
) -> spi::Result<Writer> {
    let all = |part: &dyn Fn(&Measure) -> String| measures.iter().map(part).collect::<Vec<_>>();
    let names = all(&|measure| measure.name.clone());
    let added =
        all(&|measure| if choice.has(measure) { measure.added.clone() } else { "0".to_owned() });
    let grown = measures.iter().filter(|measure| choice.has(measure));
    let grown: Vec<&str> = grown.map(|measure| measure.grown.as_str()).collect();
    let sql = sql
        .replace("{measures}", &names.join(", "))
        .replace("{added}", &added.join(", "))
        .replace("{grown}", &grown.join(", "));
    match is_of_pairs {
        true => Writer::of_pairs(client, &sql, types),
        false => Writer::prepare(client, &sql, types),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zero_in_all_rows_is_left_out() {
        let mut one = Sums::default();
        one.counts[0] = 3;
        let mut other = Sums::default();
        other.counts[COUNTS.len() - 1] = -1;
        other.amounts[1] = 1.into();
        let of = |rows: &[Sums]| {
            Choice::of(&rows.iter().map(|sums| ((), sums.clone())).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), Choice(0));
        assert_eq!(of(&[one.clone()]), Choice(1));
        let last = COUNTS.len();
        assert_eq!(of(&[other.clone()]), Choice(1 << (last - 1) | 1 << (last + 1)));
        assert_eq!(of(&[one, other]), Choice(1 | 1 << (last - 1) | 1 << (last + 1)));
    }
}
