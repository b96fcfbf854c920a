//! The codes and wordings by which providers say what a refusal is about, as data. Each row names
//! who says it; the complete answers that the rows were read off are in `tests`, a test fails for
//! every row that none of them needs.
//!
//! Sources: the providers' error pages (OpenAI "Error codes", Anthropic "Errors", Google AIP-193 and
//! "Troubleshooting guide", Mistral, DeepSeek, Groq, xAI, Cohere, Qwen/Model Studio, Zhipu/Z.ai,
//! Moonshot, MiniMax "Error codes"), the source of the open servers (vLLM, SGLang, llama.cpp,
//! Ollama, TGI, LiteLLM, new-api), and answers that users of the closed ones posted in their issue
//! trackers (LM Studio, OpenRouter, Together, Fireworks, Cerebras, SiliconFlow, GitHub Models).

use super::About;

/// Who says it, and a wording: its parts in this order, in lower case, what stands between is free.
pub(super) type Saying = (&'static str, &'static [&'static str]);

/// Codes, in lower case, that say that the key is not known.
pub(super) const KEY_CODES: &[&str] = &[
    "invalid_api_key",
    "api_key_invalid",
    "wrong_api_key",
    "consumer_suspended",
    "authentication_error",
    "invalid_authentication_error",
    "unauthenticated",
    "token_not_found_in_db",
    "unrecognizedclientexception",
];

/// Words that say it. With another status than 401 and 403 they count only where the message begins
/// with them: what a request contains may be repeated further on.
pub(super) const KEY: &[Saying] = &[
    ("Gemini", &["api key not valid"]),
    ("Gemini", &["api key expired"]),
    ("Gemini", &["api key not found"]),
    ("Gemini", &["your api key was reported as leaked"]),
    ("Gemini, without a key", &["method doesn't allow unregistered callers"]),
    ("Gemini, without a key", &["missing or invalid authorization header"]),
    ("xAI, OpenAI", &["incorrect api key provided"]),
    ("xAI, without a key", &["no api key provided"]),
    ("Groq, llama.cpp, MiniMax", &["invalid api key"]),
    ("Bedrock", &["the security token included in the request is", "invalid"]),
    ("MiniMax", &["login fail"]),
    ("Fireworks", &["the api key you provided is invalid"]),
    ("AiHubMix, new-api", &["无效的令牌"]),
];

/// Codes, in lower case, that say that the provider knows the key and does not allow this.
pub(super) const PERMISSION_CODES: &[&str] = &[
    "unsupported_country_region_territory",
    "service_disabled",
    "api_key_service_blocked",
    "api_key_http_referrer_blocked",
    "api_key_ip_address_blocked",
    "iam_permission_denied",
    "permissiondenied",
    "billing_disabled",
    "key_model_access_denied",
    "team_model_access_denied",
];

/// Words that say it.
pub(super) const PERMISSION: &[Saying] = &[
    ("Gemini", &["user location is not supported"]),
    ("OpenAI", &["country, region, or territory not supported"]),
    ("OpenAI, a restricted key", &["insufficient permissions for this operation"]),
    ("OpenAI, a restricted key", &["missing scopes"]),
    ("Google", &["has not been used in project", "before or it is disabled"]),
    ("Azure", &["access denied due to virtual network/firewall rules"]),
    ("LiteLLM", &["key not allowed to access model"]),
    ("Anthropic", &["this organization has been disabled"]),
];

/// Codes that say that the account is out of money, whatever the status.
pub(super) const CREDIT_CODES: &[&str] = &[
    "insufficient_quota",
    "enforced_spend_limit_reached",
    "insufficient_user_quota",
    "exceeded_current_quota_error",
    "billing_hard_limit_reached",
    "billing_error",
    "budget_exceeded",
    "arrearage",
    "1113",
];

/// Words that say it. With a status that is not about money or keys they count only at the beginning.
pub(super) const CREDIT: &[Saying] = &[
    ("Anthropic, as 400", &["your credit balance is too low"]),
    ("DeepSeek, MiniMax", &["insufficient balance"]),
    ("OpenRouter", &["insufficient credits"]),
    ("OpenRouter, as 403", &["key limit exceeded"]),
    ("xAI, as 403", &["used all available credits"]),
    ("xAI, as 403", &["doesn't have any credits"]),
    ("LiteLLM, as 400", &["budget has been exceeded"]),
    ("AiHubMix, new-api, as 401", &["令牌额度已用尽"]),
    ("AiHubMix, new-api, as 403", &["用户额度不足"]),
    ("Qwen, as 400", &["please make sure your account is in good standing"]),
];

/// Codes, in lower case, that say that the prompt is too long.
pub(super) const TOO_LONG_CODES: &[&str] = &[
    "context_length_exceeded",
    "exceed_context_size_error",
    "model_max_prompt_tokens_exceeded",
    "tokens_limit_reached",
    "1261",
];

/// Words that say it. "max_tokens is too large" alone is not among them: a longer model would refuse
/// it too, unless the context is named as what is exceeded.
pub(super) const TOO_LONG: &[Saying] = &[
    ("OpenAI, Azure, DeepSeek, OpenRouter, vLLM", &["maximum context length"]),
    ("OpenAI, Responses", &["exceeds the context window"]),
    ("OpenAI", &["input tokens exceed the configured limit"]),
    ("OpenAI", &["'messages[", "string too long"]),
    ("Anthropic, Fireworks", &["prompt is too long"]),
    ("Anthropic, Bedrock", &["input length and `max_tokens` exceed context limit"]),
    ("Gemini, Vertex", &["input token count", "exceeds the maximum number of tokens"]),
    ("Vertex", &["input token count is", "model only supports up to"]),
    ("xAI", &["maximum prompt length is"]),
    ("Mistral", &["prompt contains", "too large for model with"]),
    ("Groq, Cerebras, DeepSeek", &["reduce the length of the messages"]),
    ("Together, SGLang", &["is longer than the model's context length"]),
    ("TGI, Together", &["`inputs` tokens + `max_new_tokens` must be"]),
    ("TGI", &["`inputs` must have less than", "tokens"]),
    ("Cohere", &["too many tokens:"]),
    ("Qwen", &["range of input length should be"]),
    ("Zhipu", &["prompt 超长"]),
    ("Z.ai", &["prompt exceeds max length"]),
    ("Moonshot", &["exceeded model token limit"]),
    ("MiniMax", &["context window exceeds limit"]),
    ("Bedrock", &["input is too long for requested model"]),
    ("Bedrock", &["too many input tokens"]),
    ("Bedrock, Nova", &["number of input tokens exceeds maximum length"]),
    ("vLLM", &["model's context length is only"]),
    ("vLLM", &["longer than the maximum model length"]),
    ("SGLang", &["input length", "exceeds the maximum allowed length"]),
    ("llama.cpp", &["exceeds the available context size"]),
    ("llama.cpp", &["larger than the max context size"]),
    ("Ollama", &["prompt is longer than the context length"]),
    ("Ollama", &["prompt too long; exceeded max context length"]),
    ("Ollama", &["input length exceeds the context length"]),
    ("LM Studio", &["when context the overflows"]),
    ("LM Studio", &["is greater than the context length"]),
    ("LM Studio", &["context size has been exceeded"]),
    ("LM Studio", &["reached context length of"]),
    ("LiteLLM", &["contextwindowexceedederror"]),
    ("SiliconFlow", &["length of prompt_tokens", "must be less than max_seq_len"]),
    ("GitHub Models", &["request body too large for", "model. max size:", "tokens"]),
    ("GitHub Copilot", &["prompt token count of", "exceeds the limit of"]),
    ("Cloudflare", &["exceeded this model context window limit"]),
    ("Poolside, by OpenRouter", &["exceeds the maximum allowed input length"]),
    ("Volcengine", &["input length", "exceeds the maximum length"]),
];

/// Words of a limit per time, which are in no case about the length of the prompt: Groq answers 413,
/// and Bedrock "Too many tokens, please wait".
pub(super) const RATE: &[&str] = &[
    "per minute",
    "per min",
    "per day",
    "rate limit",
    "rate_limit",
    "too many requests",
    "throttl",
    "please wait",
];

/// What status (`None`: there is none that tells), codes and all words say.
pub(super) fn about(status: Option<u16>, codes: &[String], words: &str) -> About {
    let codes: Vec<String> = codes.iter().map(|code| code.to_lowercase()).collect();
    let words = words.to_lowercase();
    let has_code = |known: &[&str]| codes.iter().any(|code| known.contains(&code.as_str()));
    // Where the status is about keys and money already, its words may stand anywhere.
    let anywhere = matches!(status, None | Some(401..=403 | 429));
    let say = |known: &[Saying]| known.iter().any(|saying| is_said(saying, &words, anywhere));
    if status.is_some_and(|status| !(400..500).contains(&status)) {
        // Of a server in trouble; it may say anything.
        return match has_code(CREDIT_CODES) {
            true => About::Credit,
            false => About::Other,
        };
    }
    if status == Some(402) || has_code(CREDIT_CODES) || say(CREDIT) {
        return About::Credit;
    }
    if status == Some(429) {
        return About::Other;
    }
    if has_code(PERMISSION_CODES) || say(PERMISSION) {
        return About::Permission;
    }
    if status == Some(401) || has_code(KEY_CODES) || say(KEY) {
        return About::Key;
    }
    let may_be_long = matches!(status, None | Some(400 | 413 | 422));
    if may_be_long
        && !is_about_rate(&words, &codes)
        && (status == Some(413)
            || has_code(TOO_LONG_CODES)
            || TOO_LONG.iter().any(|saying| is_said(saying, &words, true)))
    {
        return About::TooLong;
    }
    About::Other
}

/// The status that an error inside a 200 would have had, by what it is about.
pub(super) fn status_of(about: About, codes: &[String], words: &str) -> u16 {
    match about {
        About::Key => 401,
        About::Credit => 402,
        About::Permission => 403,
        About::TooLong => 400,
        About::Other if is_about_rate(&words.to_lowercase(), codes) => 429,
        About::Other => 502,
    }
}

fn is_about_rate(words: &str, codes: &[String]) -> bool {
    RATE.iter().any(|rate| words.contains(rate))
        || codes.iter().any(|code| code.to_lowercase().contains("rate_limit"))
}

/// Whether a text has all parts of a saying in their order; not `anywhere`: from its beginning.
fn is_said((_, parts): &Saying, text: &str, anywhere: bool) -> bool {
    if !anywhere && !parts.first().is_some_and(|first| text.starts_with(first)) {
        return false;
    }
    let mut rest = text;
    parts.iter().all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// Codes that say the account is out of money, whatever the status.
pub fn is_out_of_credit(code: Option<&str>) -> bool {
    code.is_some_and(|code| CREDIT_CODES.contains(&code.to_lowercase().as_str()))
}
