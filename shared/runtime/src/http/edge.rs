//! The edge around every route: who may ask, how long it may take, what every answer carries. One pass, so that a
//! point read stays cheap.

use std::convert::Infallible;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context as Waker, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, OriginalUri, Request};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use axum::response::{IntoResponse, Response};
use axum::routing::future::RouteFuture;
use axum::routing::{Route, Router};
use futures_util::future::MapOk;
use futures_util::{FutureExt, TryFutureExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::layer::layer_fn;
use tower::{Service, service_fn};
use tower_http::compression::predicate::{And, NotForContentType, Predicate, SizeAbove};
use tower_http::compression::{Compression, CompressionBody, ResponseFuture};
use uuid::Uuid;

use super::budget::Answers;
use super::extract::{JSON_BYTES, LARGE_JSON_BYTES, Received, body_problem};
use super::metrics::{Requests, Usual};
use super::openapi::Queryless;
use super::problem::{Ordered, Pending};
use super::query;
use super::rate::{Left, Rate, Who};
use super::serve::Guest;
use super::tokens::{Access, Caller, Scopes, Tokens};
use super::words::grouped;
use super::{Code, Problem};

/// Requests at work at once; more are told to come back.
const IN_FLIGHT: usize = 1_024;
/// Sales and purchases at work at once: they have places of their own, so that nothing else shuts them out.
const SALES: usize = 1_024;
/// Bodies of up to 1 MiB in memory at once, besides small ones.
const LARGE_BODIES: usize = 64;
/// The same of up to 16 MiB, until their requests have been answered.
const LARGEST_BODIES: usize = 2;
/// Longest path and query, bytes.
const URI: usize = 8 << 10;
/// Requests that wait for a store at once; more are answered without a wait.
const WAITING: usize = 8_192;
/// Longest that a request may take once its body is there: the longest wait for a store and some.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(35);
/// A wait ends so long before that: what comes after it must still be said.
const MARGIN: Duration = Duration::from_secs(2);
/// What a browser may do with an answer that is no page: nothing.
const NO_CONTENT: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// Whom the server serves.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Origins whose pages may use the API.
    pub cors_origins: Vec<String>,
    /// Host names, besides IP addresses and `localhost`.
    pub allowed_hosts: Vec<String>,
    /// Who may do what. `None`: whoever reaches the server may do all.
    pub tokens: Option<Tokens>,
    /// What a method of a route wants, which is told as the pattern that the path has matched.
    pub access: fn(&Method, &str) -> Access,
    /// What takes no query.
    pub queryless: Queryless,
    /// Requests a second that each caller may make. `None`: any number.
    pub rate_limit: Option<NonZeroU32>,
    /// What a server says of itself in every answer of a route.
    pub says: Option<Says>,
    /// Counts what is answered.
    pub requests: Requests,
    /// Ends the waits: who waits is answered before the server stops.
    pub stop: CancellationToken,
}

type Said = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Completes what a route has answered. Cheap to clone.
#[derive(Clone)]
pub struct Says(Arc<dyn Fn(Response) -> Said + Send + Sync>);

impl Says {
    /// Completes answers like this.
    pub fn new<F: Future<Output = Response> + Send + 'static>(
        complete: impl Fn(Response) -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |response| Box::pin(complete(response))))
    }
}

impl std::fmt::Debug for Says {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Says").finish_non_exhaustive()
    }
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            tokens: None,
            access: |_, _| Access::Needs(Scopes::OPERATE),
            queryless: Queryless::default(),
            rate_limit: None,
            says: None,
            requests: Requests::default(),
            stop: CancellationToken::new(),
        }
    }
}

#[derive(Debug)]
struct Context {
    rate: Option<Rate>,
    edge: Edge,
    in_flight: Arc<Semaphore>,
    sales: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    large_bodies: Arc<Semaphore>,
    largest_bodies: Arc<Semaphore>,
    answers: Answers,
}

/// A request's place among those at work. One that waits for a store gives it up, so that a store that hangs does not
/// keep others out.
#[derive(Debug, Clone)]
pub(super) struct Place {
    at_work: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    context: Arc<Context>,
    until: Instant,
}

/// A wait that has begun, and when it ends at the latest.
#[derive(Debug)]
pub struct Wait {
    until: Instant,
    stop: CancellationToken,
    _place: Option<OwnedSemaphorePermit>,
}

impl Wait {
    /// One that nobody limits, for who did not come through the edge.
    pub fn free(wanted: Duration) -> Self {
        Self { until: Instant::now() + wanted, stop: CancellationToken::new(), _place: None }
    }

