//! Online purchases: ask, read, cancel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::Response;
use protocol::domain::{Item, Line, Lines, Rejection};
use protocol::ids::{OperationId, ProductId, PurchaseId, StoreId};
use protocol::promise::policy::{ATTEMPTS_MAX, Policy};
use protocol::promise::purchase::Status;
use protocol::time::Millis;
use runtime::http::openapi::schema;
use runtime::http::requests::{LineBody, Reference, lines};
use runtime::http::{
    Body, Bounded, Code, IdPath, ItemPath, List, OptionalBody, Page, PageNumber, PageSize, Prefer, Problem, Quantity,
    Query, Result, Text, Write, Written,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::views::{Attempt, ItemView, PurchaseView};
use super::write::{Done, Headers, Target, Written as Begun, about, key_of, load};
use super::{App, Shared};
use crate::links::presence::Unavailable;
use crate::links::seeking::candidates;
use crate::promises::purchases::{
    self as promised, Cancelled, PurchaseRequest, begin, cancel as ask_to_cancel, would_sell,
};
use crate::storage::commands::Request;
use crate::storage::idempotency::{Effect, Key};
use crate::storage::purchases::{self, Purchase};
use crate::storage::queries::offers::{self, InChain, OfferOfAll, Shown};
use crate::storage::queries::purchases as listed;
use crate::storage::stores::Store;
use crate::storage::{Connection, Error, JobResult, Weight, commands, items};

/// Time to live of a purchase when nothing is said, s.
const TTL_SECONDS: i64 = 60;
/// Stores named in a refusal, at most.
const ALTERNATIVES: usize = 10;
/// How long a refusal waits to be able to look for other stores: it can be told without them.
const ALTERNATIVES_PATIENCE: Duration = Duration::from_millis(200);

pub(super) fn router() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(buy))
        .routes(routes!(buy_anywhere))
        .routes(routes!(list))
        .routes(routes!(one))
        .routes(routes!(cancel))
}

/// A purchase at a store
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = BuyAtStore, example = json!({"quantity": 2, "reference": "order 17", "ttlSeconds": 60}))]
struct Buy {
    quantity: Quantity,
    customer_id: Option<Text<0, 100>>,
    /// 60, if it is left out. A store that hears of it later refuses it.
    ttl_seconds: Option<Bounded<1, 3_600>>,
    reference: Option<Reference>,
}

/// Buy at a store
///
/// Confirmed once the store has taken the units off the shelf. Refused at once while the store cannot be asked.
#[utoipa::path(
    post, path = "/purchase/{storeId}/{productId}", operation_id = "buyAtStore", tag = "Purchases", params(ItemPath, Write, Prefer),
    request_body = Buy,
    responses((status = 200, description = "Confirmed: the item after it, and the purchase", body = Bought), (status = 202, description = "The store has not answered yet", body = Bought)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "unsupported_by_store", "unknown_product", "not_caught_up", "insufficient_stock", "discontinued", "purchase_expired", "purchase_cancelled"]))),
)]
async fn buy(
    State(app): Shared,
    ItemPath { store_id, product_id }: ItemPath,
    write: Write,
    prefer: Prefer,
    Body { value, json }: Body<Buy>,
) -> Result<Response> {
    let key = key_of(&write, &json);
    if let Some(record) = app.replay(key.as_ref()).await? {
        return app.bought(&record.target, &prefer, true).await;
    }
    let ask = PurchaseRequest {
        id: PurchaseId::new(app.source.id()),
        lines: Lines::one(product_id, value.quantity.0),
        customer: value.customer_id.map(|text| text.0),
        about: about(write, value.reference.map(|text| text.0)),
        ttl_ms: value.ttl_seconds.map_or(TTL_SECONDS, |ttl| ttl.0) * 1_000,
        redis_now: Millis(0),
        policy: None,
    };
    let written = app.buy_at(&store_id, ask, key).await?;
    app.bought(&written.target, &prefer, written.value.is_none()).await
}

