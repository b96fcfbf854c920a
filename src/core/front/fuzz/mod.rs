//! What strangers reach, at random and in number: what they say of themselves in the head of a request, bodies of the
//! three dialects, and the streams that become events for clients. Nothing panics, what is taken is taken alike further
//! in, and what is written can be read. As [`crate::core::fuzz`], which says how to try more.

mod bodies;
mod heads;
mod streams;
mod writer;

use crate::core::fuzz::count_and_seed;
use fastrand::Rng;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `check` on so many inputs, each with a seed of its own; says how many were taken.
fn try_all(what: &str, least: u64, check: impl Fn(&mut Rng, &mut String) -> bool) {
    let (count, seed) = count_and_seed();
    // These take longer than those of the core, and there are more of them.
    let count = if std::env::var_os("AGGREGATOR_FUZZ").is_none() { count / 10 } else { count };
    let mut taken = 0;
    for index in 0..count {
        let mut rng = Rng::with_seed(seed.wrapping_add(index));
        let mut input = String::new();
        match catch_unwind(AssertUnwindSafe(|| check(&mut rng, &mut input))) {
            Ok(is_taken) => taken += u64::from(is_taken),
            Err(_) => panic!("{what} {index} of seed {seed}: {input}"),
        }
    }
    println!("{count} of {what}: {taken} taken");
    // Or nothing would have been tried.
    assert!(taken >= count / least, "{taken} of {count}");
}

fn any<'a>(rng: &mut Rng, of: &[&'a str]) -> &'a str {
    of[rng.usize(0..of.len())]
}