    /// Resolves when it has been waited long enough, or the server stops.
    pub async fn over(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep_until(self.until) => {}
        }
    }
}

impl Place {
    /// Goes from work to a wait. `None`: too many wait already.
    pub(super) fn wait(&self, wanted: Duration) -> Option<Wait> {
        let place = self.context.waiting.clone().try_acquire_owned().ok()?;
        drop(self.at_work.lock().ok()?.take());
        let until = (Instant::now() + wanted).min(self.until);
        Some(Wait { until, stop: self.context.edge.stop.clone(), _place: Some(place) })
    }
}

/// The trace of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trace(Uuid);

impl Trace {
    fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get("traceparent").and_then(|value| trace_id(value.to_str().ok()?));
        Self(sent.unwrap_or_else(Uuid::new_v4))
    }

    /// W3C trace context of this server's part.
    pub(super) fn parent(self) -> String {
        let span = Uuid::new_v4().as_u64_pair().0;
        format!("00-{self}-{span:016x}-01")
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// Bytes of a `traceparent`. A later version's may have more behind them; what is kept with each entry has a bound.
const TRACEPARENT: usize = 55;

/// The trace id of a valid `traceparent`.
pub(super) fn trace_id(text: &str) -> Option<Uuid> {
    if text.len() != TRACEPARENT {
        return None;
    }
    let mut parts = text.split('-');
    let (version, id, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let some = |text: &str| text.bytes().any(|b| b != b'0');
    let valid = hex(version, 2) && hex(id, 32) && hex(span, 16) && hex(flags, 2) && some(id) && some(span);
    if valid && version != "ff" { Uuid::try_parse(id).ok() } else { None }
}

/// Bytes.
const COMPRESSED_FROM: u64 = 1_024;

/// Whether an answer is compressed for who can read that: a small one grows, and a stream must not wait for more of it.
type IsCompressed = And<SizeAbove, NotForContentType>;

type Compressed = Response<CompressionBody<Body>>;

/// What a server serves: its routes at the root and under `/v1`, with the edge around them.
#[derive(Clone)]
pub struct Served(Compression<Router, IsCompressed>);

impl Served {
    pub(super) fn new(routes: Router) -> Self {
        let is_compressed = SizeAbove::new(COMPRESSED_FROM).and(NotForContentType::new("text/event-stream"));
        Self(Compression::new(routes).compress_when(is_compressed))
    }
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl Service<Request> for Served {
    type Response = Response;
    type Error = Infallible;
    type Future = MapOk<ResponseFuture<RouteFuture<Infallible>, IsCompressed>, fn(Compressed) -> Response>;

    fn poll_ready(&mut self, _: &mut Waker<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        // To refuse an answer that cannot be compressed is too late once there is one: the request has had its effect.
        if forbids_plain(request.headers()) {
            request.headers_mut().remove(header::ACCEPT_ENCODING);
        }
        let finish: fn(Compressed) -> Response = if request.method() == Method::HEAD { without_body } else { whole };
        let asked = request.uri().clone();
        if let Some(bare) = bare(&asked) {
            *request.uri_mut() = bare;
        }
        request.extensions_mut().insert(OriginalUri(asked));
        self.0.call(request).map_ok(finish)
    }
}

fn whole(answer: Compressed) -> Response {
    answer.map(Body::new)
}

/// The routes have said how long the body would be, before it was compressed; where the client has it already they have not.
fn without_body(answer: Compressed) -> Response {
    let mut answer = whole(answer);
    if answer.status() == StatusCode::NOT_MODIFIED {
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    }
    let length = answer.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length >= COMPRESSED_FROM) {
        answer.headers_mut().remove(header::CONTENT_LENGTH);
        answer.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    answer
}

/// Whether a client says that it reads nothing but what is encoded.
fn forbids_plain(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
        matches!(name.trim(), "identity" | "*") && weight == Some(0.0)
    })
}

/// Without `/v1`. A router that nests the routes below it would put one more layer around each.
fn bare(uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix("/v1")?;
    let bare = match rest.as_bytes() {
        [] => PathAndQuery::from_static("/"),
        [b'?', ..] => format!("/{rest}").parse().ok()?,
        [b'/', after, ..] if *after != b'?' => rest.parse().ok()?,
        _ => return None,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(bare);
    Uri::from_parts(parts).ok()
}

/// Puts the edge around the routes. It is one layer: each costs allocations of its own for each request.
pub fn finish(routes: Router, edge: Edge) -> Served {
    let context = Arc::new(Context {
        rate: edge.rate_limit.map(Rate::new),
        edge,
        in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        sales: Arc::new(Semaphore::new(SALES)),
        waiting: Arc::new(Semaphore::new(WAITING)),
        large_bodies: Arc::new(Semaphore::new(LARGE_BODIES)),
        largest_bodies: Arc::new(Semaphore::new(LARGEST_BODIES)),
        answers: Answers::default(),
    });
    let around = layer_fn(move |route: Route| {
        // axum clones a route's layers for each request, and a route with all that is in it.
        let within =
            Arc::new(Within { context: context.clone(), route, matched: OnceLock::new(), usual: Usual::default() });
        service_fn(move |request| around(within.clone(), request))
    });
    let routes = routes
        .fallback(|| async { Problem::new(Code::UnknownRoute) })
        .method_not_allowed_fallback(|| async { Problem::new(Code::MethodNotAllowed) })
        .layer(around);
    Served::new(routes)
}

/// What the edge has around a route, and the route.
struct Within {
    context: Arc<Context>,
    route: Route,
    /// The pattern that its paths match; none: it is for what matches no other.
    matched: OnceLock<Option<MatchedPath>>,
    usual: Usual,
}

async fn around(within: Arc<Within>, mut request: Request) -> Result<Response, Infallible> {
    let Within { context, route, matched, usual } = &*within;
    let begun = Instant::now();
    let method = request.method().clone();
    let matched = matched.get_or_init(|| request.extensions().get::<MatchedPath>().cloned());
    let trace = Trace::of(request.headers());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let cors = origin.filter(|origin| context.edge.cors_origins.iter().any(|allowed| allowed.as_bytes() == origin));
    let preflight = request.method() == Method::OPTIONS;
    let asked = request.extensions().get::<OriginalUri>().map_or_else(|| request.uri().clone(), |uri| uri.0.clone());
    request.extensions_mut().insert(trace);
    let matched = matched.as_ref().map(MatchedPath::as_str);
    let admitted = admit(&context.edge, &request).and_then(|()| identify(&context.edge, &mut request, matched));
    let (left, counted) = count(context, &request);
    let mut response = match admitted.and(counted) {
        Err(problem) => problem.into_response(),
        Ok(()) => limited(context, begun, &asked, matched, request, route).await,
    };
    if !context.edge.cors_origins.is_empty() {
        // Whoever it is that asks: a cache may answer others with it.
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Origin"));
    }
    if preflight && response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response = allowed_methods(&response);
    }
    complete(&mut response, asked.path(), trace);
    if let Some(left) = left {
        left.tell(response.headers_mut());
    }
    if let Some(origin) = cors {
        allow_origin(response.headers_mut(), origin, preflight);
    }
    context.edge.requests.answered(usual, &method, matched, response.status(), begun.elapsed());
    Ok(response)
}

/// Counts a request for whoever has sent it.
fn count(context: &Context, request: &Request) -> (Option<Left>, Result<(), Problem>) {
    let asked_by_machines = matches!(request.uri().path(), "/health" | "/ready" | "/metrics");
    let Some(rate) = context.rate.as_ref().filter(|_| !asked_by_machines) else { return (None, Ok(())) };
    let named = request.extensions().get::<Caller>().and_then(Caller::shared_name).map(Who::Named);
    let at = || request.extensions().get::<Arc<Guest>>().map(|guest| Who::At(guest.peer()));
    let Some(who) = named.or_else(at) else { return (None, Ok(())) };
    let (left, counted) = rate.count(who, std::time::Instant::now());
    (Some(left), counted)
}

/// DNS rebinding and foreign pages.
fn admit(edge: &Edge, request: &Request) -> Result<(), Problem> {
    let host = one(request.headers(), header::HOST)?;
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(Problem::invalid("Host", "is missing"));
    }
    // A request that names a server in its first line means that one, whatever else it says.
    let host = request.uri().authority().map(|authority| authority.as_str()).or(host);
    if let Some(host) = host {
        let name = host_name(host);
        let known = name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || edge.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
        if !known || host.contains('@') {
            let detail = format!("the host {name:?} is not one of this server's: see ALLOWED_HOSTS");
            return Err(Problem::new(Code::Forbidden).detail(detail));
        }
    }
    let origin = one(request.headers(), header::ORIGIN)?;
    if is_read(request.method()) || request.method() == Method::OPTIONS {
        return Ok(());
    }
    if origin.is_some_and(|origin| edge.cors_origins.iter().any(|allowed| allowed == origin)) {
        return Ok(());
    }
    let own = |origin: &str| {
        let bare = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        bare.is_some() && bare == host
    };
    let crosses = request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if crosses || origin.is_some_and(|origin| !own(origin)) {
        let pages = origin.unwrap_or("another site");
        return Err(
            Problem::new(Code::Forbidden).detail(format!("pages of {pages:?} may not write here: see CORS_ORIGINS"))
        );
    }
    Ok(())
}

