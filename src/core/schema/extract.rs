//! The JSON in what a model says: models put it into fences, and words before and after it.

use crate::core::scan::{Kind, Scanner};

/// Texts that may be the answer, of those that are found.
const MOST: usize = 8;
/// What looking for them takes at the most, as a multiple of the text.
const PASSES: usize = 8;

/// Texts that are JSON, the likeliest first: the whole; what stands in fences, and what stands in words, of each the
/// last one before those before it. A model that thinks aloud comes to its answer at the end.
pub fn candidates(said: &str) -> Vec<&str> {
    let whole = said.trim();
    if is_whole(whole) {
        return vec![whole];
    }
    let mut found: Vec<&str> = fenced(said).into_iter().rev().collect();
    found.extend(in_words(said).into_iter().rev());
    found.truncate(MOST);
    found
}

fn is_whole(text: &str) -> bool {
    let mut scanner = Scanner::new(text);
    scanner.skip().is_ok() && scanner.end().is_ok()
}

/// What stands in fences.
fn fenced(said: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = said;
    while let Some((_, inside)) = rest.split_once("```") {
        let Some((inside, after)) = inside.split_once("```") else { break };
        // The language stands behind the first mark.
        let text = inside.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
        for text in [inside.trim(), text.trim()] {
            if is_whole(text) {
                keep(&mut found, text);
                break;
            }
        }
        rest = after;
    }
    found
}

/// Objects and lists that stand in words.
fn in_words(said: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut left = said.len().saturating_mul(PASSES);
    let mut at = 0;
    while let Some(next) = said[at..].find(['{', '[']) {
        let from = at + next;
        let mut scanner = Scanner::new(&said[from..]);
        let is_json = scanner
            .kind()
            .is_ok_and(|kind| matches!(kind, Kind::Object | Kind::List) && scanner.skip().is_ok());
        let read = said.len() - from - scanner.rest().len();
        if is_json {
            keep(&mut found, &said[from..from + read]);
        }
        let Some(rest) = left.checked_sub(read) else { break };
        left = rest;
        at = from + if is_json { read.max(1) } else { 1 };
    }
    found
}

/// The last ones.
fn keep<'a>(found: &mut Vec<&'a str>, text: &'a str) {
    if found.len() == MOST {
        found.remove(0);
    }
    found.push(text);
}
