//! What a call used, normalised once per protocol to disjoint counts.
//!
//! OpenAI's `prompt_tokens` include cached tokens and `completion_tokens` include reasoning;
//! Anthropic's `input_tokens` exclude the cache. After this module no part contains another, so
//! that a price list can simply be multiplied and added.

mod merge;
mod names;
#[cfg(test)]
mod tests;

pub use merge::Merged;
pub use names::HOLDERS;

use crate::core::{json, price};
use names::{Cache, Form, Path};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::str::FromStr;

/// Disjoint token counts, and what is paid by the piece, under the same names as the keys of a
/// price list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    pub input: i32,
    pub cache_read: i32,
    pub cache_write: i32,
    pub cache_write_1h: i32,
    pub audio_input: i32,
    pub output: i32,
    pub reasoning: i32,
    pub audio_output: i32,
    /// Pieces, not tokens.
    pub image: i32,
    pub web_search: i32,
}

impl Parts {
    /// All tokens that went in.
    pub fn prompt(&self) -> i32 {
        [self.cache_read, self.cache_write, self.cache_write_1h, self.audio_input]
            .into_iter()
            .fold(self.input, i32::saturating_add)
    }

    /// All tokens that came out.
    pub fn completion(&self) -> i32 {
        self.output.saturating_add(self.reasoning).saturating_add(self.audio_output)
    }
}

/// The usage of one attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// `None`: the upstream gave no counts that make sense, or not all of them.
    pub parts: Option<Parts>,
    /// What went in, where nothing says what came out: that is unknown then, and not 0.
    #[serde(default)]
    pub input_only: Option<Parts>,
    /// What the upstream says the call cost, USD, every digit kept.
    pub reported_cost: Option<String>,
    /// A number that it says, and that no call costs: it is noted, and not believed.
    #[serde(default)]
    pub refused_cost: Option<String>,
}

impl Usage {
    /// Reads a `usage` object, of whatever form. Text that is not such an object gives an empty
    /// usage: missing, not zero.
    pub fn parse(text: &str) -> Self {
        Self::of(&Merged::of(text))
    }

    /// Reads a usage that has come in parts.
    pub fn of(merged: &Merged) -> Self {
        let usage = Reader { merged };
        let (parts, input_only) = match usage.counts() {
            Some((parts, true)) => (Some(parts), None),
            Some((input, false)) => (None, Some(input)),
            None => (None, None),
        };
        let reported_cost = usage.reported_cost();
        let refused_cost = if reported_cost.is_none() { usage.refused_cost() } else { None };
        Self { parts, input_only, reported_cost, refused_cost }
    }

    /// Of an answer: its own usage and those of its choices (Moonshot's streams have it there). Of
    /// several choices, each has the prompt's counts and those of its own text.
    pub fn of_answer(own: &Merged, choices: &[&Merged]) -> Self {
        if let [only] = choices {
            let mut all = (*only).clone();
            all.add_merged(own);
            return Self::of(&all);
        }
        let usage = Self::of(own);
        let says = usage.parts.is_some_and(|parts| parts != Parts::default());
        if says || usage.input_only.is_some() || choices.is_empty() {
            return usage;
        }
        let each: Option<Vec<Parts>> = choices.iter().map(|one| Self::of(one).parts).collect();
        let sum = each.and_then(|each| {
            each.into_iter().reduce(|sum, one| Parts {
                output: sum.output.saturating_add(one.output),
                reasoning: sum.reasoning.saturating_add(one.reasoning),
                audio_output: sum.audio_output.saturating_add(one.audio_output),
                ..sum
            })
        });
        Self { parts: sum, ..usage }
    }

    /// All that is known of what went in.
    pub fn input(&self) -> Option<Parts> {
        self.parts.or(self.input_only)
    }
}

/// The `usage` that another member of an answer or of a chunk holds.
pub fn held(holder: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Holder<'a> {
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
    }
    let holder: Holder = serde_json::from_str(holder).ok()?;
    holder.usage.map(|usage| usage.get().to_owned())
}

struct Reader<'a> {
    merged: &'a Merged,
}

