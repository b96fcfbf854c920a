//! Whether what a page shows is what came. Widths of columns do not count, nor do values that differ each time: ids,
//! times, durations and secrets are of their kind. `…` stands for anything within a line, or, alone on one, for lines.

use super::blocks::Block;
use crate::bed::tree;

/// Fails with both texts where they differ. With AGGREGATOR_WRITE_GOLDENS=1 the page shows what came from then on.
pub fn check(block: &Block, shown: &str, came: &str) {
    if lines_match(&plain(shown), &plain(came)) {
        return;
    }
    let place = block.place();
    if std::env::var("AGGREGATOR_WRITE_GOLDENS").as_deref() != Ok("1") {
        panic!("{place} shows\n{shown}\nand this came:\n{came}");
    }
    let file = tree(&block.page);
    let page = std::fs::read_to_string(&file).unwrap();
    let came: String = came.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    // Blocks come in their order: those before this one show what came already.
    let (old, new) = (format!("```text\n{shown}```"), format!("```text\n{came}```"));
    assert!(page.contains(&old), "{place} is indented: write it yourself");
    std::fs::write(file, page.replacen(&old, &new, 1)).unwrap();
}

/// The lines, each with its masks.
fn plain(text: &str) -> Vec<String> {
    let mut header: Vec<String> = vec![];
    let mut lines = vec![];
    for line in text.trim_end().lines() {
        // A value of several lines has a + at the end of each but the last.
        let cells = line.split('|').map(|cell| cell.trim_end().trim_end_matches('+').trim());
        let cells: Vec<&str> = cells.collect();
        let of_two = cells.len() == 2 && is_duration(cells[0]);
        let masked = cells.iter().enumerate().map(|(i, cell)| {
            let column = header.get(i).filter(|_| header.len() == cells.len());
            let lasts = column.is_some_and(|name| is_duration(name)) || (of_two && i == 1);
            if lasts && cell.parse::<f64>().is_ok() { "<ms>".to_owned() } else { masked(cell) }
        });
        let joined = masked.collect::<Vec<_>>().join(" | ");
        // psql's rule below the names of the columns.
        match line.trim().trim_matches(['-', '+']).is_empty() && line.contains("--") {
            true => {
                header = lines
                    .last()
                    .map(|last: &String| {
                        last.split('|').map(|name| name.trim().to_owned()).collect()
                    })
                    .unwrap_or_default();
                lines.push("--".to_owned());
            }
            false => lines.push(joined),
        }
    }
    while lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    lines
}

fn is_duration(column: &str) -> bool {
    column.ends_with("_ms") || column == "took"
}

/// A text in which what differs each time is replaced, and spaces are one.
fn masked(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '.' | '+');
    let mut masked = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
        if end == 0 {
            let c = rest.chars().next().expect("it is not empty");
            if !(c == ' ' && masked.ends_with([' ', '-'])) {
                masked.push(c);
            }
            rest = &rest[c.len_utf8()..];
            continue;
        }
        // The colon after a name in JSON is no part of its value.
        let is_colon = rest.starts_with(':') && masked.ends_with('"');
        let (word, after) = rest.split_at(if is_colon { 1 } else { end });
        // In JSON: "latency_ms": 12.
        let lasts = masked.trim_end().ends_with("_ms\":") && word.parse::<f64>().is_ok();
        masked.push_str(if lasts { "<ms>" } else { kind(word) });
        rest = after;
    }
    let mut words = masked.split_whitespace().collect::<Vec<_>>().join(" ");
    // The rule of a record is as wide as its widest value.
    if words.starts_with("-[ RECORD") {
        words.truncate(words.find(']').map_or(words.len(), |end| end + 1));
    }
    words
}

/// What a word is, if it is another one each time.
fn kind(word: &str) -> &str {
    let form: String = word.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    let is_hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<&str> = word.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    if lengths == [8, 4, 4, 4, 12] && parts.iter().all(|part| is_hex(part)) {
        "<id>"
    } else if form.starts_with("9999-99-99") {
        "<date>"
    } else if form.starts_with("99:99:99") {
        "<time>"
    } else if word.starts_with("agk_") && word.len() > 20 {
        "agk_…"
    } else if word.starts_with("agc_") && word.len() > 20 {
        "agc_…"
    } else {
        word
    }
}

fn lines_match(shown: &[String], came: &[String]) -> bool {
    match shown.split_first() {
        None => came.is_empty(),
        Some((first, rest)) if first == "…" => {
            (0..=came.len()).any(|count| lines_match(rest, &came[count..]))
        }
        Some((first, rest)) => came
            .split_first()
            .is_some_and(|(line, more)| line_matches(first, line) && lines_match(rest, more)),
    }
}

fn line_matches(shown: &str, came: &str) -> bool {
    let Some((begins, rest)) = shown.split_once('…') else { return shown == came };
    let Some(came) = came.strip_prefix(begins) else { return false };
    (0..=came.len())
        .filter(|at| came.is_char_boundary(*at))
        .any(|at| line_matches(rest, &came[at..]))
}

#[test]
fn what_differs_each_time_is_of_its_kind_and_nothing_else_is_let_through() {
    let same = |shown: &str, came: &str| lines_match(&plain(shown), &plain(came));
    let table = " id | latency_ms | tokens \n----+----+---\n 0197c5b0-1111-7222-8333-444455556666 | 412 | 21\n(1 row)";
    let other = " id |  latency_ms | tokens \n-----+--+---\n 11111111-1111-4111-8111-111111111111 |   7 |     21\n(1 row)\n\n";
    assert!(same(table, other));
    assert!(!same(table, &other.replace("21", "22")));
    let (json, other) = (r#"{"latency_ms":17,"n":1}"#, r#"{"latency_ms":180,"n":1}"#);
    assert!(same(json, other));
    assert!(!same(json, &other.replace("\"n\":1", "\"n\":2")));
    assert!(!same(table, &other.replace("11111111-1111-4111-8111-111111111111", "x")));
    assert!(!same(table, &other.replace("latency_ms", "latency")));
    assert!(same("at 2026-11-28 10:00:00+00", "at   2027-01-01 11:11:11.123+00"));
    assert!(!same("at 2026-11-28", "at 28.11.2026"));
    assert!(same("{\"latency_ms\": 5, \"n\": 1}", "{\"latency_ms\": 7.5, \"n\": 1}"));
    assert!(!same("{\"latency_ms\": 5, \"n\": 1}", "{\"latency_ms\": 5, \"n\": 2}"));
    assert!(same("a…d\n…\nz", "abcd\nmore\nand more\nz"));
    assert!(!same("a…d\n…\nz", "abcd\nmore"));
    assert!(!same("one", "one\ntwo"));
}
