//! `GET /events/stream`: what happens in the chain, as it happens, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures_util::{Stream, StreamExt, stream};
use protocol::time::Millis;
use runtime::http::openapi::schema;
use runtime::http::{Caller, Problem, Query, Result};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::events::refuse_beyond;
use super::{App, Shared};
use crate::outbound::event::Wanted;
use crate::outbound::feed::{Follower, Rendered};

/// Between two signs of life when nothing happens.
const ALIVE_EVERY: Duration = Duration::from_secs(15);

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(follow))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Behind this `chainSeq`; `0`: from the first. `Last-Event-ID` counts before it; without either, from now on.
    after: Option<String>,
    store_id: Option<String>,
    product_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reference: Option<String>,
    actor: Option<String>,
    #[param(value_type = Option<schema::Time>)]
    since: Option<String>,
    #[param(value_type = Option<schema::Time>)]
    until: Option<String>,
}

/// Follow what happens in the chain
#[utoipa::path(
    get, path = "/events/stream", operation_id = "followEvents", tag = "Events", params(Filter, ("Last-Event-ID" = Option<String>, Header, description = "The last event that the client has")),
    responses((status = 200, description = "Server-sent events: `id` is the place in the chain, `event` the type, `data` the event; a comment each 15 s", body = String, content_type = "text/event-stream")),
)]
async fn follow(
    State(app): Shared,
    caller: Caller,
    headers: HeaderMap,
    Query(filter): Query<Filter>,
) -> Result<Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    let time = |name: &str, bound: &Option<String>| match bound {
        Some(text) => Millis::parse(text)
            .map(Some)
            .ok_or_else(|| Problem::invalid(name, "must be a time as in RFC 3339, such as 2026-01-31T12:00:00.000Z")),
        None => Ok(None),
    };
    let wanted = Wanted {
        since: time("?since", &filter.since)?,
        until: time("?until", &filter.until)?,
        store: filter.store_id,
        product: filter.product_id,
        kind: filter.kind,
        reference: filter.reference,
        actor: filter.actor,
    };
    let seen = headers.get("last-event-id").map(|id| ("Last-Event-ID", id.to_str().unwrap_or_default()));
    let after = seen.or_else(|| filter.after.as_deref().map(|after| ("?after", after)));
    let after = after.map(|(name, text)| Result::Ok((name, place(name, text)?))).transpose()?;
    if let Some((name, place)) = after {
        app.db.read(|connection| refuse_beyond(connection, name, place)).await??;
    }
    let follower = app.feed.follow(after.map(|(_, place)| place)).await?;
    let shown = events(follower, wanted).take_until(caller.revoked());
    Ok(Sse::new(shown).keep_alive(KeepAlive::new().interval(ALIVE_EVERY)))
}

fn place(pointer: &str, text: &str) -> Result<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let place = digits.then(|| text.parse().ok()).flatten();
    place.ok_or_else(|| Problem::invalid(pointer, "must be 0 or the id of an event of this stream"))
}

/// Reads on when the client has taken what was read before: one that is slow costs a part of the chain in memory.
fn events(
    follower: Follower,
    wanted: Wanted,
) -> impl Stream<Item = std::result::Result<Event, Infallible>> + Send + 'static {
    let parts = stream::unfold(follower, |mut follower| async move {
        match follower.next().await {
            Ok(part) => part.map(|part| (part, follower)),
            Err(error) => {
                tracing::warn!(%error, "a stream of events ends");
                None
            }
        }
    });
    parts.flat_map(move |part| {
        let events = part.events.iter().filter(|shown| shown.event.is(&wanted));
        let told = events.map(|shown| {
            let event = Event::default().id(shown.event.chain_seq().to_string()).event(shown.event.name());
            let of_product = wanted.product.as_deref().and_then(|product| shown.event.as_of(product));
            Ok(match of_product {
                Some(of_product) => event.data(Rendered::from(of_product).json),
                None => event.data(&shown.json),
            })
        });
        stream::iter(told.collect::<Vec<_>>())
    })
}
