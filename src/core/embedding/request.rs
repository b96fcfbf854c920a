//! What a request for embeddings asks for, from one pass over its text.

use super::{LONGEST_INPUT, MOST_DIMENSIONS, MOST_PER_REQUEST, Wanted, find};
use crate::core::estimate::Counter;
use crate::core::parameters;
use crate::core::request::{MOST_MEMBERS, Outline};
use crate::core::scan::{Kind, Scanner, Text, Unfit};
use std::collections::BTreeSet;

/// Tokens that a provider may put before each input at the most. Voyage's are the longest that are documented, of
/// some ten tokens.
const WORDS_PER_INPUT: usize = 64;
/// Of a name, in an error.
const SHOWN: usize = 64;

/// Reads a request, which may or may not name a model.
pub fn outline(body: &str) -> Result<(Outline, Wanted), Unfit> {
    let mut scanner = Scanner::new(body);
    if scanner.kind()? != Kind::Object {
        return Err(wrong("must be a JSON object"));
    }
    let mut counter = Counter::default();
    let mut seen = BTreeSet::new();
    let (mut inputs, mut dimensions, mut unbounded, mut adds_words) = (None, None, None, false);
    scanner.members(|scanner, key| {
        let key = key.said().ok_or_else(|| wrong("has a name that is no text"))?.into_owned();
        if seen.len() == MOST_MEMBERS {
            return Err(wrong(format!("has more than {MOST_MEMBERS} members")));
        }
        match (key.as_str(), find(&key)) {
            ("input", _) => inputs = Some(read_inputs(scanner, &mut counter)?),
            ("model", _) => drop(scanner.skip()?),
            (_, Some(member)) => {
                let value = scanner.skip()?;
                if !member.takes.fits(value) {
                    return Err(wrong(format!("must have {} as {key}", member.takes.words())));
                }
                if key == "dimensions" {
                    dimensions = parameters::whole(value);
                }
                adds_words |= member.adds_words && value != "null";
            }
            (_, None) => {
                if scanner.skip()? != "null" {
                    unbounded
                        .get_or_insert_with(|| format!("'{}', which is not known", shown(&key)));
                }
            }
        }
        if !seen.insert(key.clone()) {
            return Err(Unfit::Twice(shown(&key)));
        }
        Ok(())
    })?;
    scanner.end()?;
    let inputs =
        inputs.ok_or_else(|| wrong("must have a text or an array of texts as its input"))?;
    let dimensions = dimensions.map(checked_dimensions).transpose()?;
    let words = if adds_words { inputs * WORDS_PER_INPUT } else { 0 };
    let outline = Outline {
        bytes: body.len() + words,
        values: scanner.values(),
        // No token comes out.
        max_tokens: Some(0),
        unbounded,
        prompt_tokens: counter.tokens(),
        ..Outline::default()
    };
    Ok((outline, Wanted { inputs, dimensions }))
}

/// Reads the texts of `input` alone, and says how many there are.
pub fn inputs(text: &str) -> Result<usize, Unfit> {
    read_inputs(&mut Scanner::within_object(text), &mut Counter::default())
}

fn read_inputs(scanner: &mut Scanner<'_>, counter: &mut Counter) -> Result<usize, Unfit> {
    let mut read = |scanner: &mut Scanner<'_>| match scanner.kind()? {
        Kind::Text => {
            let text = scanner.string()?;
            counter.add_json(text);
            checked(text)
        }
        Kind::Number | Kind::List => Err(wrong(
            "must have texts as its input: tokens differ by model, so arrays of them are not taken",
        )),
        _ => Err(wrong("must have a text or an array of texts as its input")),
    };
    if scanner.kind()? != Kind::List {
        return read(scanner).map(|()| 1);
    }
    let mut count = 0;
    scanner.items(|scanner| {
        count += 1;
        if count > MOST_PER_REQUEST {
            return Err(wrong(format!("has more than {MOST_PER_REQUEST} inputs")));
        }
        read(scanner)
    })?;
    match count {
        0 => Err(wrong("has no input")),
        count => Ok(count),
    }
}

fn checked(text: Text<'_>) -> Result<(), Unfit> {
    if text.raw().is_empty() {
        return Err(wrong("has an input that is empty"));
    }
    match text.said_within(LONGEST_INPUT) {
        Some(said) if said.len() <= LONGEST_INPUT => Ok(()),
        _ if text.is_escaped() && text.raw().len() <= LONGEST_INPUT => {
            Err(wrong("has an input that is no text"))
        }
        _ => Err(wrong(format!("has an input of more than {LONGEST_INPUT} bytes"))),
    }
}

/// How many numbers a vector may be asked to have.
pub fn checked_dimensions(asked: i64) -> Result<usize, Unfit> {
    usize::try_from(asked).ok().filter(|asked| (1..=MOST_DIMENSIONS).contains(asked)).ok_or_else(
        || wrong(format!("must have a whole number from 1 to {MOST_DIMENSIONS} as dimensions")),
    )
}

fn shown(name: &str) -> String {
    name.chars().take(SHOWN).collect()
}

fn wrong(what: impl Into<String>) -> Unfit {
    Unfit::Wrong(what.into())
}
