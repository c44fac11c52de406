//! `GET /events`: everything that happened in the chain, in the order in which central applied it.

use std::sync::Arc;

use axum::extract::State;
use protocol::time::Millis;
use protocol::wire::Position;
use runtime::http::openapi::schema;
use runtime::http::{List, Page, PageSize, Problem, Query, Result, Written};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{App, Shared};
use crate::outbound::event::{EventView, sent_type};
use crate::storage::queries::events::{self, Start};
use crate::storage::{Connection, JobResult};

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Behind this `nextCursor`, or with `storeId` this `position`, oldest first; `0`: from the first.
    after: Option<String>,
    cursor: Option<String>,
    store_id: Option<String>,
    product_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    reference: Option<String>,
    actor: Option<String>,
    #[param(value_type = Option<schema::Time>)]
    since: Option<Millis>,
    #[param(value_type = Option<schema::Time>)]
    until: Option<Millis>,
    size: Option<PageSize>,
}

/// Where a list begins, as asked.
enum Begin {
    Chain(Start),
    /// Behind an entry of a store.
    Store(Position),
}

impl Filter {
    fn begin(&self) -> Result<Begin> {
        let place = |text: &str| (text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten();
        match (&self.cursor, &self.after) {
            (Some(_), Some(_)) => Err(Problem::invalid("?cursor", "must not be sent together with after")),
            (Some(cursor), None) => match place(cursor) {
                Some(place) => Ok(Begin::Chain(Start::Before(place))),
                None => Err(Problem::invalid("?cursor", "must be a nextCursor of this list")),
            },
            (None, Some(after)) => match (place(after), after.parse::<Position>()) {
                (Some(place), _) => Ok(Begin::Chain(Start::Behind(place))),
                (None, Ok(position)) if self.store_id.as_deref() == Some(position.store.as_str()) => {
                    Ok(Begin::Store(position))
                }
                (None, Ok(_)) => {
                    Err(Problem::invalid("?after", "is a store's position: send storeId of that store with it"))
                }
                (None, Err(_)) => {
                    Err(Problem::invalid("?after", "must be 0, a nextCursor of this list or a store's position"))
                }
            },
            (None, None) => Ok(Begin::Chain(Start::End)),
        }
    }
}

type Events = List<EventView>;

/// List what happened in the chain
///
/// Without `after` the newest first; with it the oldest first, and `nextCursor` is what to send as `after` next.
#[utoipa::path(
    get, path = "/events", operation_id = "listEvents", tag = "Events", params(Filter),
    responses((status = 200, description = "Events; `nextCursor` is never `null` if `after` was sent", body = Events)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let size = Page::of(None, filter.size, None, 1)?.size;
    let begin = filter.begin()?;
    let wanted = events::Filter {
        since: filter.since,
        until: filter.until,
        store: filter.store_id,
        product: filter.product_id,
        kind: filter.kind.map(|kind| sent_type(&kind).to_owned()),
        reference: filter.reference,
        actor: filter.actor,
    };
    let list = app.db.scan(move |connection| {
        let start = match &begin {
            Begin::Chain(Start::Behind(place)) => match refuse_beyond(connection, "?after", *place)? {
                Err(problem) => return Ok(Err(problem)),
                Ok(()) => Start::Behind(*place),
            },
            Begin::Chain(start) => *start,
            Begin::Store(position) => match events::place_of(connection, position)? {
                Some(place) => Start::Behind(place),
                // Nothing is behind a place that central has yet to reach.
                None => {
                    let list = List::<EventView> { items: Vec::new(), next_cursor: filter.after.clone() };
                    return Ok(Ok(Written::json(&list)));
                }
            },
        };
        let part = events::list(connection, &wanted, start, size)?;
        let next_cursor = part.next.map(|place| place.to_string());
        let shown = |recorded| {
            let event = EventView::from(recorded);
            wanted.product.as_deref().and_then(|product| event.as_of(product)).unwrap_or(event)
        };
        Ok(Ok(Written::json(&List { items: part.events, next_cursor }.map(shown))))
    });
    list.await?
}

/// Who has read further than the chain goes would miss what comes until it goes so far: this database is older than the one
/// that he read.
pub(super) fn refuse_beyond(connection: &Connection, pointer: &str, place: i64) -> JobResult<Result<()>> {
    let last = events::last_place(connection)?;
    Ok(match place > last {
        true => Err(Problem::invalid(pointer, format!("must not be beyond the last event, which is {last}"))),
        false => Ok(()),
    })
}
