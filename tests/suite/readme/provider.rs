//! The provider that answers while the pages are run: what they show is what it says, at the prices of its list.

use crate::checked_json::calls;
use crate::upstream::{Answer, Piece, Seen, Upstream};
use serde_json::{Value, json};

/// OpenRouter's form, with its prices of November 2026.
pub const MODELS: &str = r#"{"data":[{"id":"openai/text-embedding-3-small","name":"Embedding 3 small","context_length":8192,
    "architecture":{"input_modalities":["text"],"output_modalities":["embeddings"]},
    "pricing":{"prompt":"0.00000002","completion":"0"}},
    {"id":"openai/gpt-4o-mini","name":"GPT-4o mini","context_length":128000,
    "architecture":{"input_modalities":["text"],"output_modalities":["text"]},
    "pricing":{"prompt":"0.00000015","completion":"0.0000006"},"supported_parameters":["tools"]},
    {"id":"anthropic/claude-sonnet-4.5","name":"Claude Sonnet 4.5","context_length":200000,
    "architecture":{"input_modalities":["text"],"output_modalities":["text"]},
    "pricing":{"prompt":"0.000003","completion":"0.000015"},"supported_parameters":["tools"]}]}"#;

pub async fn start() -> Upstream {
    Upstream::raw(|seen| match seen.path.as_str() {
        path if path.ends_with("/models") => Answer::json(200, MODELS),
        path if path.ends_with("/chat/completions") => chat(&seen.json()),
        path if path.ends_with("/embeddings") => embeds(seen),
        _ => Answer::json(200, r#"{"data":{"label":"key"}}"#),
    })
    .await
}

fn chat(asked: &Value) -> Answer {
    if asked.get("tools").is_some() {
        return fitting(asked);
    }
    let last = asked["messages"].as_array().and_then(|all| all.last());
    let text = last.and_then(|message| message["content"].as_str()).unwrap_or_default();
    let answer = match text {
        "What is the capital of France?" => "The capital of France is Paris.".to_owned(),
        "Hello" => "Hello! How can I help you today?".to_owned(),
        "What is a monad?" => "A monoid in the category of endofunctors.".to_owned(),
        _ => match text.strip_prefix("Summarise: ") {
            Some(body) => format!("In short: {body}"),
            None => "Once upon a time.".to_owned(),
        },
    };
    let usage = usage(text, &answer);
    let whole = |object: &str, choices: Value, usage: &Value| {
        json!({"id": "gen-1764342123-pages", "object": object, "created": 1_764_342_123, "model": asked["model"],
            "choices": choices, "usage": usage})
        .to_string()
    };
    if asked["stream"] != true {
        let message = json!({"role": "assistant", "content": answer});
        let choices = json!([{"index": 0, "message": message, "finish_reason": "stop"}]);
        return Answer::json(200, whole("chat.completion", choices, &usage));
    }
    let chunk = |delta: Value, finish: Value| {
        let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
        Piece::Data(whole("chat.completion.chunk", choices, &Value::Null))
    };
    let mut pieces = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    pieces.extend(
        answer.split_inclusive(' ').map(|word| chunk(json!({"content": word}), Value::Null)),
    );
    pieces.push(chunk(json!({}), "stop".into()));
    pieces.push(Piece::Data(whole("chat.completion.chunk", json!([]), &usage)));
    pieces.push(Piece::done());
    Answer::Stream(pieces)
}

/// About what OpenAI counts: a word is a token, and so is what stands around each message.
fn usage(text: &str, answer: &str) -> Value {
    let (prompt, completion) = (8 + text.split(' ').count(), 1 + answer.split(' ').count());
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// An answer with the members that the schema of a request wants.
fn fitting(asked: &Value) -> Answer {
    let known = json!({"city": "Paris", "country": "France", "name": "Ann", "born": "2019-01-31", "answer": true});
    let members = asked["tools"][0]["function"]["parameters"]["properties"].as_object().unwrap();
    let answer: Value = members
        .iter()
        .map(|(name, schema)| match known.get(name) {
            Some(value) => (name.clone(), value.clone()),
            None => (name.clone(), label(&schema["anyOf"][0]["enum"])),
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    calls(&answer.to_string())
}

/// The label for what the pages ask about.
fn label(of: &Value) -> Value {
    let labels = of.as_array().unwrap();
    labels.iter().find(|label| *label == "complaint").unwrap_or(&labels[0]).clone()
}

/// Vectors of as many numbers as were asked for.
fn embeds(seen: &Seen) -> Answer {
    let body = seen.json();
    let dimensions = body["dimensions"].as_u64().unwrap_or(1536) as usize;
    let texts = body["input"].as_array().expect("a list");
    let data: Vec<Value> = texts
        .iter()
        .map(|text| {
            let mut vector = vec![0.5; dimensions];
            vector[0] = text.as_str().unwrap().len() as f32;
            json!({"embedding": vector})
        })
        .collect();
    Answer::json(200, json!({"data": data, "usage": {"prompt_tokens": 3}}).to_string())
}
