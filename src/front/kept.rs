//! What the main thread has said, kept until something changes that it rests on.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard};

/// Answers by their questions, all of one generation, and no more of them than `MOST`.
pub struct Kept<K, V, const MOST: usize>(Mutex<Answers<K, V>>);

struct Answers<K, V> {
    generation: u64,
    answers: HashMap<K, V>,
}

impl<K, V, const MOST: usize> Default for Kept<K, V, MOST> {
    fn default() -> Self {
        Self(Mutex::new(Answers { generation: 0, answers: HashMap::new() }))
    }
}

impl<K: Eq + Hash, V: Clone, const MOST: usize> Kept<K, V, MOST> {
    /// The answer, as of this generation.
    pub fn get<Q>(&self, question: &Q, generation: u64) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let kept = self.lock();
        kept.answers.get(question).filter(|_| kept.generation == generation).cloned()
    }

    /// Keeps an answer of this generation, in the place of all earlier ones, or of all where there are too many.
    pub fn keep(&self, question: K, answer: V, generation: u64) {
        let mut kept = self.lock();
        if generation < kept.generation {
            return;
        }
        if generation > kept.generation || kept.answers.len() >= MOST {
            kept.answers.clear();
        }
        kept.generation = generation;
        kept.answers.insert(question, answer);
    }

    fn lock(&self) -> MutexGuard<'_, Answers<K, V>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_of_one_generation_and_not_too_much() {
        let kept = Kept::<String, u8, 2>::default();
        kept.keep("a".to_owned(), 1, 5);
        assert_eq!((kept.get("a", 5), kept.get("a", 4), kept.get("a", 6)), (Some(1), None, None));
        // What comes late is of an earlier generation.
        kept.keep("b".to_owned(), 2, 4);
        assert_eq!((kept.get("b", 4), kept.get("a", 5)), (None, Some(1)));
        kept.keep("b".to_owned(), 2, 6);
        assert_eq!((kept.get("a", 5), kept.get("a", 6), kept.get("b", 6)), (None, None, Some(2)));
        for name in ["c", "d", "e"] {
            kept.keep(name.to_owned(), 3, 6);
            assert_eq!(kept.get(name, 6), Some(3));
        }
        assert!(kept.lock().answers.len() <= 2);
    }
}
