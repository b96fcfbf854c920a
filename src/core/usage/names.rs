//! Under which names providers and relays count, and where each count stands: one table.
//!
//! Nobody's names are asked of nobody's provider: a relay passes on what stands behind it, so that
//! every name is looked for in every usage. Of names that say the same thing, the largest count is
//! it: those who know several give one of them as 0.

/// Where a count is: members from the `usage` on.
pub(super) type Path = &'static [&'static str];

/// Whether the cache's counts are part of the prompt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cache {
    /// As documented by whoever made the form.
    Outside,
    /// As OpenAI documents, unless the provider's own total counts them beside the prompt and the
    /// completion. Claude's counts, which stand outside, are put under these totals by relays: under
    /// [`CLAUDE_READ`] and [`CLAUDE_WRITE`] they stand outside also where they do not fit inside.
    Inside,
}

/// The names of the three totals, by which a form is told from the others.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) prompt: &'static str,
    pub(super) completion: &'static str,
    pub(super) total: &'static str,
    pub(super) cache: Cache,
    /// Tokens of the answer that its count leaves out.
    pub(super) more_output: &'static [Path],
    /// Tokens of the prompt that its count leaves out.
    pub(super) more_input: &'static [Path],
}

/// Each is tried in turn; the first with a count that is not 0 is it (relays give the names of two
/// forms, those of one with zeros).
pub(super) const FORMS: &[Form] = &[
    // OpenAI, and nearly everybody.
    Form {
        prompt: "prompt_tokens",
        completion: "completion_tokens",
        total: "total_tokens",
        cache: Cache::Inside,
        more_output: &[],
        more_input: &[],
    },
    // Anthropic ("Prompt caching": the total of the prompt is the sum of the three counts), and
    // OpenAI's Responses, which are told from it by `input_tokens_details`.
    Form {
        prompt: "input_tokens",
        completion: "output_tokens",
        total: "total_tokens",
        cache: Cache::Outside,
        more_output: &[],
        more_input: &[],
    },
    // Amazon Bedrock, Converse (`TokenUsage`): `inputTokens` without what was read or written.
    Form {
        prompt: "inputTokens",
        completion: "outputTokens",
        total: "totalTokens",
        cache: Cache::Outside,
        more_output: &[],
        more_input: &[],
    },
    // Gemini and Vertex AI (`UsageMetadata`): the total is the sum of the prompt, the candidates,
    // the thoughts and the prompts of tools; `cachedContentTokenCount` is part of the prompt.
    Form {
        prompt: "promptTokenCount",
        completion: "candidatesTokenCount",
        total: "totalTokenCount",
        cache: Cache::Inside,
        more_output: &[&["thoughtsTokenCount"]],
        more_input: &[&["toolUsePromptTokenCount"]],
    },
];

/// With this beside it, `input_tokens` is OpenAI's, and has the cache inside.
pub(super) const RESPONSES: Path = &["input_tokens_details"];

/// Read from a cache, as documented a part of the prompt. What is more than the prompt is trimmed.
pub(super) const CACHE_READ: &[Path] = &[
    // OpenAI, OpenRouter, xAI, Groq, Gemini's layer, Mistral, Fireworks, Qwen, Zhipu, MiniMax,
    // vLLM, SGLang, llama.cpp.
    &["prompt_tokens_details", "cached_tokens"],
    // OpenAI's Responses.
    &["input_tokens_details", "cached_tokens"],
    // OpenAI's realtime models, and relays that took their names.
    &["input_token_details", "cached_tokens"],
    // DeepSeek ("Context caching": `prompt_tokens` is hits and misses).
    &["prompt_cache_hit_tokens"],
    // Moonshot and Together.
    &["cached_tokens"],
    // Mistral, older.
    &["num_cached_tokens"],
    // xAI's names over gRPC, which some relays pass on.
    &["cached_prompt_text_tokens"],
    // Gemini and Vertex AI.
    &["cachedContentTokenCount"],
    // Relays' own.
    &["cached_input_tokens"],
];

/// Read from a cache, under names that come from Claude: inside (LiteLLM) or outside (Anthropic,
/// Portkey, Bedrock).
pub(super) const CLAUDE_READ: &[Path] = &[
    // Anthropic; LiteLLM and Portkey in front of it, at the top and in the details.
    &["cache_read_input_tokens"],
    &["prompt_tokens_details", "cache_read_input_tokens"],
    &["prompt_tokens_details", "cache_read_tokens"],
    // Amazon Bedrock.
    &["cacheReadInputTokens"],
    // LangChain's servers.
    &["input_token_details", "cache_read"],
    // Relays' own.
    &["cache_read_tokens"],
];

/// Written to a cache, as documented a part of the prompt: OpenRouter, and OpenAI's newer models.
pub(super) const CACHE_WRITE: &[Path] = &[
    &["prompt_tokens_details", "cache_write_tokens"],
    &["input_tokens_details", "cache_write_tokens"],
];

