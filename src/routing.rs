//! From a model's name to the providers, models and keys that can serve a call. Sessions ask as the
//! extension's owner, with the user named; so does the worker for jobs.

use crate::core::budget::{Budget, Keys, Period, RateLimit, Rules, Scope};
use crate::core::secret::Binding;
use crate::core::standard::Standard;
use crate::database::failed;
use crate::error::Error;
use crate::fresh::{self, Plan, required};
use crate::installed::Installed;
use crate::protocol::{Candidate, Known, Provider, SealedKey, Whose};
use pgrx::pg_sys::{Oid, TEXTOID};
use pgrx::spi::{self, SpiClient, SpiHeapTupleData};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use uuid::Uuid;

/// One row of `aggregator_routes`.
pub struct Route {
    pub provider_type: String,
    pub api_standard: String,
    pub is_platform_key: bool,
    pub candidate: Candidate,
}

const ROUTES: &str = "
    SELECT r.provider_id, r.provider_name, r.provider_type, r.api_standard, r.base_url,
        r.headers::text, r.model_id, r.user_provider_id, r.is_platform_key, r.api_key_encrypted,
        r.pricing::text, r.context_window, r.max_output_tokens, r.can_stream, r.is_listed,
        r.may_embed, r.takes_schema, r.takes_tools,
        EXISTS (
            SELECT FROM @extschema@.aggregator_models AS m
            WHERE m.provider_id = r.provider_id AND m.model_id = r.model_id AND m.shares_cache
        )
    FROM @extschema@.aggregator_routes($1, $2, $3) AS r
    LIMIT 64";

/// Of every call: a plain statement, because a function would cost more than it finds.
const RULES: &str = "
    SELECT b.id, b.user_id, b.each_user, b.provider_id, b.model_id, b.period, b.limit_usd::text,
        b.limit_tokens, b.limit_requests, b.action = 'block', NULL::bigint, NULL::bigint,
        b.keys, b.gateway_key_id, b.tag
    FROM @extschema@.aggregator_budgets AS b
    WHERE (b.user_id IS NULL OR b.user_id = $1)
      AND (b.gateway_key_id IS NULL OR b.gateway_key_id = $2::uuid)
    UNION ALL
    SELECT r.id, r.user_id, r.each_user, r.provider_id, r.model_id, NULL, NULL, NULL, NULL, NULL,
        r.requests_per_minute, r.tokens_per_minute, NULL, r.gateway_key_id, r.tag
    FROM @extschema@.aggregator_rate_limits AS r
    WHERE (r.user_id IS NULL OR r.user_id = $1)
      AND (r.gateway_key_id IS NULL OR r.gateway_key_id = $2::uuid)";