/// A purchase at a store that is named, or that a policy chooses: not both
///
/// `productId` and `quantity`, or `lines`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Buy, example = json!({
    "lines": [{"productId": "coffee", "quantity": 2}, {"productId": "tea", "quantity": 1}],
    "policy": "highest-available", "reference": "order 18",
}))]
struct BuyAnywhere {
    #[schema(value_type = Option<schema::ProductId>)]
    product_id: Option<ProductId>,
    quantity: Option<Quantity>,
    /// Up to 200 products, all from one store or none; what is asked for of the same product is added up.
    #[schema(min_items = 1)]
    lines: Option<Vec<LineBody>>,
    /// Only this store.
    #[schema(value_type = Option<schema::StoreId>)]
    store_id: Option<StoreId>,
    /// By what central chooses the store: `highest-available`, if neither is there.
    #[schema(value_type = Option<schema::Policy>)]
    policy: Option<Policy>,
    customer_id: Option<Text<0, 100>>,
    /// 60, if it is left out. A store that hears of it later refuses it.
    ttl_seconds: Option<Bounded<1, 3_600>>,
    reference: Option<Reference>,
}

impl BuyAnywhere {
    /// What is wanted, in whichever form.
    fn wanted(&mut self) -> Result<Lines> {
        match (self.product_id.take(), self.quantity.take(), self.lines.take()) {
            (Some(product), Some(quantity), None) => Ok(Lines::one(product, quantity.0)),
            (None, None, Some(wanted)) => lines(wanted),
            (None, None, None) => Err(Problem::invalid("/lines", "is missing, and so are productId and quantity")),
            (None, Some(_), None) => Err(Problem::invalid("/productId", "is missing")),
            (Some(_), None, None) => Err(Problem::invalid("/quantity", "is missing")),
            (Some(_), _, Some(_)) | (None, Some(_), Some(_)) => {
                Err(Problem::invalid("/lines", "must be left out where productId and quantity say what is wanted"))
            }
        }
    }
}

/// Buy at the store that a policy chooses
///
/// One product, or several `lines` of which one store takes all or none. Stores are asked one after another, at most five,
/// within the time to live; `attempts` explains the choice.
#[utoipa::path(
    post, path = "/purchase", operation_id = "buy", tag = "Purchases", params(Write, Prefer),
    request_body = BuyAnywhere,
    responses((status = 200, description = "Confirmed", body = PurchaseView), (status = 202, description = "No store has confirmed it yet", body = PurchaseView)),
    extensions(("x-problems" = json!(["unknown_store", "store_retired", "store_unavailable", "unsupported_by_store", "unknown_product", "not_caught_up", "insufficient_stock", "discontinued", "purchase_expired", "purchase_cancelled"]))),
)]
async fn buy_anywhere(
    State(app): Shared,
    write: Write,
    prefer: Prefer,
    Body { mut value, json }: Body<BuyAnywhere>,
) -> Result<Response> {
    let lines = value.wanted()?;
    if value.store_id.is_some() && value.policy.is_some() {
        return Err(Problem::invalid("/policy", "must be left out where storeId names the store"));
    }
    let key = key_of(&write, &json);
    if let Some(record) = app.replay(key.as_ref()).await? {
        return app.told(&record.target, &prefer, true).await;
    }
    let ask = PurchaseRequest {
        id: PurchaseId::new(app.source.id()),
        lines,
        customer: value.customer_id.map(|text| text.0),
        about: about(write, value.reference.map(|text| text.0)),
        ttl_ms: value.ttl_seconds.map_or(TTL_SECONDS, |ttl| ttl.0) * 1_000,
        redis_now: Millis(0),
        policy: value.store_id.is_none().then(|| value.policy.unwrap_or(Policy::HighestAvailable)),
    };
    let written = match (value.store_id, ask.policy) {
        (Some(store), _) => app.buy_at(&store, ask, key).await?,
        (None, policy) => app.buy_by(policy.unwrap_or(Policy::HighestAvailable), ask, key).await?,
    };
    app.told(&written.target, &prefer, written.value.is_none()).await
}

/// Whether another store may do what one cannot.
pub(super) fn is_of_the_store(problem: &Problem) -> bool {
    match problem.code() {
        Code::InsufficientStock | Code::UnknownProduct | Code::Discontinued | Code::StoreRetired | Code::Overloaded => {
            true
        }
        Code::StoreUnavailable => {
            problem.to_json().get("reason").and_then(Value::as_str) != Some(Unavailable::Redis.as_str())
        }
        _ => false,
    }
}