/// Written to a cache, under names that come from Claude.
pub(super) const CLAUDE_WRITE: &[Path] = &[
    // Anthropic; LiteLLM and Portkey in front of it.
    &["cache_creation_input_tokens"],
    // LiteLLM.
    &["prompt_tokens_details", "cache_creation_tokens"],
    // One API, New API and the relays that run them.
    &["prompt_tokens_details", "cached_creation_tokens"],
    &["input_tokens_details", "cached_creation_tokens"],
    // Qwen (Model Studio, "Context cache", explicit).
    &["prompt_tokens_details", "cache_creation_input_tokens"],
    // Amazon Bedrock.
    &["cacheWriteInputTokens"],
    // LangChain's servers.
    &["input_token_details", "cache_creation"],
    // Relays' own.
    &["cache_write_tokens"],
    &["cache_creation_tokens"],
    &["cache_write_input_tokens"],
];

/// Of what was written, what was written for five minutes.
pub(super) const CACHE_WRITE_5M: &[Path] = &[
    // Anthropic.
    &["cache_creation", "ephemeral_5m_input_tokens"],
    // Qwen.
    &["prompt_tokens_details", "cache_creation", "ephemeral_5m_input_tokens"],
    // LiteLLM.
    &["prompt_tokens_details", "cache_creation_token_details", "ephemeral_5m_input_tokens"],
    // New API.
    &["claude_cache_creation_5_m_tokens"],
];

/// Of what was written, what was written for an hour.
pub(super) const CACHE_WRITE_1H: &[Path] = &[
    &["cache_creation", "ephemeral_1h_input_tokens"],
    &["prompt_tokens_details", "cache_creation", "ephemeral_1h_input_tokens"],
    &["prompt_tokens_details", "cache_creation_token_details", "ephemeral_1h_input_tokens"],
    &["claude_cache_creation_1_h_tokens"],
];

/// DeepSeek: together they are the prompt.
pub(super) const CACHE_MISS: Path = &["prompt_cache_miss_tokens"];
pub(super) const CACHE_HIT: Path = &["prompt_cache_hit_tokens"];

/// Thought, part of the completion unless it is more than that, or the total says otherwise (xAI,
/// and relays in front of Gemini, count it beside the completion).
pub(super) const REASONING: &[Path] = &[
    &["completion_tokens_details", "reasoning_tokens"],
    &["output_tokens_details", "reasoning_tokens"],
    // Anthropic.
    &["output_tokens_details", "thinking_tokens"],
    // SGLang, Perplexity.
    &["reasoning_tokens"],
];

/// Heard and spoken.
pub(super) const AUDIO_INPUT: &[Path] = &[
    &["prompt_tokens_details", "audio_tokens"],
    &["input_tokens_details", "audio_tokens"],
    &["input_token_details", "audio_tokens"],
];
pub(super) const AUDIO_OUTPUT: &[Path] = &[
    &["completion_tokens_details", "audio_tokens"],
    &["output_tokens_details", "audio_tokens"],
    &["output_token_details", "audio_tokens"],
];
/// Of what was heard, what came from the cache: it is in the counts of both.
pub(super) const CACHED_AUDIO: &[Path] = &[
    &["prompt_tokens_details", "cached_audio_tokens"],
    &["prompt_tokens_details", "cached_tokens_details", "audio_tokens"],
    &["input_token_details", "cached_tokens_details", "audio_tokens"],
];
/// Mistral's Voxtral: what the total has beyond the sum was heard, not said.
pub(super) const AUDIO_SECONDS: Path = &["prompt_audio_seconds"];

/// Searches that the provider made, each for a fee. Anthropic's member, which OpenRouter and our own
/// translation keep.
pub(super) const WEB_SEARCHES: &[Path] = &[&["server_tool_use", "web_search_requests"]];
/// No provider that we know counts images in its usage; whoever does finds them priced.
pub(super) const IMAGES: &[Path] = &[&["images"]];

/// What the call cost, in USD.
pub(super) const COSTS: &[Path] = &[
    // OpenRouter, Vercel's AI Gateway (as text).
    &["cost"],
    // Perplexity.
    &["cost", "total_cost"],
];
/// xAI ("Cost tracking"): what was charged, in units of 10^-10 USD.
pub(super) const TICKS: Path = &["cost_in_usd_ticks"];
pub(super) const TICKS_PER_USD: i64 = 10_000_000_000;
/// OpenRouter: the call went through an account of the user's own upstream, which charged this.
pub(super) const IS_BYOK: Path = &["is_byok"];
pub(super) const UPSTREAM_COST: Path = &["cost_details", "upstream_inference_cost"];

/// Members of an answer or of a chunk that hold a `usage`: Groq ends its streams with this one.
pub const HOLDERS: &[&str] = &["x_groq"];