/// Plans of the statements above, for the installation that they were made for.
type Plans = HashMap<(Oid, &'static str), Rc<Plan>>;

thread_local! {
    static PLANS: RefCell<Plans> = RefCell::default();
}

/// The plan of a statement whose `arguments` are texts.
pub fn plan(
    client: &SpiClient,
    installed: &Installed,
    sql: &'static str,
    arguments: usize,
) -> spi::Result<Rc<Plan>> {
    PLANS.with_borrow_mut(|plans| {
        plans.retain(|(oid, _), _| *oid == installed.oid);
        if let Some(plan) = plans.get(&(installed.oid, sql)) {
            return Ok(plan.clone());
        }
        let types = vec![TEXTOID; arguments];
        let plan = Rc::new(Plan::prepare(client, &installed.sql(sql), &types)?);
        plans.insert((installed.oid, sql), plan.clone());
        Ok(plan)
    })
}

/// Every route of a user for a model, best first, as of now. A row that cannot be used is passed over
/// where there is another.
pub fn routes(
    client: &SpiClient,
    installed: &Installed,
    model: &str,
    user: &str,
    provider: Option<&str>,
) -> Result<Vec<Route>, Error> {
    let rows = || -> spi::Result<Vec<_>> {
        let plan = plan(client, installed, ROUTES, 3)?;
        let arguments = [model.into(), user.into(), provider.into()];
        fresh::select(client, &plan, &arguments)?.iter().map(Columns::read).collect()
    };
    let mut routes = Vec::new();
    let mut unusable = None;
    for row in rows().map_err(failed("find who may serve the model"))? {
        match row.into_route(user) {
            Ok(route) => routes.push(route),
            Err(error) => unusable = unusable.or(Some(error)),
        }
    }
    match unusable {
        Some(error) if routes.is_empty() => Err(error),
        _ => Ok(routes),
    }
}

/// A candidate as it is now, for a call that has waited since it was found. `None`: the key or its
/// provider is no more, or not active, or may not serve the model any longer.
pub fn again(
    client: &SpiClient,
    installed: &Installed,
    known: &Known,
) -> Result<Option<Candidate>, Error> {
    // With the provider given, a model's id means no other.
    let provider = known.provider_id.to_string();
    let routes = routes(client, installed, &known.model_id, &known.user_id, Some(&provider))?;
    Ok(routes.into_iter().map(|route| route.candidate).find(|candidate| {
        candidate.user_provider_id == known.user_provider_id && candidate.model_id == known.model_id
    }))
}

/// The budgets and rate limits that may concern a user's calls with a gateway key, or with none, as of now.
pub fn rules(
    client: &SpiClient,
    installed: &Installed,
    user: &str,
    gateway_key: Option<Uuid>,
) -> Result<Rules, Error> {
    const ACTION: &str = "read the budgets and rate limits";
    read_rules(client, installed, user, gateway_key).map_err(failed(ACTION))?.ok_or_else(|| {
        Error::Database {
            action: ACTION.to_owned(),
            reason: "one of them has a period or keys that this version does not know".to_owned(),
            sqlstate: None,
        }
    })
}

/// `None`: a rule cannot be understood.
fn read_rules(
    client: &SpiClient,
    installed: &Installed,
    user: &str,
    gateway_key: Option<Uuid>,
) -> spi::Result<Option<Rules>> {
    let mut rules = Rules::default();
    let plan = plan(client, installed, RULES, 2)?;
    let gateway_key = gateway_key.map(|id| id.to_string());
    for row in fresh::select(client, &plan, &[user.into(), gateway_key.into()])? {
        let id = fresh::uuid(&row, 1)?;
        let scope = Scope {
            user_id: row.get(2)?,
            is_each_user: required(&row, 3)?,
            provider_id: row.get::<pgrx::Uuid>(4)?.map(|id| uuid(Some(id))),
            model: row.get(5)?,
            gateway_key: row.get::<pgrx::Uuid>(14)?.map(|id| uuid(Some(id))),
            tag: row.get(15)?,
        };
        match row.get::<String>(6)? {
            Some(period) => {
                // A budget that cannot be read is not left out.
                let (Some(period), Some(keys)) = (
                    Period::parse(&period),
                    row.get::<String>(13)?.as_deref().and_then(Keys::parse),
                ) else {
                    return Ok(None);
                };
                rules.budgets.push(Budget {
                    id,
                    scope,
                    keys,
                    period,
                    limit_usd: row.get(7)?,
                    limit_tokens: row.get(8)?,
                    limit_requests: row.get(9)?,
                    blocks: required(&row, 10)?,
                });
            }
            None => rules.rate_limits.push(RateLimit {
                id,
                scope,
                requests_per_minute: row.get(11)?,
                tokens_per_minute: row.get(12)?,
            }),
        }
    }
    Ok(Some(rules))
}

/// Who may serve a request, best first: the wanted model at every provider of the user, or, where
/// the request names models to fall back on, the best route of each. Of those alone that `may_ask` lets pass.
/// Empty: nobody may.
pub fn candidates(
    client: &SpiClient,
    installed: &Installed,
    models: &[&str],
    user: &str,
    provider: Option<&str>,
    may_ask: impl Fn(&Candidate) -> bool,
) -> Result<Vec<Candidate>, Error> {
    let falls_back = models.len() > 1;
    let mut found: Vec<Candidate> = Vec::new();
    for model in models {
        let routes = routes(client, installed, model, user, provider)?;
        for route in routes.into_iter().filter(|route| may_ask(&route.candidate)) {
            // At one provider, one's own key does not fall back on the platform's.
            let is_new = found.iter().all(|other| {
                other.provider.id != route.candidate.provider.id
                    || (falls_back && other.model_id != route.candidate.model_id)
            });
            if is_new {
                found.push(route.candidate);
                if falls_back {
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// Why nobody may serve a request of theirs, of the models of which the first is the wanted one.
pub fn nobody(
    client: &SpiClient,
    installed: &Installed,
    models: &[&str],
    whose: &Whose,
    provider: Option<&str>,
) -> Error {
    let model = models.first().copied().unwrap_or_default().to_owned();
    match candidates(client, installed, models, &whose.user, provider, |_| true) {
        Err(error) => error,
        Ok(all) if all.is_empty() => no_route(client, installed, &model, provider),
        Ok(_) if whose.gateway_key.is_some() => Error::NotForKey { model },
        Ok(_) => Error::NotSignedIn { action: format!("spend the platform's keys for '{model}'") },
    }
}

struct Columns {
    provider_id: Uuid,
    provider_name: String,
    provider_type: String,
    api_standard: String,
    base_url: String,
    headers: String,
    model_id: String,
    user_provider_id: Uuid,
    is_platform_key: bool,
    envelope: Vec<u8>,
    pricing: Option<String>,
    context_window: Option<i32>,
    max_output_tokens: Option<i32>,
    can_stream: bool,
    is_listed: bool,
    may_embed: bool,
    shares_cache: bool,
    takes_schema: bool,
    takes_tools: bool,
}

impl Columns {
    fn read(row: &SpiHeapTupleData) -> spi::Result<Self> {
        Ok(Self {
            provider_id: fresh::uuid(row, 1)?,
            provider_name: required(row, 2)?,
            provider_type: required(row, 3)?,
            api_standard: required(row, 4)?,
            base_url: required(row, 5)?,
            headers: required(row, 6)?,
            model_id: required(row, 7)?,
            user_provider_id: fresh::uuid(row, 8)?,
            is_platform_key: required(row, 9)?,
            envelope: required(row, 10)?,
            pricing: row.get(11)?,
            context_window: row.get(12)?,
            max_output_tokens: row.get(13)?,
            can_stream: required(row, 14)?,
            is_listed: required(row, 15)?,
            may_embed: required(row, 16)?,
            takes_schema: required(row, 17)?,
            takes_tools: required(row, 18)?,
            shares_cache: required(row, 19)?,
        })
    }

    fn into_route(self, user: &str) -> Result<Route, Error> {
        let owner = (!self.is_platform_key).then(|| user.to_owned());
        let binding = Binding::new(owner, self.provider_id, &self.base_url)
            .map_err(|error| Error::from_secret(error, &self.provider_name))?;
        Ok(Route {
            provider_type: self.provider_type,
            is_platform_key: self.is_platform_key,
            candidate: Candidate {
                provider: provider(
                    self.provider_id,
                    self.provider_name,
                    &self.api_standard,
                    self.base_url,
                    &self.headers,
                )?,
                model_id: self.model_id,
                is_listed: self.is_listed,
                user_provider_id: self.user_provider_id,
                key: SealedKey { binding, envelope: self.envelope },
                pricing: self.pricing,
                context_window: self.context_window,
                max_output_tokens: self.max_output_tokens,
                can_stream: self.can_stream,
                may_embed: self.may_embed,
                shares_cache: self.shares_cache,
                takes_schema: self.takes_schema,
                takes_tools: self.takes_tools,
            },
            api_standard: self.api_standard,
        })
    }
}

/// A provider from the texts of its row.
pub fn provider(
    id: Uuid,
    name: String,
    standard: &str,
    base_url: String,
    headers: &str,
) -> Result<Provider, Error> {
    // Sent without what an administrator wanted sent, a request would be another one.
    let headers: BTreeMap<String, Option<String>> = match serde_json::from_str(headers) {
        Ok(headers) => headers,
        Err(_) => return Err(Error::BadProvider { provider: name, what: "headers".to_owned() }),
    };
    Ok(Provider {
        id,
        name,
        standard: Standard::parse(standard)?,
        base_url,
        headers: headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
    })
}

/// Why there is no route: no such provider, no such model, or no key for it. Not cheap: it looks
/// for models of similar names.
pub fn no_route(
    client: &SpiClient,
    installed: &Installed,
    model: &str,
    provider: Option<&str>,
) -> Error {
    explain(client, installed, model, provider)
        .unwrap_or_else(failed("say why nobody may serve the model"))
}

fn explain(
    client: &SpiClient,
    installed: &Installed,
    model: &str,
    provider: Option<&str>,
) -> spi::Result<Error> {
    let named = |wanted: &str| -> spi::Result<Option<String>> {
        let sql = installed.sql(
            "SELECT p.name FROM @extschema@.api_providers AS p
             WHERE p.is_active AND p.id = @extschema@.aggregator_provider_id($1)",
        );
        let row = client.select(sql.as_str(), Some(1), &[wanted.into()])?;
        Ok(row.map(|row| row.get::<String>(1)).next().transpose()?.flatten())
    };
    if let Some(wanted) = provider {
        let wanted = wanted.trim();
        if wanted.is_empty() {
            let hint = "Give its name or its id.";
            return Ok(Error::bad_request_hint("a provider is needed", hint));
        }
        return Ok(match named(wanted)? {
            Some(provider) => no_key(client, installed, provider, model)?,
            None => Error::UnknownProvider { provider: wanted.to_owned() },
        });
    }
    let sql = installed.sql(
        "SELECT p.name, m.model_id, m.model_id = $1 OR m.model_name = $1
         FROM @extschema@.aggregator_models AS m
         JOIN @extschema@.api_providers AS p ON p.id = m.provider_id
         WHERE m.is_available AND p.is_active
         ORDER BY 3 DESC, p.name, m.model_id
         LIMIT 20000",
    );
    let rows = client
        .select(sql.as_str(), None, &[model.into()])?
        .map(|row| {
            Ok((
                row.get::<String>(1)?.unwrap_or_default(),
                row.get::<String>(2)?.unwrap_or_default(),
                row.get::<bool>(3)?.unwrap_or_default(),
            ))
        })
        .collect::<spi::Result<Vec<_>>>()?;
    let mut providers: Vec<String> =
        rows.iter().filter(|(.., matches)| *matches).map(|(name, ..)| name.clone()).collect();
    providers.dedup();
    if !providers.is_empty() {
        return Ok(Error::NoKeyForModel { model: model.to_owned(), providers });
    }
    // A name that is a model's, which nobody offers just now, does not go by its prefix.
    if let Some((prefix, _)) = model.split_once(':')
        && named(prefix)?.as_deref() == Some(prefix)
        && !is_known(client, installed, model)?
    {
        return no_key(client, installed, prefix.to_owned(), model);
    }
    let similar = similar(model, rows.iter().map(|(_, id, _)| id.as_str()));
    Ok(Error::UnknownModel { model: model.to_owned(), similar })
}

/// Whether any provider has ever listed a model of this very id.
fn is_known(client: &SpiClient, installed: &Installed, model: &str) -> spi::Result<bool> {
    let sql = installed.sql("SELECT FROM @extschema@.aggregator_models AS m WHERE m.model_id = $1");
    Ok(!client.select(sql.as_str(), Some(1), &[model.into()])?.is_empty())
}

/// There is no key of the user's own at a provider: the platform's may be there for other models.
fn no_key(
    client: &SpiClient,
    installed: &Installed,
    provider: String,
    model: &str,
) -> spi::Result<Error> {
    let sql = installed.sql(
        "SELECT FROM @extschema@.user_api_providers AS k
         JOIN @extschema@.api_providers AS p ON p.id = k.provider_id
         WHERE p.name = $1 AND k.user_id IS NULL AND k.is_active",
    );
    let platform = client.select(sql.as_str(), Some(1), &[provider.as_str().into()])?;
    Ok(if platform.is_empty() {
        Error::NoKey { provider }
    } else {
        Error::NotServed { provider, model: model.to_owned() }
    })
}

/// The two model ids that are most like a name, if any is.
fn similar<'a>(model: &str, ids: impl Iterator<Item = &'a str>) -> Vec<String> {
    let model = model.to_lowercase();
    let mut scored: Vec<(f64, &str)> = ids
        .map(|id| {
            let whole = id.to_lowercase();
            let name = whole.rsplit('/').next().unwrap_or(&whole);
            (strsim::jaro_winkler(name, &model).max(strsim::jaro_winkler(&whole, &model)), id)
        })
        .filter(|(score, _)| *score > 0.85)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut similar: Vec<String> = scored.into_iter().map(|(_, id)| id.to_owned()).collect();
    similar.dedup();
    similar.truncate(2);
    similar
}

/// PostgreSQL's uuid as ours.
pub fn uuid(id: Option<pgrx::Uuid>) -> Uuid {
    id.map(|id| Uuid::from_bytes(*id.as_bytes())).unwrap_or_default()
}

/// Our uuid as PostgreSQL's.
pub fn pg_uuid(id: Uuid) -> pgrx::Uuid {
    pgrx::Uuid::from_bytes(*id.as_bytes())
}
