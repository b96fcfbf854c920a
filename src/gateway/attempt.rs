//! One request to one candidate: admission, what is set aside, the pending row, and the sending.

use crate::core::bound::{self, Model, Size};
use crate::core::budget::Rules;
use crate::core::embedding::{Kind, Wanted};
use crate::core::request::Outline;
use crate::core::retry::{Again, Sent};
use crate::core::schema::Schema;
use crate::core::schema::ask::Way;
use crate::core::standard::anthropic::front::native;
use crate::core::standard::{self, Sending, Standard, openai};
use crate::error::Error;
use crate::gateway::admission::{self, Permit};
use crate::gateway::clients::{Outgoing, What};
use crate::gateway::delivery::Delivery;
use crate::gateway::exchange::{Exchange, Failed};
use crate::gateway::hidden::Watch;
use crate::gateway::http::Prepared;
use crate::gateway::memory::Lease;
use crate::gateway::outlet::Outlet;
use crate::gateway::row::{Leave, OpenRow};
use crate::gateway::settings::Settings;
use crate::gateway::shared::Shared;
use crate::gateway::spending::{Asking, Hold};
use crate::gateway::task::Renewed;
use crate::protocol::{Candidate, ChatAnswer, ChatCall, Native};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Between looks whether there is memory for a job.
const MEMORY_PAUSE: Duration = Duration::from_millis(200);
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);

/// Limits of the answer that a budget counts on.
#[derive(Clone, Copy)]
struct Limits {
    cap: Option<i32>,
    most_tokens: Option<i64>,
}

/// What all attempts of a call share.
pub struct Attempts<'a> {
    pub shared: &'a Shared,
    pub call: &'a ChatCall,
    /// What its request asks for.
    pub outlines: Outlines,
    /// Where its answer is checked: the request in each way that a candidate is asked in.
    pub ways: Ways,
    /// The schema that it is to fit.
    pub schema: Option<Arc<Schema>>,
    pub delivery: Delivery<'a>,
    pub deadline: Instant,
    /// Attempts for which a row was opened.
    pub made: u16,
    /// Text of the answer has reached the caller: there is no second try.
    pub has_delivered: bool,
    /// How far the attempts that failed got.
    pub sent: Sent,
    /// Who has answered, as it was when it was asked, where its answer may be kept.
    pub served: Option<Candidate>,
}

/// A request by how a model is asked for JSON, with what it asks for.
pub type Ways = BTreeMap<Way, (Arc<String>, Outline)>;

/// What a request asks for, in each form that it has.
pub struct Outlines {
    pub chat: Outline,
    /// In the form of those that speak Anthropic.
    pub native: Option<Outline>,
    /// What the answer must have, where embeddings are asked for: `chat` is about that request then.
    pub wanted: Option<Wanted>,
}