impl Reader<'_> {
    fn count(&self, path: Path) -> Option<i64> {
        self.merged.find(path).and_then(number).map(i64::from)
    }

    /// The largest of several names for the same.
    fn most(&self, paths: &[Path]) -> i64 {
        paths.iter().filter_map(|path| self.count(path)).max().unwrap_or(0)
    }

    fn form(&self) -> Option<&'static Form> {
        let says = |form: &Form, least: i64| {
            [form.prompt, form.completion].iter().any(|name| {
                self.merged.find(&[name]).and_then(number).is_some_and(|n| i64::from(n) >= least)
            })
        };
        let forms = names::FORMS;
        let found = forms.iter().find(|f| says(f, 1)).or_else(|| forms.iter().find(|f| says(f, 0)));
        // DeepSeek's hits and misses are a prompt in OpenAI's form, and so is a total alone none.
        found.or_else(|| self.count(names::CACHE_MISS).and(forms.first()))
    }

    /// The disjoint counts, and whether what came out is known. `None`: what went in is not.
    fn counts(&self) -> Option<(Parts, bool)> {
        let form = self.form()?;
        let of = |name: &'static str| self.merged.find(&[name]).and_then(number).map(i64::from);
        let (completion, total) = (of(form.completion), of(form.total));
        let claude_read = self.most(names::CLAUDE_READ);
        let read = claude_read.max(self.most(names::CACHE_READ));
        let one_hour = self.most(names::CACHE_WRITE_1H);
        let claude_written = match self.most(names::CLAUDE_WRITE) {
            0 => one_hour + self.most(names::CACHE_WRITE_5M),
            all => all,
        };
        let written = match self.most(names::CACHE_WRITE) {
            0 => claude_written,
            all => all.max(self.most(names::CLAUDE_WRITE)),
        };
        let reasoning = self.most(names::REASONING);
        let prompt = of(form.prompt)
            .or_else(|| {
                // DeepSeek: where the sum is left out.
                let missed = self.count(names::CACHE_MISS)?;
                Some(missed + self.count(names::CACHE_HIT).unwrap_or(0))
            })
            .or_else(|| Some(total? - completion?).filter(|rest| *rest >= 0))?
            + self.most(form.more_input);

        let cache = read + written;
        let beyond = |sum: i64| total.map_or(0, |total| total - sum);
        let sum = prompt + completion.unwrap_or(0);
        let is_outside = match form.cache {
            Cache::Outside => !self.merged.has_object(names::RESPONSES),
            Cache::Inside => {
                let fits = match total {
                    // No more than the provider itself says there is.
                    Some(_) => read <= prompt && written <= prompt,
                    None => cache <= prompt,
                };
                let is_claude = claude_read > 0 || claude_written > 0;
                // Portkey and its like count it in their total only.
                let is_told = completion.is_some()
                    && beyond(sum) != reasoning
                    && (beyond(sum) == cache || beyond(sum) == cache + reasoning);
                cache > 0 && (is_told || (is_claude && !fits))
            }
        };
        let cache_outside = if is_outside { cache } else { 0 };
        // Of those who leave the cache out of the prompt, some leave it out of the total too.
        let in_total = if beyond(sum) >= cache_outside { prompt + cache_outside } else { prompt };

        let mut heard_beyond = 0;
        let output = match completion {
            Some(completion) => {
                let more = self.most(form.more_output);
                // Some leave reasoning out of the completion: it does not fit, or the total tells.
                let is_beside = reasoning > completion
                    || (reasoning > 0 && beyond(in_total + completion) == reasoning);
                let output = completion + more + if is_beside { reasoning } else { 0 };
                // What the total has beyond the sum was said and is billed (Gemini's thinking,
                // of which its layer for OpenAI's clients says nothing else).
                let rest = beyond(in_total + output).max(0);
                if self.count(names::AUDIO_SECONDS).is_some() {
                    heard_beyond = rest;
                    Some(output)
                } else {
                    Some(output + rest)
                }
            }
            None => total.map(|total| total - in_total).filter(|rest| *rest >= 0),
        };

        let mut input = Total(prompt + cache_outside);
        let cache_read = input.take(read);
        let mut write = Total(input.take(written));
        let cache_write_1h = write.take(one_hour);
        let heard = self.most(names::AUDIO_INPUT) - self.most(names::CACHED_AUDIO);
        let audio_input = input.take(heard) + heard_beyond;
        let mut out = Total(output.unwrap_or(0));
        let reasoning = out.take(reasoning.max(self.most(form.more_output)));
        let audio_output = out.take(self.most(names::AUDIO_OUTPUT));
        let parts = Parts {
            input: fit(input.0),
            cache_read: fit(cache_read),
            cache_write: fit(write.0),
            cache_write_1h: fit(cache_write_1h),
            audio_input: fit(audio_input),
            output: fit(out.0),
            reasoning: fit(reasoning),
            audio_output: fit(audio_output),
            image: fit(self.most(names::IMAGES)),
            web_search: fit(self.most(names::WEB_SEARCHES)),
        };
        Some((parts, output.is_some()))
    }

    /// What the provider says that the call cost: read and bounded as a price of a request is, so
    /// that one that no call costs is not believed.
    fn reported_cost(&self) -> Option<String> {
        let cost = |path| {
            let text = unquoted(self.merged.find(path)?);
            let cost = json::amount(text)?;
            price::per_unit(&cost).map(|_| cost)
        };
        let Some(own) = names::COSTS.iter().find_map(|path| cost(path)) else {
            let ticks = Decimal::from(ticks(self.merged.find(names::TICKS)?)?);
            let cost = ticks.checked_div(Decimal::from(names::TICKS_PER_USD))?;
            let cost = cost.normalize().to_string();
            return price::per_unit(&cost).map(|_| cost);
        };
        // OpenRouter: the true cost is `cost`, plus what the user's own upstream account was charged
        // when, and only when, the call went through such an account.
        if self.merged.find(names::IS_BYOK).map(unquoted) != Some("true") {
            return Some(own);
        }
        let sum = decimal(&own)?.checked_add(decimal(&cost(names::UPSTREAM_COST)?)?)?.to_string();
        price::per_unit(&sum).map(|_| sum)
    }

    fn refused_cost(&self) -> Option<String> {
        let cost =
            names::COSTS.iter().chain(&[names::TICKS]).find_map(|path| self.merged.find(path));
        let is_number = |text: &&str| text.parse::<f64>().is_ok_and(|cost| cost != 0.0);
        cost.map(unquoted).filter(is_number).map(|cost| cost.chars().take(LONGEST_COST).collect())
    }
}