/// The item of the store's reply, or of the view while there is none, and the purchase
#[derive(Debug, Serialize, ToSchema)]
struct Bought {
    #[serde(flatten)]
    item: BoughtItem,
    purchase: PurchaseView,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum BoughtItem {
    Shown(Box<ItemView>),
    /// The view no longer has it.
    #[serde(rename_all = "camelCase")]
    Gone {
        store_id: StoreId,
        product_id: ProductId,
    },
}

/// Of an item that is gone only the ids are left.
impl PartialSchema for BoughtItem {
    fn schema() -> RefOr<Schema> {
        let mut item = schema::json_of::<ItemView>();
        item["required"] = json!(["storeId", "productId"]);
        schema::schema(item)
    }
}

impl ToSchema for BoughtItem {}

/// A store that would sell all of it: of the scarcest line so many.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alternative {
    store_id: StoreId,
    online_available: i64,
}

/// A refusal that names other stores, if they were looked for.
fn named(problem: Problem, others: Option<Vec<Alternative>>) -> Result<Problem> {
    let Some(others) = others else { return Ok(problem) };
    Ok(problem.with("alternatives", serde_json::to_value(others).map_err(Problem::internal)?))
}

impl App {
    /// B1 at a store that was named: a refusal tells what there is instead.
    async fn buy_at(self: &Arc<Self>, store_id: &StoreId, ask: PurchaseRequest, key: Option<Key>) -> Result<Begun<()>> {
        let lines = ask.lines.clone();
        match self.ask_at(store_id, ask, key).await {
            Err(problem) if problem.code() == Code::InsufficientStock => {
                let others = self.alternatives(store_id, lines).await?;
                Err(named(problem.with("storeId", store_id.as_str()), others)?)
            }
            Err(problem) if problem.code() == Code::UnknownProduct => {
                let unknown = self.first_line(store_id, &lines, |known| known.is_none()).await?;
                let unknown = unknown.unwrap_or_else(|| lines.first().product_id.clone());
                Err(self.unknown_product(&self.known(store_id).await?.standing(), &unknown).await)
            }
            Err(problem) => Err(self.with_line(problem, store_id, &lines).await?),
            begun => begun,
        }
    }

    /// B1 at this store. `ask.redis_now` is read here.
    async fn ask_at(self: &Arc<Self>, store_id: &StoreId, ask: PurchaseRequest, key: Option<Key>) -> Result<Begun<()>> {
        let reading = self.for_sale(store_id).await?;
        let ask = PurchaseRequest { redis_now: reading.redis_now, ..ask };
        let weight = Weight::of_lines(ask.lines.iter().len());
        let target = Target { effect: Effect::Purchase, id: ask.id.to_string(), store: store_id.clone(), weight };
        let judge = self.clone();
        self.write(key, target, move |connection, store, now| {
            let covered_only = judge.may_sell(store, &reading)?;
            if commands::is_full(connection, &store.id)? {
                return Err(Problem::new(Code::Overloaded).into());
            }
            match begin(connection, store, &ask, covered_only, now)? {
                promised::Begun::Asked | promised::Begun::Sold => Ok(Done::with(())),
                promised::Begun::NotCovered => {
                    Err(judge.unavailable(&store.id, Unavailable::Offline, Some(reading.age_ms)).into())
                }
            }
        })
        .await
    }

    /// B1 at the first store, in the policy's order, that may be asked.
    async fn buy_by(self: &Arc<Self>, policy: Policy, ask: PurchaseRequest, key: Option<Key>) -> Result<Begun<()>> {
        let (presence, lines) = (self.presence.clone(), ask.lines.clone());
        let found = self.choosing.scan(move |connection| candidates(connection, &presence, &lines, policy));
        let mut last = None;
        for store in found.await?.into_iter().take(ATTEMPTS_MAX) {
            match self.ask_at(&store, ask.clone(), key.clone()).await {
                Err(problem) if is_of_the_store(&problem) => last = Some(problem),
                begun => return begun,
            }
        }
        let later = |problem: &Problem| matches!(problem.code(), Code::StoreUnavailable | Code::Overloaded);
        Err(match last.filter(later) {
            Some(problem) => problem,
            None => self.nobody_sells(ask.lines).await?,
        })
    }