impl<'a> Attempts<'a> {
    /// Asks one candidate.
    pub async fn ask(
        &mut self,
        candidate: &Candidate,
        lease: &mut Lease,
    ) -> Result<ChatAnswer, Failed> {
        let (shared, call) = (self.shared, self.call);
        let settings = shared.settings();
        let permit = self.enter(candidate, &settings, lease).await.map_err(Failed::finally)?;
        // From here on what holds now, where the call has waited.
        let renewed = shared
            .renewals
            .renew(&shared.ledger, call, candidate)
            .await
            .map_err(Failed::elsewhere)?;
        let (candidate, rules) = match &renewed {
            None => (candidate, call.rules.clone()),
            Some(Renewed { candidate: Some(candidate), rules }) => {
                (&**candidate, Rules::about(rules, call.labels.as_deref()))
            }
            Some(Renewed { candidate: None, .. }) => {
                let model = candidate.model_id.clone();
                return Err(Failed::elsewhere(Error::NoRoute { model }));
            }
        };
        let native = self.native(candidate);
        if let (None, Some(error)) = (native, call.native.as_ref().and_then(|it| it.only.clone())) {
            return Err(Failed { again: Again::Elsewhere, ..Failed::finally(error) });
        }
        let key = shared
            .keys
            .open(&settings.keyring_file, &candidate.provider.name, &candidate.key)
            .map_err(Failed::elsewhere)?;
        let size = self.size(candidate);
        let hold =
            self.hold(candidate, &rules, &size, &settings).await.map_err(Failed::elsewhere)?;
        // What was reserved is what may be asked for.
        let most_tokens = (*rules != Rules::default()).then_some(size.output_tokens).flatten();
        let limits = Limits { cap: hold.cap(), most_tokens };
        let mut sent = lease.another();
        let request = match self.prepare(candidate, &key, &settings, limits, &mut sent).await {
            Ok(prepared) => prepared,
            Err(error) => {
                hold.release();
                return Err(Failed::elsewhere(error));
            }
        };
        self.made += 1;
        let number = call.earlier_attempts.saturating_add(self.made);
        let watch = self.watch(candidate, size, limits);
        let leave = Leave { permit, hold, departure: request.departure(), watch };
        let sync = settings.ledger_sync;
        let prompt_tokens = self.outline(candidate).prompt_tokens;
        let ledger = shared.ledger_for(self.delivery);
        let row = OpenRow::open(ledger, call, candidate, number, prompt_tokens, leave, sync)
            .await
            .map_err(Failed::finally)?;
        let exchange = Box::new(Exchange {
            shared,
            candidate,
            key: &key,
            settings: &settings,
            row,
            lease,
            outlet: Outlet::new(
                &candidate.provider.name,
                self.delivery,
                self.deadline,
                &mut self.has_delivered,
            ),
            is_native: native.is_some(),
            wanted: self.outlines.wanted,
            is_checked: call.check.is_some(),
            deadline: self.deadline,
            waited_ms: call.deadline_ms,
        });
        let answered = match timeout_at(self.deadline, request.send(Some(&key))).await {
            Ok(Ok(incoming)) => exchange.read(incoming).await,
            Ok(Err(failure)) => Err(exchange.failed(failure).await),
            Err(_) => Err(exchange.late().await),
        };
        if answered.is_ok() && call.cache.is_some() {
            self.served = Some(candidate.clone());
        }
        answered
    }