/// Of a cost that is not believed, what is kept of its text.
const LONGEST_COST: usize = 64;

/// Reads decimal or scientific notation.
pub fn decimal(text: &str) -> Option<Decimal> {
    Decimal::from_str(text).or_else(|_| Decimal::from_scientific(text)).ok()
}

/// A total from which subsets are taken, never more than is left.
struct Total(i64);

impl Total {
    fn take(&mut self, subset: i64) -> i64 {
        let taken = subset.clamp(0, self.0.max(0));
        self.0 -= taken;
        taken
    }
}

/// A sum of counts that the ledger's columns do not hold is the largest that they do.
fn fit(count: i64) -> i32 {
    i32::try_from(count.max(0)).unwrap_or(i32::MAX)
}

/// A number is read also where it is written as text.
fn unquoted(raw: &str) -> &str {
    let inner = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.map_or(raw, str::trim)
}

fn ticks(raw: &str) -> Option<u64> {
    unquoted(raw).parse().ok()
}

/// A token count: a non-negative whole number, however it is written. One that the ledger's columns
/// do not hold is the largest that they do: an absurd word of the provider's, and not none at all.
fn number(raw: &str) -> Option<i32> {
    let text = unquoted(raw);
    if let Ok(n) = text.parse::<u64>() {
        return Some(i32::try_from(n).unwrap_or(i32::MAX));
    }
    // What Rust reads beside the numbers of JSON: "inf", "NaN".
    let n: f64 = text.parse().ok().filter(|_| text.starts_with(|c: char| c.is_ascii_digit()))?;
    // A cast saturates. Past this a float is no count.
    (n.fract() == 0.0 && (0.0..=LARGEST_FLOAT).contains(&n)).then_some(n as i32)
}

/// 2^63.
const LARGEST_FLOAT: f64 = 9_223_372_036_854_775_808.0;