/// Who asks, if the server wants to know.
fn identify(edge: &Edge, request: &mut Request, route: Option<&str>) -> Result<(), Problem> {
    // A browser asks whether it may ask without saying who asks.
    let Some(tokens) = edge.tokens.as_ref().filter(|_| request.method() != Method::OPTIONS) else { return Ok(()) };
    // Only who may see something here is told what there is not.
    let access =
        route.map_or(Access::Needs(Caller::anybody().scopes()), |route| (edge.access)(request.method(), route));
    let caller = tokens.admit(request.headers(), access)?;
    request.extensions_mut().insert(caller);
    Ok(())
}

/// A query where none is taken.
fn refuse_query(edge: &Edge, request: &Request, route: Option<&str>) -> Result<(), Problem> {
    match (request.uri().query(), route) {
        (Some(query), Some(route)) if edge.queryless.has(request.method(), route) => query::none(query),
        _ => Ok(()),
    }
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// A header that means something only if it is there once.
fn one(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(&name).iter();
    let value = values.next().map(|value| value.to_str().unwrap_or_default());
    match values.next() {
        Some(_) => Err(Problem::invalid(name.as_str(), "must be sent only once")),
        None => Ok(value),
    }
}

/// The name or address without the port; IPv6 addresses stand in brackets.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

async fn limited(
    context: &Arc<Context>,
    begun: Instant,
    asked: &Uri,
    matched: Option<&str>,
    mut request: Request,
    route: &Route,
) -> Response {
    let path = request.uri().path();
    if matches!(path, "/health" | "/ready" | "/metrics") {
        return answered(context, route, request).await;
    }
    if asked.path_and_query().is_some_and(|uri| uri.as_str().len() > URI) {
        return Problem::invalid("", format!("Path and query have at most {} bytes", grouped(URI as i64)))
            .into_response();
    }
    if let Err(problem) = refuse_query(&context.edge, &request, matched) {
        return problem.into_response();
    }
    let reads = is_read(request.method());
    // Their bodies are of any length and look after themselves.
    let streams = matches!(path, "/import" | "/export") || path.ends_with("/snapshot");
    let sells = !reads && sells(path);
    // Nobody has said who asks for them.
    let has_body = !reads && request.method() != Method::OPTIONS;
    if has_body && request.headers().contains_key(header::IF_NONE_MATCH) {
        return Problem::invalid("If-None-Match", "must be left out: it is for reads").into_response();
    }
    let (limit, bodies) = match path {
        "/reconciliations" => (LARGE_JSON_BYTES, &context.largest_bodies),
        _ => (JSON_BYTES, &context.large_bodies),
    };
    let mut since = begun;
    if has_body && !streams {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(Received::read(body, &parts.headers, limit, bodies).await);
        request = Request::from_parts(parts, Body::empty());
        since = Instant::now();
    }
    let places = if sells { &context.sales } else { &context.in_flight };
    let Ok(permit) = places.clone().try_acquire_owned() else {
        return Problem::new(Code::Overloaded).detail("too many requests at once").into_response();
    };
    if let Some(guest) = request.extensions().get::<Arc<Guest>>() {
        guest.works();
    }
    let until = since + REQUEST_TIMEOUT;
    // Held until it is answered, whatever the route does with the request.
    let place = Place { at_work: Arc::new(Mutex::new(Some(permit))), context: context.clone(), until: until - MARGIN };
    request.extensions_mut().insert(place.clone());
    if streams {
        return bounded(context, answered(context, route, request).await, reads);
    }
    let misfit = if reads { None } else { body_problem(request.headers(), limit) };
    let mut answering = pin!(answered(context, route, request));
    // Most are answered at once, and need no timer.
    let in_time = match futures_util::poll!(answering.as_mut()) {
        Poll::Ready(response) => Ok(response),
        Poll::Pending => tokio::time::timeout_at(until, answering).await,
    };
    match in_time {
        // Path and headers are read before the body, but a body that does not fit is said first.
        Ok(response) if response.status() == StatusCode::BAD_REQUEST => {
            misfit.map_or(response, IntoResponse::into_response)
        }
        Ok(response) => bounded(context, response, reads),
        Err(_) if reads => Problem::new(Code::Overloaded).detail("the request took too long").into_response(),
        // It may have had its effect: nothing may be promised.
        Err(_) => Problem::internal("a write took too long").into_response(),
    }
}

/// Whether a write there takes units for a customer: a till's sale, a purchase at a store that is named or by a policy.
fn sells(path: &str) -> bool {
    path.strip_prefix("/purchase").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What the route answers, also if it panics.
async fn answered(context: &Context, route: &Route, request: Request) -> Response {
    let is_about_data = request.method() != Method::OPTIONS;
    let answer = AssertUnwindSafe(async {
        let Ok(answer) = route.clone().call(request).await;
        match context.edge.says.as_ref().filter(|_| is_about_data) {
            Some(says) => (says.0)(answer).await,
            None => answer,
        }
    });
    answer.catch_unwind().await.unwrap_or_else(|_| Problem::internal("a handler panicked").into_response())
}

/// Marks the answer to a request that changed nothing, though its method may: like a read's it may be refused.
#[derive(Debug, Clone, Copy)]
pub struct NoEffect;

/// A read's answer as far as there is memory for it; what a write did is always said.
fn bounded(context: &Context, response: Response, reads: bool) -> Response {
    if !reads && response.extensions().get::<NoEffect>().is_none() {
        return response;
    }
    context.answers.admit(response).unwrap_or_else(|| {
        Problem::new(Code::Overloaded).detail("too many large answers are being read").into_response()
    })
}

fn allowed_methods(refused: &Response) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Some(allow) = refused.headers().get(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
    response
}

/// What every answer carries; a problem gets its instance and trace id and becomes a body.
fn complete(response: &mut Response, path: &str, trace: Trace) {
    if let Some(Pending(mut map)) = response.extensions_mut().remove::<Pending>() {
        map.insert("instance".into(), path.into());
        map.insert("traceId".into(), trace.to_string().into());
        let body = serde_json::to_string(&Ordered(&map)).unwrap_or_default();
        response.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
        *response.body_mut() = Body::from(body);
        let problem = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, problem);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(trace.0.simple().encode_lower(&mut Uuid::encode_buffer())) {
        headers.insert(TRACE_ID, id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NO_CONTENT);
}

fn allow_origin(headers: &mut HeaderMap, origin: HeaderValue, preflight: bool) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    let exposed = "Allow, ETag, Idempotency-Replayed, Location, Preference-Applied, RateLimit-Limit, \
                   RateLimit-Remaining, RateLimit-Reset, Retry-After, Shelf-Position, Shelf-Warning, WWW-Authenticate, X-Projection-Lag-ms, \
                   X-Trace-Id";
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
    if preflight {
        let methods = headers.get(header::ALLOW).cloned();
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_METHODS,
            methods.unwrap_or(HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE")),
        );
        let allowed = "content-type, idempotency-key, if-match, if-none-match, last-event-id, prefer, \
                       authorization, shelf-actor, traceparent";
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    fn served() -> Served {
        let long = || async { "a".repeat(COMPRESSED_FROM as usize) };
        let routes =
            Router::new().route("/a", get(|| async { "a" }).post(|| async { "b" })).route("/long", get(long)).route(
                "/panic",
                get(|| async {
                    if true {
                        panic!("on purpose")
                    }
                }),
            );
        let edge = Edge {
            cors_origins: vec!["http://shop.example".into()],
            allowed_hosts: vec!["central".into()],
            ..Edge::default()
        };
        finish(routes, edge)
    }

    async fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("valid");
        let response = served().oneshot(request).await.expect("answers");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("reads").to_bytes();
        (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    #[test]
    fn whatever_takes_units_for_a_customer_has_places_of_its_own() {
        let all = ["/purchase", "/purchase/tea", "/purchase/s1/tea", "/purchases", "/purchases/x/cancel", "/inventory"];
        assert_eq!(all.map(sells), [true, true, true, false, false, false]);
    }

    #[tokio::test]
    async fn head_says_of_a_body_what_is_true_of_it_compressed_too() {
        let asked = [("accept-encoding", "gzip")];
        let (_, whole, _) = ask("GET", "/long", &asked).await;
        assert_eq!(whole["content-encoding"], "gzip");
        assert_eq!(whole.get("content-length"), None);
        let (status, head, _) = ask("HEAD", "/long", &asked).await;
        assert_eq!((status, &head["vary"], head.get("content-length")), (StatusCode::OK, &whole["vary"], None));
        let (_, short, _) = ask("HEAD", "/a", &asked).await;
        assert_eq!(short["content-length"], "1");
    }

    #[tokio::test]
    async fn who_forbids_plain_answers_gets_one_and_no_refusal_afterwards() {
        for asked in ["br, identity;q=0", "*;q=0.000", "gzip, * ; q=0"] {
            let (status, headers, _) = ask("POST", "/a", &[("accept-encoding", asked)]).await;
            assert_eq!((status, headers.get("content-encoding")), (StatusCode::OK, None), "{asked}");
        }
        let (_, headers, _) = ask("GET", "/long", &[("accept-encoding", "identity;q=0.5, gzip")]).await;
        assert_eq!(headers["content-encoding"], "gzip");
    }

    #[tokio::test]
    async fn what_is_not_there_is_a_problem() {
        let (status, headers, body) = ask("GET", "/v1/nowhere", &[]).await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (404, Some("unknown_route")));
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(body["instance"], "/v1/nowhere");
        assert_eq!(headers["x-trace-id"], body["traceId"].as_str().expect("text"));
        assert_eq!(ask("GET", "/a/", &[]).await.0, 404, "a slash at the end");
        let (status, headers, body) = ask("DELETE", "/v1/a", &[]).await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (405, Some("method_not_allowed")));
        assert_eq!(headers["allow"], "GET,HEAD,POST");
        let (status, headers, _) = ask("OPTIONS", "/a", &[]).await;
        assert_eq!((status.as_u16(), headers["allow"].to_str().expect("text")), (204, "GET,HEAD,POST"));
        assert_eq!(ask("HEAD", "/a", &[]).await.0, 200);
    }

    #[tokio::test]
    async fn routes_are_at_the_root_and_below_v1() {
        let path = |uri: &str| {
            let bare = bare(&uri.parse().expect("a URI")).map(|bare| bare.to_string());
            bare.unwrap_or_else(|| "the same".to_owned())
        };
        assert_eq!(path("/v1/a?b=c"), "/a?b=c");
        assert_eq!(path("http://localhost:1/v1/a"), "http://localhost:1/a");
        assert_eq!((path("/v1"), path("/v1?a=b")), ("/".into(), "/?a=b".into()));
        for other in ["/a", "/v1/", "/v1/?a=b", "/v10/a", "*"] {
            assert_eq!(path(other), "the same", "{other}");
        }
        for (path, status) in [("/a", 200), ("/v1/a", 200), ("/v1/v1/a", 404), ("/v1a", 404)] {
            assert_eq!(ask("GET", path, &[]).await.0, status, "{path}");
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_problem_that_says_nothing() {
        let (status, _, body) = ask("GET", "/panic", &[]).await;
        assert_eq!((status.as_u16(), body["code"].as_str()), (500, Some("internal")));
        assert!(!body.to_string().contains("on purpose"));
    }

    #[tokio::test]
    async fn foreign_hosts_and_origins_are_refused() {
        for host in ["127.0.0.1:8081", "[::1]:8081", "localhost", "central:8081"] {
            assert_eq!(ask("GET", "/a", &[("host", host)]).await.0, 200, "{host}");
        }
        assert_eq!(ask("GET", "/a", &[("host", "evil.example")]).await.0, 403);
        let from = |origin| [("host", "localhost:1"), ("origin", origin)];
        assert_eq!(ask("POST", "/a", &from("http://localhost:1")).await.0, 200);
        assert_eq!(ask("POST", "/a", &from("http://evil.example")).await.0, 403);
        assert_eq!(ask("GET", "/a", &from("http://evil.example")).await.0, 200);
        let (_, headers, _) = ask("GET", "/a", &[]).await;
        assert!(headers.get_all("vary").iter().any(|vary| vary == "Origin"), "a cache may answer others with it");
        let (status, headers, _) = ask("POST", "/a", &from("http://shop.example")).await;
        assert_eq!(
            (status.as_u16(), headers["access-control-allow-origin"].to_str().expect("text")),
            (200, "http://shop.example")
        );
    }

    #[tokio::test]
    async fn a_request_names_one_server_and_one_origin() {
        let bare = |version| Request::builder().version(version).uri("/a").body(Body::empty()).expect("valid");
        assert_eq!(served().oneshot(bare(Version::HTTP_11)).await.expect("answers").status(), 400);
        assert_eq!(served().oneshot(bare(Version::HTTP_10)).await.expect("answers").status(), 200);
        assert_eq!(ask("GET", "/a", &[("host", "localhost"), ("host", "localhost")]).await.0, 400);
        let origin = ("origin", "http://localhost:1");
        assert_eq!(ask("GET", "/a", &[("host", "localhost:1"), origin, origin]).await.0, 400);
        assert_eq!(ask("GET", "http://evil.example/a", &[]).await.0, 403);
        assert_eq!(ask("GET", "http://localhost@evil.example/a", &[]).await.0, 403);
        assert_eq!(ask("GET", "http://localhost/a", &[("host", "evil.example")]).await.0, 200);
        assert_eq!(ask("POST", "http://127.0.0.1:1/a", &[("host", "localhost:1"), origin]).await.0, 403);
    }

    #[tokio::test]
    async fn a_browser_says_where_a_write_comes_from_and_hears_what_it_may_do_with_an_answer() {
        let from = |site, origin| [("sec-fetch-site", site), ("origin", origin)];
        assert_eq!(ask("POST", "/a", &[("sec-fetch-site", "cross-site")]).await.0, 403);
        assert_eq!(ask("POST", "/a", &[("sec-fetch-site", "same-origin")]).await.0, 200);
        assert_eq!(ask("POST", "/a", &from("cross-site", "http://localhost")).await.0, 403);
        assert_eq!(ask("POST", "/a", &from("cross-site", "http://shop.example")).await.0, 200);
        let (status, headers, _) = ask("GET", "/a", &[("sec-fetch-site", "cross-site")]).await;
        assert_eq!(status, 200);
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["content-security-policy"], NO_CONTENT);
        let (_, headers, _) = ask("GET", "/nowhere", &[]).await;
        assert_eq!(headers["content-security-policy"], NO_CONTENT);
    }

    #[tokio::test]
    async fn path_and_query_are_bounded() {
        assert_eq!(ask("GET", &format!("/a?{}", "x".repeat(URI - 3)), &[]).await.0, 200);
        assert_eq!(ask("GET", &format!("/a?{}", "x".repeat(URI)), &[]).await.0, 400);
    }

    #[tokio::test]
    async fn bodies_that_do_not_come_take_no_place() {
        let sell = |_: crate::http::Body<serde_json::Map<String, Value>>| async {};
        let post = axum::routing::post;
        let edge = finish(
            Router::new()
                .route("/purchase/tea", post(sell))
                .route("/inventory", post(sell))
                .route("/a", get(|| async {})),
            Edge::default(),
        );
        let ask = |method: &str, path: &str, body: Body| {
            let request = Request::builder().method(method).uri(path).header("host", "localhost");
            let request = request.header("content-type", "application/json").body(body).expect("valid");
            edge.clone().oneshot(request)
        };
        let never = || Body::from_stream(futures_util::stream::pending::<std::io::Result<&'static str>>());
        let stalled: Vec<_> = ["/purchase/tea", "/inventory"]
            .iter()
            .flat_map(|path| (0..IN_FLIGHT + 10).map(|_| tokio::spawn(ask("POST", path, never()))).collect::<Vec<_>>())
            .collect();
        tokio::task::yield_now().await;
        for (method, path) in [("POST", "/purchase/tea"), ("POST", "/inventory"), ("GET", "/a")] {
            assert_eq!(ask(method, path, Body::from("{}")).await.expect("answers").status(), 200, "{path}");
        }
        stalled.iter().for_each(|task| task.abort());
    }

    #[tokio::test]
    async fn large_bodies_in_memory_are_few() {
        let post = || axum::routing::post(|_: crate::http::Body<serde_json::Map<String, Value>>| async {});
        let edge = finish(Router::new().route("/a", post()).route("/reconciliations", post()), Edge::default());
        let ask = |path: &str, body: Body| {
            let request = Request::builder().method("POST").uri(path).header("host", "localhost");
            let request = request.header("content-type", "application/json").body(body).expect("valid");
            edge.clone().oneshot(request)
        };
        let large = || {
            let begun = futures_util::stream::iter([Ok::<_, std::io::Error>("x".repeat(100 << 10))]);
            Body::from_stream(futures_util::StreamExt::chain(begun, futures_util::stream::pending()))
        };
        let mut stalled = Vec::new();
        for (path, places) in [("/reconciliations", LARGEST_BODIES), ("/a", LARGE_BODIES)] {
            stalled.extend((0..places).map(|_| tokio::spawn(ask(path, large()))));
            for _ in 0..=places {
                tokio::task::yield_now().await;
            }
            assert_eq!(ask(path, large()).await.expect("answers").status(), 503, "{path}");
            assert_eq!(ask(path, Body::from("{}")).await.expect("answers").status(), 200, "{path}");
        }
        stalled.iter().for_each(|task| task.abort());
    }

    #[tokio::test]
    async fn what_changed_nothing_is_answered_as_far_as_there_is_memory() {
        let long = |marked: bool| async move {
            let mut response = "x".repeat(20 << 20).into_response();
            if marked {
                response.extensions_mut().insert(NoEffect);
            }
            response
        };
        let routes = Router::new()
            .route("/compare", axum::routing::post(move || long(true)))
            .route("/write", axum::routing::post(move || long(false)));
        let edge = finish(routes, Edge::default());
        let ask = |path: &str| {
            let request = Request::builder().method("POST").uri(path).header("host", "localhost");
            edge.clone().oneshot(request.body(Body::empty()).expect("valid"))
        };
        let mut untaken = Vec::new();
        for status in [200, 200, 200, 200, 503] {
            let answer = ask("/compare").await.expect("answers");
            assert_eq!(answer.status(), status);
            untaken.push(answer);
        }
        assert_eq!(ask("/write").await.expect("answers").status(), 200, "what a write did is always said");
    }

    #[tokio::test]
    async fn sales_and_other_requests_have_places_of_their_own() {
        let (begun, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let never = move || {
            let _ = begun.send(());
            std::future::pending::<()>()
        };
        let routes = Router::new().route("/slow", get(never)).route("/purchase/tea", axum::routing::post(|| async {}));
        let edge = finish(routes, Edge::default());
        let ask = |method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path).header("host", "localhost");
            edge.clone().oneshot(request.body(Body::empty()).expect("valid"))
        };
        let slow: Vec<_> = (0..IN_FLIGHT).map(|_| tokio::spawn(ask("GET", "/slow"))).collect();
        for _ in 0..IN_FLIGHT {
            seen.recv().await.expect("it has begun");
        }
        assert_eq!(ask("GET", "/slow").await.expect("answers").status(), 503);
        assert_eq!(ask("POST", "/purchase/tea").await.expect("answers").status(), 200);
        slow.iter().for_each(|task| task.abort());
    }

    #[tokio::test]
    async fn a_stop_ends_the_waits() {
        let stop = CancellationToken::new();
        let wait = get(|prefer: crate::http::Prefer| async move {
            prefer.wait().expect("there is a place to wait").over().await;
        });
        let edge = finish(Router::new().route("/wait", wait), Edge { stop: stop.clone(), ..Edge::default() });
        let request = Request::builder().uri("/wait").header("host", "localhost").header("prefer", "wait=30");
        let asked = edge.oneshot(request.body(Body::empty()).expect("valid"));
        stop.cancel();
        assert_eq!(asked.await.expect("answers").status(), 200);
    }

    #[tokio::test]
    async fn who_waits_gives_up_the_place_at_work() {
        let edge = finish(
            Router::new()
                .route(
                    "/wait",
                    get(|prefer: crate::http::Prefer| async move {
                        let wait = prefer.wait().expect("there is a place to wait");
                        wait.over().await;
                    }),
                )
                .route("/read", get(|| async {})),
            Edge::default(),
        );
        let ask = |path: &str, wait: &str| {
            let request = Request::builder().uri(path).header("host", "localhost").header("prefer", wait);
            let request = request.body(Body::empty()).expect("valid");
            edge.clone().oneshot(request)
        };
        let waits: Vec<_> = (0..IN_FLIGHT + 10).map(|_| tokio::spawn(ask("/wait", "wait=30"))).collect();
        tokio::task::yield_now().await;
        let read = ask("/read", "wait=0").await.expect("answers");
        assert_eq!(read.status(), 200);
        waits.iter().for_each(|wait| wait.abort());
    }

    #[tokio::test]
    async fn a_body_that_does_not_fit_is_refused_before_a_path_that_does_not() {
        let bad_path = || async { Problem::invalid("{storeId}", "must be an id") };
        let edge = finish(Router::new().route("/{storeId}", axum::routing::post(bad_path)), Edge::default());
        for (content_type, length, status) in
            [("application/json", "2", 400), ("text/plain", "2", 415), ("application/json", "2000000", 413)]
        {
            let request = Request::builder().method("POST").uri("/x").header("host", "localhost");
            let request = request
                .header("content-type", content_type)
                .header("content-length", length)
                .body(Body::from("{}"))
                .expect("valid");
            assert_eq!(edge.clone().oneshot(request).await.expect("answers").status(), status, "{content_type}");
        }
    }

    #[test]
    fn a_trace_is_taken_over() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let id = trace_id(parent).expect("is valid");
        assert_eq!(Trace(id).to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace_id("00-00000000000000000000000000000000-b7ad6b7169203331-01"), None);
        assert_eq!(trace_id("nonsense"), None);
        let later = parent.replacen("00", "cc", 1);
        assert_eq!(trace_id(&later), Some(id), "of a later version");
        for behind in ["-", "-x", &"-x".repeat(5_000)] {
            for parent in [parent, &later] {
                assert_eq!(trace_id(&format!("{parent}{behind}")), None, "it would be kept with each entry");
            }
        }
    }
}