    /// Why no store is asked.
    async fn nobody_sells(&self, lines: Lines) -> Result<Problem> {
        let wanted = lines.clone();
        // Of one product nobody is closest who has not enough.
        let least = if lines.only().is_some() { 0 } else { i64::MIN };
        let found = self.choosing.scan(move |connection| {
            let mut sellers = BTreeMap::new();
            let in_chain = |line: &Line| offers::in_chain(connection, line, &mut sellers);
            let each = wanted.iter().map(in_chain).collect::<JobResult<Vec<_>>>()?;
            Ok((each, offers::of_lines(connection, &wanted, least)?, sellers))
        });
        let (each, of_all, sellers) = found.await?;
        for (line, chain) in lines.iter().zip(&each) {
            let product = &line.product_id;
            if chain.stores == 0 {
                return self.unknown_everywhere(product).await;
            }
            if chain.carried == 0 {
                return Ok(Problem::from(Rejection::Discontinued).with("productId", product.as_str()));
            }
        }
        let away = of_all.iter().filter(|offer| offer.left >= 0);
        let mut why = away.filter_map(|offer| Some((offer, self.presence.judge_remembered(&offer.store).err()?)));
        if let Some((offer, why)) = why.next() {
            return Ok(self.unavailable(&offer.store.id, why, None));
        }
        // Figures are of the chain; what could be had is of the one store that has most.
        let mut chains = each.into_iter();
        let short = lines.each(|line| {
            let InChain { quantity, reserved, allotted, online_available, .. } = chains.next().unwrap_or_default();
            let requested = line.quantity.get();
            if requested <= online_available && lines.only().is_none() {
                return Ok(());
            }
            let chain = Item { quantity, reserved, allotted, ..Item::default() };
            Err(Rejection::insufficient(&chain, requested, online_available))
        });
        if let Err(short) = short {
            return Ok(short.into());
        }
        let apart = || Problem::new(Code::InsufficientStock).detail("no store has enough of all of these products");
        // Of equals the first; if nobody has all, who would sell most of the lines.
        let has_all = of_all.into_iter().rev().filter(|offer| offer.is_carried).max_by_key(|offer| offer.left);
        let sells_most = || sellers.into_iter().rev().max_by_key(|(_, lines)| *lines)?.0.parse().ok();
        let closest = has_all.map(|offer| offer.store.id).or_else(sells_most);
        let Some(store) = closest else { return Ok(apart()) };
        let known = self.db.read(|connection| items::of_lines(connection, &store, &lines)).await?;
        let short = lines.each(|line| match known.get(&line.product_id).filter(|(item, _)| !item.discontinued) {
            // Other stores have it.
            None => Err(Rejection::insufficient(&Item::default(), line.quantity.get(), 0)),
            known => would_sell(line, known).map(drop),
        });
        Ok(short.err().map_or_else(apart, Problem::from).with("storeId", store.as_str()))
    }

    /// Waits for a purchase's outcome and says it.
    async fn told(&self, id: &str, prefer: &Prefer, is_replay: bool) -> Result<Response> {
        let purchase = self.await_purchase(id, prefer).await?;
        let headers = Headers::new(Some(prefer), is_replay, purchase.position.as_ref())
            .with(header::LOCATION, &format!("/v1/purchases/{id}"));
        Ok(match purchase.status {
            Status::Confirmed => headers.on(Json(PurchaseView::of(&purchase, self.source.now()))),
            Status::Pending => headers.on((StatusCode::ACCEPTED, Json(PurchaseView::of(&purchase, self.source.now())))),
            Status::Rejected | Status::Expired | Status::Cancelled => {
                let attempts = serde_json::to_value(Attempt::all_of(&purchase)).map_err(Problem::internal)?;
                headers.on(self.why_not(&purchase).await?.with("attempts", attempts))
            }
        })
    }

