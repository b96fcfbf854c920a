//! The body of a request: JSON, of bounded size, that comes in bounded time.

use crate::core::front::failure::{Failure, Refused, Sent};
use crate::gateway::memory::Lease;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http_body::Body;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// For the whole of a body, and for its beginning; from then on it comes at a rate, in bytes a second.
const PATIENCE: Duration = Duration::from_secs(60);
const BEGINNING: Duration = Duration::from_secs(10);
const LEAST_RATE: u32 = 1024;

/// Reads a body of at most `limit` bytes, which `lease` accounts for.
pub async fn read<B>(
    headers: &HeaderMap,
    body: B,
    limit: usize,
    lease: &mut Lease,
) -> Result<String, Failure>
where
    B: Body<Data = bytes::Bytes> + Unpin,
{
    check_type(headers)?;
    let too_large = || Failure::refused(&Refused::TooLarge { limit });
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(too_large());
    }
    let began = Instant::now();
    let mut body = body;
    let mut bytes: Vec<u8> = Vec::new();
    let mut leased = 0;
    loop {
        let so_far = BEGINNING + Duration::from_secs(1) * (bytes.len() as u32 / LEAST_RATE);
        let given_up = began + so_far.min(PATIENCE);
        let frame = match timeout_at(given_up, body.frame()).await {
            Err(_) => return Err(Failure::refused(&Refused::Slow)),
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            // It broke off, or is no body as HTTP has it.
            Ok(Some(Err(_))) => return Err(Failure::invalid("body", "The body is not whole")),
        };
        // What comes after a body says nothing to us.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - bytes.len() {
            return Err(too_large());
        }
        let needed = bytes.len() + data.len();
        if needed > leased {
            // What is announced is taken at once, so that it is refused before it has come.
            let more = needed.max(announced).max(leased.saturating_mul(2).min(limit)) - leased;
            lease.begin(more).map_err(|error| Failure::of(&error, Sent::Nothing))?;
            leased += more;
            bytes.reserve_exact(leased - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
    String::from_utf8(bytes).map_err(|_| Failure::refused(&Refused::NotUtf8))
}

/// A form of a page cannot send this type without asking first (CORS), so none can be posted here.
fn check_type(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(given) =
        text(CONTENT_ENCODING).filter(|given| !given.eq_ignore_ascii_case("identity"))
    {
        return Err(Failure::refused(&Refused::Encoding { given }));
    }
    let given = text(CONTENT_TYPE).unwrap_or_default();
    let media = given.split(';').next().unwrap_or_default().trim();
    match media.eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => Err(Failure::refused(&Refused::ContentType { given })),
    }
}
