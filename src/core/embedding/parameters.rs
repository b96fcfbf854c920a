//! The members of a request for embeddings, by name. As of chats this is a list and not a guess: by what is not in it
//! the cost has no bound.

use crate::core::parameters::Takes;

/// A member beside `model` and `input`.
pub struct Member {
    pub name: &'static str,
    pub takes: Takes,
    /// Of OpenAI's API reference, "Create embeddings".
    pub is_openais: bool,
    /// The provider may put words of its own before each input, which are billed.
    pub adds_words: bool,
}

const fn openai(name: &'static str, takes: Takes) -> Member {
    Member { name, takes, is_openais: true, adds_words: false }
}

const fn vendor(name: &'static str, adds_words: bool) -> Member {
    Member { name, takes: Takes::Any, is_openais: false, adds_words }
}

pub const MEMBERS: &[Member] = &[
    openai("dimensions", Takes::Tokens),
    openai("encoding_format", Takes::Text),
    openai("user", Takes::Text),
    // Cohere's, Voyage's, NVIDIA's and Jina's, as relays in OpenAI's form take them: what the texts are for, and what
    // becomes of one that is too long.
    vendor("input_type", true),
    vendor("task", true),
    vendor("task_type", true),
    vendor("late_chunking", false),
    vendor("normalize", false),
    vendor("normalized", false),
    vendor("truncate", false),
    vendor("truncation", false),
    // Ollama's: how long the model stays loaded.
    vendor("keep_alive", false),
];

/// The member of this very name.
pub fn find(name: &str) -> Option<&'static Member> {
    MEMBERS.iter().find(|member| member.name == name)
}