    /// Waits for a purchase's outcome and says it, with the item after it.
    async fn bought(&self, id: &str, prefer: &Prefer, is_replay: bool) -> Result<Response> {
        let purchase = self.await_purchase(id, prefer).await?;
        let headers = Headers::new(Some(prefer), is_replay, purchase.position.as_ref())
            .with(header::LOCATION, &format!("/v1/purchases/{id}"));
        Ok(match purchase.status {
            Status::Confirmed => headers.on(Json(self.item_of(&purchase).await?)),
            Status::Pending => headers.on((StatusCode::ACCEPTED, Json(self.item_of(&purchase).await?))),
            Status::Rejected | Status::Expired | Status::Cancelled => headers.on(self.why_not(&purchase).await?),
        })
    }

    /// A purchase, once it is no longer pending or the wait is over.
    async fn await_purchase(&self, id: &str, prefer: &Prefer) -> Result<Purchase> {
        let key: PurchaseId = id.parse().map_err(|_| Problem::new(Code::UnknownId))?;
        let look = || self.purchase(key);
        self.waiting
            .until(&key.to_string(), || prefer.wait(), look, |purchase| purchase.status != Status::Pending)
            .await
    }

    async fn purchase(&self, id: PurchaseId) -> Result<Purchase> {
        let found = self.db.read(|connection| purchases::find(connection, id)).await?;
        found.ok_or_else(|| Problem::new(Code::UnknownId))
    }

    async fn item_of(&self, purchase: &Purchase) -> Result<Bought> {
        let found = self.db.read(|connection| {
            let request = commands::find(connection, purchase.attempt.as_str())?;
            let replied =
                request.and_then(|request| request.outcome).and_then(|outcome| outcome.became.item().cloned());
            let replied = replied.filter(|_| purchase.status == Status::Confirmed);
            let shown = offers::one(connection, &purchase.store, &purchase.lines.first().product_id)?;
            Ok(shown.and_then(|Shown { store, item, pending }| Some((store, replied.or(item)?, pending))))
        });
        let product_id = purchase.lines.first().product_id.clone();
        let item = match found.await? {
            Some((store, item, pending)) => {
                BoughtItem::Shown(ItemView::of(self, &store, product_id, &item, pending).into())
            }
            None => BoughtItem::Gone { store_id: purchase.store.clone(), product_id },
        };
        Ok(Bought { item, purchase: PurchaseView::of(purchase, self.source.now()) })
    }

    /// The problem that a purchase ended with.
    async fn why_not(&self, purchase: &Purchase) -> Result<Problem> {
        let request = self.db.read(|connection| commands::find(connection, purchase.attempt.as_str())).await?;
        let rejection =
            request.and_then(|request| request.outcome).and_then(|outcome| outcome.became.rejection().cloned());
        let code = match purchase.status {
            Status::Expired => Code::PurchaseExpired,
            Status::Rejected => purchase.code.as_deref().and_then(Code::from_name).unwrap_or(Code::InsufficientStock),
            // Also `store_retired`: an operator ended it.
            Status::Cancelled | Status::Pending | Status::Confirmed => {
                purchase.code.as_deref().and_then(Code::from_name).unwrap_or(Code::PurchaseCancelled)
            }
        };
        let problem = match rejection.filter(|rejection| rejection.code() == code.as_str()) {
            Some(rejection) => Problem::from(rejection),
            None => Problem::new(code),
        };
        let problem = problem.with("purchaseId", purchase.id.to_string()).with("storeId", purchase.store.as_str());
        if code != Code::InsufficientStock {
            return self.with_line(problem, &purchase.store, &purchase.lines).await;
        }
        named(problem, self.alternatives(&purchase.store, purchase.lines.clone()).await?)
    }

