//! The agent's REST API; `docs/API.md` is its specification. One file a resource. Nothing here depends on Redis.

mod answer;
mod dead_letters;
mod events;
mod import;
mod inventory;
mod meta;
mod purchases;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use shared::http::Edge;
use shared::ids::StoreId;
use shared::sqlite::{Reader, Writer};
use shared::time::Millis;

use crate::connectivity::Connectivity;
use crate::ledger;

/// What handlers use.
pub struct App {
    /// Which store this is.
    pub store: StoreId,
    /// Reads the stock.
    pub reader: Reader,
    /// Records what tills and staff do.
    pub writer: Writer,
    /// The switch.
    pub connectivity: Connectivity,
    /// When this process started.
    pub started_at: Millis,
}

type Shared = axum::extract::State<Arc<App>>;

const POSITION: HeaderName = HeaderName::from_static("shelf-position");
const WARNING: HeaderName = HeaderName::from_static("shelf-warning");

/// All routes, with the edge around them.
pub fn router(app: Arc<App>, edge: Edge) -> Router {
    let routes = Router::new()
        .merge(meta::router())
        .merge(inventory::router())
        .merge(purchases::router())
        .merge(events::router())
        .merge(import::router())
        .merge(dead_letters::router())
        .layer(axum::middleware::from_fn_with_state(app.clone(), say_where))
        .with_state(app);
    shared::http::finish(routes, edge)
}

/// Every answer says where the ledger stands, and that the agent is fenced if it is.
async fn say_where(State(app): Shared, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if !response.headers().contains_key(POSITION)
        && let Ok(head) = app.reader.point(ledger::head)
        && let Ok(position) = HeaderValue::from_str(&format!("{}:{}", app.store, head.cursor.id()))
    {
        response.headers_mut().insert(POSITION, position);
    }
    if app.connectivity.link().stopped.is_some() {
        response.headers_mut().insert(WARNING, HeaderValue::from_static("fenced"));
    }
    response
}
