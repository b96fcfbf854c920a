//! What a finished call looks like to whoever asked for it, in SQL and over HTTP.

use crate::core::reply::with_member;
use crate::error::Error;
use crate::protocol::ChatReply;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

/// A finished call.
pub struct Answer {
    /// The answer in OpenAI's format with our object `aggregator`, or an error.
    pub outcome: Result<String, Error>,
    /// What is known of the call either way, as JSON.
    pub about: serde_json::Value,
    /// USD, as `numeric` prints it.
    pub cost: Option<String>,
    pub latency_ms: Option<u64>,
    /// Who has answered.
    pub provider: Option<String>,
    /// The answer in the provider's own form with our object, where that was asked for.
    pub native: Option<String>,
}

impl Answer {
    pub fn of(call_id: Uuid, reply: ChatReply) -> Self {
        let mut about = json!({
            "usage_log_id": call_id,
            "attempts": reply.attempts,
            "latency_ms": reply.latency_ms,
        });
        let (mut cost, mut provider, mut native) = (None, None, None);
        let outcome = reply.outcome.map(|answer| {
            about["provider"] = answer.provider.as_str().into();
            provider = Some(answer.provider);
            about["served_model"] = answer.served_model.into();
            about["cost_source"] = answer.settled.cost_source.into();
            cost = answer.settled.cost;
            native = answer.native.map(|native| with_member(&native, &about, cost.as_deref()));
            with_member(&answer.response, &about, cost.as_deref())
        });
        if let Err(error) = &outcome {
            about["provider"] = error.target().map(|target| target.provider.as_str()).into();
            // Answers that do not fit were paid for.
            if let Some(spent) = reply.spent {
                about["cost_source"] = spent.cost_source.into();
                cost = spent.cost;
            }
        }
        Self { outcome, about, cost, latency_ms: Some(reply.latency_ms), provider, native }
    }

    /// A call that never was.
    pub fn refused(error: Error) -> Self {
        let outcome = Err(error);
        let about = json!({});
        Self { outcome, about, cost: None, latency_ms: None, provider: None, native: None }
    }

    /// The answer; with `throws` errors stay errors, else they become JSON values.
    pub fn into_json(self, throws: bool) -> Result<String, Error> {
        match self.outcome {
            Err(ref error @ Error::SchemaViolation { ref violations, .. }) if !throws => {
                let error = error.to_json();
                let told = json!({"error": error, "parsed": null, "violations": violations});
                Ok(with_member(&told.to_string(), &self.about, self.cost.as_deref()))
            }
            Err(error) if !throws && !matches!(error, Error::ClientGone) => {
                Ok(json!({"error": error.to_json(), "aggregator": self.about}).to_string())
            }
            outcome => outcome,
        }
    }
}

/// The `usage` member of an answer, as it came.
pub fn usage_of(answer: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Usage<'a> {
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
    }
    let usage = serde_json::from_str::<Usage>(answer).ok()?.usage?.get();
    (usage != "null").then(|| usage.to_owned())
}