    /// The problem, with the line that it is about as far as the view tells.
    pub(super) async fn with_line(&self, problem: Problem, store: &StoreId, lines: &Lines) -> Result<Problem> {
        let of_line: fn(Option<&(Item, i64)>) -> bool = match problem.code() {
            Code::Discontinued => |known| known.is_some_and(|(item, _)| item.discontinued),
            Code::UnknownProduct => |known| known.is_none(),
            Code::InsufficientStock => return Ok(problem.with("storeId", store.as_str())),
            _ => return Ok(problem),
        };
        let problem = problem.with("storeId", store.as_str());
        let is_unknown = problem.code() == Code::UnknownProduct;
        Ok(match self.first_line(store, lines, of_line).await? {
            Some(product) if is_unknown => self.naming(problem, store, &product).await,
            Some(product) => problem.with("productId", product.as_str()),
            None => problem,
        })
    }

    /// The first of these products of whose item in the view this is true.
    async fn first_line(
        &self,
        store: &StoreId,
        lines: &Lines,
        is: fn(Option<&(Item, i64)>) -> bool,
    ) -> Result<Option<ProductId>> {
        let known = self.db.read(|connection| items::of_lines(connection, store, lines)).await?;
        let line = lines.iter().find(|line| is(known.get(&line.product_id)));
        Ok(line.map(|line| line.product_id.clone()))
    }

    /// Other stores that would sell all of it now, those with most of their scarcest line left first. `None`: too many are
    /// looking for a store.
    async fn alternatives(&self, except: &StoreId, lines: Lines) -> Result<Option<Vec<Alternative>>> {
        let look = move |connection: &Connection| offers::of_lines(connection, &lines, 0);
        let mut offers = match self.choosing.scan_within(ALTERNATIVES_PATIENCE, look).await {
            Err(Error::Busy) => return Ok(None),
            offers => offers?,
        };
        offers.retain(|offer| offer.store.id != *except && self.presence.judge_remembered(&offer.store).is_ok());
        offers.sort_by(|a, b| b.left.cmp(&a.left).then_with(|| a.store.id.cmp(&b.store.id)));
        offers.truncate(ALTERNATIVES);
        let named = |OfferOfAll { store, online_available, .. }| Alternative { store_id: store.id, online_available };
        Ok(Some(offers.into_iter().map(named).collect()))
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
struct Filter {
    store_id: Option<String>,
    status: Option<String>,
    customer_id: Option<String>,
    reference: Option<String>,
    /// Those with a line of this product.
    product_id: Option<String>,
    #[param(value_type = Option<schema::Time>)]
    since: Option<Millis>,
    page: Option<PageNumber>,
    size: Option<PageSize>,
    cursor: Option<String>,
}

type Purchases = List<PurchaseView>;

/// List purchases
#[utoipa::path(
    get, path = "/purchases", operation_id = "listPurchases", tag = "Purchases", params(Filter),
    responses((status = 200, description = "Purchases, the newest first", body = Purchases)),
)]
async fn list(State(app): Shared, Query(filter): Query<Filter>) -> Result<Written> {
    let page = Page::of(filter.page, filter.size, filter.cursor.as_deref(), 1)?;
    let wanted = listed::Filter {
        store: filter.store_id,
        status: filter.status,
        customer: filter.customer_id,
        reference: filter.reference,
        product: filter.product_id,
        since: filter.since,
    };
    let (slice, now) = (page.by_number()?, app.source.now());
    let list = app.db.scan(move |connection| {
        let list = List::from(listed::list(connection, &wanted, &slice)?);
        Ok(Written::json(&list.map(|purchase| PurchaseView::of(&purchase, now))))
    });
    Ok(list.await?)
}

/// Read a purchase
#[utoipa::path(
    get, path = "/purchases/{id}", operation_id = "getPurchase", tag = "Purchases", params(IdPath, Prefer),
    responses((status = 200, description = "The purchase", body = PurchaseView)),
    extensions(("x-problems" = json!(["unknown_id"]))),
)]
async fn one(State(app): Shared, IdPath(id): IdPath, prefer: Prefer) -> Result<Response> {
    let purchase = app.await_purchase(&id, &prefer.only_if_asked()).await?;
    let headers = Headers::new(Some(&prefer), false, None);
    Ok(headers.on(Json(PurchaseView::of(&purchase, app.source.now()))))
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CancelPurchase, example = json!({"reason": "the customer does not want it"}))]
struct Cancel {
    /// Counts as `reference`, if that is left out.
    reason: Option<Text<0, 100>>,
    reference: Option<Reference>,
}

