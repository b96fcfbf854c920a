//! A kept answer, as it is sealed.

use crate::core::reply;
use crate::protocol::ChatAnswer;
use serde::{Deserialize, Serialize};

/// First byte of what is sealed: the form of the rest.
const FORM: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// In OpenAI's form.
    pub response: String,
    pub served_model: String,
    /// What it cost, in USD. `None`: that was not known.
    pub cost: Option<String>,
    /// What it used.
    pub tokens: Option<i64>,
}

impl Entry {
    pub fn of(answer: &ChatAnswer) -> Self {
        let parts = reply::usage(&answer.response).parts;
        Self {
            response: answer.response.clone(),
            served_model: answer.served_model.clone(),
            cost: answer.settled.cost.clone(),
            tokens: parts.map(|parts| i64::from(parts.prompt()) + i64::from(parts.completion())),
        }
    }

    pub fn write(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![FORM]).expect("entries can be encoded")
    }

    /// `None`: it is of another form.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&FORM, rest)) => postcard::from_bytes(rest).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Settled;

    #[test]
    fn an_entry_reads_back() {
        let response = r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        let entry = Entry::of(&ChatAnswer {
            provider: "p".to_owned(),
            response: response.to_owned(),
            served_model: "m".to_owned(),
            settled: Settled { cost: Some("0.1".to_owned()), cost_source: None },
            native: None,
        });
        assert_eq!((entry.tokens, entry.cost.as_deref()), (Some(7), Some("0.1")));
        let written = entry.write();
        assert_eq!(Entry::read(&written), Some(entry));
        for bad in [&[][..], &[FORM], &[2, 0], &written[..9]] {
            assert_eq!(Entry::read(bad), None);
        }
    }
}