    /// The request in the candidate's own form, where it has come in that.
    fn native(&self, candidate: &Candidate) -> Option<&'a Native> {
        let speaks_it = candidate.provider.standard == Standard::Anthropic;
        // Not by a row that has become another since the request was read.
        let is_read = self.outlines.native.is_some();
        self.call.native.as_deref().filter(|_| speaks_it && is_read)
    }

    /// What is asked of this candidate.
    fn outline(&self, candidate: &Candidate) -> &Outline {
        let native = self.outlines.native.as_ref();
        native.filter(|_| self.native(candidate).is_some()).unwrap_or_else(|| {
            self.way(candidate).map_or(&self.outlines.chat, |(_, outline)| outline)
        })
    }

    /// The request in the way that this candidate is asked for JSON in. A row that has become another since then is
    /// asked as others are.
    fn way(&self, candidate: &Candidate) -> Option<&(Arc<String>, Outline)> {
        let schema = self.schema.as_ref()?;
        let way = schema.way(candidate.takes_schema, candidate.takes_tools);
        self.ways.get(&way).or_else(|| self.ways.values().next_back())
    }

    /// Waits for its turn, and takes room for the answer. A job has all the time for that: its own begins
    /// when it is sent.
    async fn enter(
        &mut self,
        candidate: &Candidate,
        settings: &Settings,
        lease: &mut Lease,
    ) -> Result<Permit, Error> {
        let waiting_since = Instant::now();
        let is_shared = candidate.key.binding.user_id.is_none();
        let (user, key) = (&self.call.user_id, candidate.user_provider_id);
        let admission = &self.shared.admission;
        if !matches!(self.delivery, Delivery::Job) {
            let entering = admission.enter(user, key, is_shared);
            let permit = timeout_at(self.deadline, entering).await.map_err(|_| Error::NoTurn {
                target: candidate.target(),
                waited_ms: waiting_since.elapsed().as_millis() as u64,
            })?;
            lease.expect_answer(settings.max_response_size)?;
            return permit.ok_or_else(admission::ended);
        }
        loop {
            let permit = admission.enter(user, key, is_shared).await;
            match lease.expect_answer(settings.max_response_size) {
                Ok(()) => {
                    self.deadline += waiting_since.elapsed();
                    return permit.ok_or_else(admission::ended);
                }
                // Jobs that wait hold memory themselves: one that has waited goes back to the queue.
                Err(error @ Error::OutOfMemory { may_pass, .. })
                    if !may_pass || waiting_since.elapsed() > MEMORY_PATIENCE =>
                {
                    return Err(error);
                }
                Err(_) => {}
            }
            // Nobody is to wait behind the memory of somebody else.
            drop(permit);
            sleep(MEMORY_PAUSE).await;
        }
    }

    /// What the request asks of this candidate at the most.
    fn size(&self, candidate: &Candidate) -> Size {
        let model = Model {
            id: &candidate.model_id,
            max_output_tokens: candidate.max_output_tokens,
            context_window: candidate.context_window,
            pricing: candidate.pricing.as_deref(),
        };
        let standard = candidate.provider.standard.wire();
        let hidden = self.shared.excesses.of(candidate.provider.id, candidate.counted_model());
        bound::size(self.outline(candidate), &model, standard.default_output_tokens(), hidden)
    }

    /// What the provider will count is compared with the size that was reserved. Where no rule counts on
    /// it, a request may ask for more than the model writes by the catalogue.
    fn watch(&self, candidate: &Candidate, size: Size, limits: Limits) -> Watch {
        let most = size.output_tokens.or(limits.cap.map(i64::from));
        let asks_for_more = match limits.most_tokens {
            Some(_) => false,
            None => self.outline(candidate).max_tokens > most,
        };
        let most = most.filter(|_| !asks_for_more);
        self.shared.excesses.watch(candidate.provider.id, candidate.counted_model(), size, most)
    }

    /// Sets aside what the attempt may cost, and takes its share of the rate limits.
    async fn hold(
        &self,
        candidate: &Candidate,
        rules: &Rules,
        size: &Size,
        settings: &Settings,
    ) -> Result<Hold, Error> {
        let call = self.call;
        let prompt = i64::from(self.outline(candidate).prompt_tokens);
        let asking = Asking {
            user: &call.user_id,
            candidate,
            rules,
            size,
            prompt,
            labels: &call.labels,
            standings: call.standings.as_deref(),
            deadline: self.deadline,
        };
        self.shared.spending.hold(self.shared.lender(settings), asking).await
    }

    /// The request, ready to leave, whose body `sent` accounts for.
    async fn prepare(
        &self,
        candidate: &Candidate,
        key: &str,
        settings: &Settings,
        limits: Limits,
        sent: &mut Lease,
    ) -> Result<Prepared, Error> {
        let provider = &candidate.provider;
        let standard = provider.standard;
        let takes_newer_name = openai::takes_newer_name(&provider.base_url, &candidate.model_id);
        let native = self.native(candidate);
        let chat = self.way(candidate).map_or(&self.call.body, |(body, _)| body);
        let body = native.map_or(chat, |native| &native.body).clone();
        let model_id = candidate.model_id.clone();
        let max_output_tokens = candidate.max_output_tokens;
        let streams = self.streams(candidate, settings);
        let is_native = native.is_some();
        let is_chat = self.call.kind == Kind::Chat;
        let bytes = body.len();
        let translate = move || {
            if !is_chat {
                return standard::embeddings_request(&body, &model_id);
            }
            let sending = Sending {
                model_id: &model_id,
                max_output_tokens,
                streams,
                cap: limits.cap,
                takes_newer_name,
                most_tokens: limits.most_tokens,
            };
            match is_native {
                true => native::request(&body, &sending),
                false => standard.wire().request(&body, &sending),
            }
        };
        let per_value = match is_native {
            true => native::BYTES_PER_VALUE,
            false => standard.wire().bytes_per_value(),
        };
        let mut working = sent.another();
        working.begin(bytes + self.outline(candidate).values * per_value)?;
        let body = Bytes::from(self.shared.heavy.run(bytes, translate).await??);
        drop(working);
        sent.begin(body.len())?;
        let what = match native {
            Some(native) => {
                let is_anthropic = native::is_anthropic_itself(&provider.base_url);
                let headers = native::headers(native.version, native.betas.clone(), is_anthropic);
                What::Native(body, headers)
            }
            None if is_chat => What::Chat(body),
            None => What::Embeddings(body),
        };
        self.shared.clients(settings)?.prepare(Outgoing {
            provider,
            target: candidate.target(),
            what,
            key: Some(key),
            limit: settings.max_response_size,
        })
    }

    fn streams(&self, candidate: &Candidate, settings: &Settings) -> bool {
        if self.call.kind != Kind::Chat {
            return false;
        }
        match self.delivery {
            Delivery::Deltas(_) | Delivery::Chunks(_) => true,
            // Whole, it is the caller's own form.
            _ if self.native(candidate).is_some() => false,
            _ => {
                let wanted = self.call.stream_upstream.unwrap_or(settings.stream_upstream);
                wanted && candidate.can_stream
            }
        }
    }
}