/// Cancel a purchase
///
/// After the 2xx of the cancel of a pending purchase it never ends as `confirmed`: the shop may refund at once.
#[utoipa::path(
    post, path = "/purchases/{id}/cancel", operation_id = "cancelPurchase", tag = "Purchases", params(IdPath, Write, Prefer),
    request_body = Option<Cancel>,
    responses((status = 200, description = "It has ended, and not as `confirmed`", body = PurchaseView), (status = 202, description = "The store has not answered yet", body = PurchaseView)),
    extensions(("x-problems" = json!(["unknown_id", "already_picked", "store_retired"]))),
)]
async fn cancel(
    State(app): Shared,
    IdPath(id): IdPath,
    write: Write,
    prefer: Prefer,
    OptionalBody { value, json }: OptionalBody<Cancel>,
) -> Result<Response> {
    let key = key_of(&write, &json);
    app.replay(key.as_ref()).await?;
    let purchase_id: PurchaseId = id.parse().map_err(|_| Problem::new(Code::UnknownId))?;
    let purchase = app.purchase(purchase_id).await?;
    let weight = Weight::of_lines(purchase.lines.iter().len());
    let target = Target { effect: Effect::Cancel, id: purchase_id.to_string(), store: purchase.store, weight };
    let about = about(write, value.reference.or(value.reason).map(|text| text.0));
    let command = OperationId::from_uuid(app.source.id());
    let act = move |connection: &Connection, store: &mut Store, now| {
        let purchase = purchases::find(connection, purchase_id)?.ok_or_else(|| Problem::new(Code::UnknownId))?;
        let mut other = None;
        // Another store may have been asked meanwhile.
        let store = if purchase.store == store.id { store } else { other.insert(load(connection, &purchase.store)?) };
        // Of pending purchases there are no more than a store may be asked for, and a buyer is told at once.
        let is_bound = purchase.status == Status::Confirmed && commands::is_full(connection, &store.id)?;
        let value = ask_to_cancel(connection, store, &purchase, command.clone(), &about, now)
            .map_err(|abort| abort.map(|refused| Problem::from(refused).with("purchaseId", purchase_id.to_string())))?;
        if is_bound && matches!(&value, Cancelled::Asked(asked) if *asked == command) {
            return Err(Problem::new(Code::Overloaded).into());
        }
        // One that sought a store has ended with it.
        Ok(Done { value: (store.id.clone(), value), settled: vec![purchase_id.to_string()] })
    };
    let mut written = app.write(key, target.clone(), act.clone()).await?;
    let is_replay = written.value.is_none();
    if is_replay {
        // A repetition asks again: it finds the cancel that is on its way, or that the purchase has ended.
        written = app.write(None, target, act).await?;
    }
    let answered = match written.value {
        Some((store, Cancelled::Asked(command))) => {
            app.wakes.wake(&store);
            Some(app.await_command(command.as_str(), &prefer).await?)
        }
        Some((_, Cancelled::Ended)) | None => None,
    };
    let rejection = answered.as_ref().and_then(Request::rejection);
    let purchase = app.purchase(purchase_id).await?;
    // Retiring the store has ended a pending purchase, too: then the cancel has its way.
    let confirmed = purchase.status == Status::Confirmed;
    let position = answered.as_ref().and_then(|request| request.position.as_ref()).or(purchase.position.as_ref());
    let headers = Headers::new(Some(&prefer), is_replay, position);
    if let (true, Some(rejection @ (Rejection::AlreadyPicked | Rejection::StoreRetired))) = (confirmed, rejection) {
        return Ok(headers.on(Problem::from(rejection).with("purchaseId", id)));
    }
    let view = Json(PurchaseView::of(&purchase, app.source.now()));
    Ok(match purchase.status {
        Status::Pending | Status::Confirmed => {
            let headers = headers.with(header::LOCATION, &format!("/v1/purchases/{}", purchase.id));
            headers.on((StatusCode::ACCEPTED, view))
        }
        Status::Rejected | Status::Expired | Status::Cancelled => headers.on(view),
    })
}

#[cfg(test)]
mod tests {
    use axum::extract::FromRequestParts;
    use protocol::wire::{About, Command, Event, Fact, Happened};

    use super::*;
    use crate::http::tests::app;
    use crate::storage::Abort;
    use crate::testing::{Agent, Busy, NOW, product, purchase_id};

    /// What is done to a database by hand, with a store that has ten units of tea.
    async fn given(app: &App, job: impl Fn(&Connection, &mut Agent) + Send + 'static) {
        let job = move |connection: &Connection| {
            job(connection, &mut Agent::settled("s1", connection));
            Ok::<_, Abort<()>>(())
        };
        app.db.write(job).await.expect("writes").expect("is not refused");
    }

    fn tea(quantity: i64) -> Lines {
        Lines::one(product("tea"), protocol::domain::Quantity::try_from(quantity).expect("in range"))
    }

    #[tokio::test]
    async fn whoever_buys_waits_for_no_list() {
        let (_dir, app) = app();
        given(&app, |_, _| {}).await;
        let app = Arc::new(app);
        let _busy = Busy::all_scans_of(&app.db).await;
        let ask = PurchaseRequest {
            id: purchase_id(1),
            lines: tea(11),
            customer: None,
            about: About::default(),
            ttl_ms: 60_000,
            redis_now: Millis(0),
            policy: Some(Policy::HighestAvailable),
        };
        let refused = app.buy_by(Policy::HighestAvailable, ask, None).await.err().expect("nobody has so many");
        assert_eq!(refused.code(), Code::InsufficientStock);
        assert_eq!(refused.to_json()["available"], 10);
    }

    #[tokio::test]
    async fn a_refusal_is_told_without_other_stores_while_too_many_look_for_one() {
        let (_dir, app) = app();
        given(&app, |_, _| {}).await;
        let store = StoreId::parse("s2").expect("valid");
        assert_eq!(app.alternatives(&store, tea(1)).await.expect("reads").map(|others| others.len()), Some(0));
        let _busy = Busy::all_scans_of(&app.choosing).await;
        let others = app.alternatives(&store, tea(1)).await.expect("is no error");
        assert!(others.is_none());
        let told = named(Problem::new(Code::InsufficientStock), others).expect("is told");
        assert!(!told.to_json().contains_key("alternatives"));
    }

    #[tokio::test]
    async fn a_store_with_much_to_answer_is_asked_to_cancel_what_is_pending_alone() {
        let (_dir, app) = app();
        given(&app, |connection, agent| {
            for number in [1, 2] {
                agent.buy(connection, number);
            }
            let purchase = purchases::find(connection, purchase_id(1)).expect("reads").expect("is there");
            let what = Happened::PurchaseConfirmed { purchase: purchase.attempt_ref(), items: vec![agent.take_one()] };
            let confirmed = Fact { command: Some(purchase.attempt.clone()), ..Fact::new(what, NOW) };
            let confirmed = agent.entry(&Event::Fact(confirmed));
            agent.tell(connection, &[confirmed]);
            let mut store = agent.store(connection);
            while !commands::is_full(connection, &store.id).expect("reads") {
                let id = OperationId::parse(&format!("resync-{}", store.command_head.seq)).expect("valid");
                commands::append(connection, &mut store, &id, &Command::Resync, NOW).expect("writes");
            }
        })
        .await;
        let app = Arc::new(app);
        let cancelled = |number| {
            let write = Write {
                key: None,
                actor: None,
                traceparent: String::new(),
                path: String::new(),
                method: "POST".into(),
            };
            let (app, id) = (app.clone(), purchase_id(number).to_string());
            async move {
                let mut parts = axum::http::Request::new(()).into_parts().0;
                parts.headers.insert("prefer", "wait=0".parse().expect("is visible"));
                let prefer = Prefer::from_request_parts(&mut parts, &()).await.expect("is read");
                let body = OptionalBody { value: Cancel::default(), json: Value::Null };
                cancel(State(app), IdPath(id), write, prefer, body).await
            }
        };
        assert_eq!(cancelled(1).await.err().map(|problem| problem.code()), Some(Code::Overloaded));
        assert_eq!(cancelled(2).await.expect("is taken").status(), StatusCode::ACCEPTED);
    }
}
