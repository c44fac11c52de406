//! Carries out what the machine of each webhook says: reads the chain, sends, keeps what came of it.
//!
//! **Guarantees.** Each webhook has a task of its own, with so many connections and no more: one that is slow costs the
//! others nothing. Its progress is kept after the endpoint's answer, so that an event whose answer was not kept is delivered
//! again, under the same id: at least once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use futures_util::FutureExt;
use protocol::time::Millis;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::outbound::deliveries::{Deliveries, HELD_PAGE, Outgoing, Step};
use crate::outbound::event::EventView;
use crate::outbound::feed::{Feed, Part};
use crate::outbound::sender::{Attempt, Message, Secret, Sender};
use crate::storage::queries::events::{self, Filter, Start};
use crate::storage::webhooks::{self, Attempted, Webhook};
use crate::storage::{Abort, Connection, Db, Error};

/// When too much is asked of the database at once.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// Longest rest: a clock that was set does not make it longer.
const REST: Duration = Duration::from_secs(60);

/// What an endpoint gets.
#[derive(Debug, Serialize)]
struct Payload<'a, T> {
    r#type: &'a str,
    timestamp: Millis,
    data: &'a T,
}

/// The body of a message.
pub fn payload<T: Serialize>(r#type: &str, timestamp: Millis, data: &T) -> String {
    serde_json::to_string(&Payload { r#type, timestamp, data }).expect("what is sent serialises")
}

/// Sends the chain's events to all webhooks.
#[derive(Clone)]
pub struct Webhooks {
    pub db: Db,
    pub feed: Feed,
    pub sender: Sender,
    /// Says that an operator has registered, deleted or changed one.
    pub changed: Arc<Notify>,
}

impl Webhooks {
    /// Runs until told to stop; an error of the database ends it.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
        let mut running: HashMap<i64, (i64, AbortHandle)> = HashMap::new();
        loop {
            let active = self.scan(webhooks::active).await?;
            running.retain(|number, (generation, task)| {
                let goes_on = active.iter().any(|(active, _, current)| active == number && current == generation);
                if !goes_on {
                    task.abort();
                }
                goes_on && !task.is_finished()
            });
            for (number, id, generation) in active {
                running.entry(number).or_insert_with(|| (generation, tasks.spawn(self.clone().deliver(id))));
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.changed.notified() => {}
                Some(ended) = tasks.join_next() => match ended {
                    Ok(result) => result?,
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => return Err(anyhow!("a webhook's task panicked: {error}")),
                },
            }
        }
    }

    /// Delivers to one webhook until it is parked, disabled, or an operator has decided something.
    async fn deliver(self, id: String) -> anyhow::Result<()> {
        let wanted = id.clone();
        let Some(webhook) = self.scan(move |connection| webhooks::find(connection, &wanted)).await? else {
            return Ok(());
        };
        let mut machine = Deliveries::new(webhook.progress.clone());
        let mut follower = self.feed.follow(Some(webhook.progress.cursor)).await?;
        let webhook = Arc::new(webhook);
        let mut under_way = JoinSet::new();
        while machine.is_active() {
            // However much there is to read, who has been served makes room.
            let answers: Vec<_> = std::iter::from_fn(|| under_way.try_join_next()).collect::<Result<_, _>>()?;
            if !answers.is_empty() {
                if !self.take(&webhook, &mut machine, answers).await? {
                    return Ok(());
                }
                // It hears of news here, too, since it rests only when there is nothing to do.
                if follower.moved().now_or_never().is_some() {
                    machine.woken();
                }
                continue;
            }
            match machine.next(runtime::clock::now()) {
                Step::Deliver(event, failures) => {
                    under_way.spawn(attempt(self.sender.clone(), webhook.clone(), event, failures + 1));
                }
                Step::Read { after } => {
                    let part = follower.behind(after).await?;
                    let at_end = part.events.is_empty();
                    machine.read(wanted_of(&webhook, &part), part.to, at_end);
                }
                Step::ReadHeld { store, after, to } => {
                    let (events, to) = self.held(&webhook, &store, after, to).await?;
                    machine.read_held(&store, events, to);
                }
                Step::Save => {
                    if !self.save(&webhook, &mut machine, Vec::new()).await? {
                        return Ok(());
                    }
                }
                Step::Rest { until } => {
                    let rest = until.map_or(REST, |until| {
                        let ms = until.since(runtime::clock::now());
                        Duration::from_millis(u64::try_from(ms).unwrap_or(0)).min(REST)
                    });
                    tokio::select! {
                        Some(first) = under_way.join_next() => {
                            // Whatever else has been answered meanwhile is kept with it.
                            let others = std::iter::from_fn(|| under_way.try_join_next());
                            let answers: Result<Vec<_>, _> = std::iter::once(first).chain(others).collect();
                            if !self.take(&webhook, &mut machine, answers?).await? {
                                return Ok(());
                            }
                        }
                        () = follower.moved() => machine.woken(),
                        () = tokio::time::sleep(rest) => {}
                    }
                }
            }
        }
        tracing::warn!(webhook = %webhook.id, "a webhook gets nothing any more: its status says why");
        Ok(())
    }

    /// Keeps what attempts came to. `false`: an operator has decided something since.
    async fn take(
        &self,
        webhook: &Webhook,
        machine: &mut Deliveries,
        answers: Vec<(Arc<Outgoing>, u32, Attempt)>,
    ) -> anyhow::Result<bool> {
        let mut attempted = Vec::new();
        for (event, attempt, sent) in answers {
            machine.answered(&event.store, sent.means(), runtime::clock::now());
            attempted.push(attempted_of(Some(event.event_id.clone()), attempt, sent));
        }
        self.save(webhook, machine, attempted).await
    }

    async fn save(
        &self,
        webhook: &Webhook,
        machine: &mut Deliveries,
        attempted: Vec<Attempted>,
    ) -> anyhow::Result<bool> {
        let changes = machine.changes();
        let (number, generation) = (webhook.number, webhook.generation);
        loop {
            let (changes, attempted) = (changes.clone(), attempted.clone());
            let job = move |connection: &Connection| {
                Ok::<_, Abort<()>>(webhooks::save(connection, number, generation, &changes, &attempted)?)
            };
            match self.db.write(job).await {
                Ok(saved) => return Ok(saved.unwrap_or(false)),
                Err(Error::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next events of a store that is held back, and up to where that reaches.
    async fn held(&self, webhook: &Webhook, store: &str, after: i64, to: i64) -> anyhow::Result<(Vec<Outgoing>, i64)> {
        let filter = Filter { store: Some(store.to_owned()), ..Filter::default() };
        let job = move |connection: &Connection| events::list(connection, &filter, Start::Behind(after), HELD_PAGE);
        let part = self.scan(job).await?;
        // The machine takes up what lies behind that with the rest of the chain.
        let reached = part.next.map_or(to, |next| next.min(to));
        let found = part.events.into_iter().take_while(|event| event.chain_seq <= to);
        let events = found.map(EventView::from).filter(|event| wants(webhook, event));
        Ok((events.map(|event| outgoing(&event)).collect(), reached))
    }

    async fn scan<T: Send + 'static>(
        &self,
        job: impl Fn(&Connection) -> crate::storage::JobResult<T> + Clone + Send + 'static,
    ) -> anyhow::Result<T> {
        loop {
            match self.db.scan(job.clone()).await {
                Err(Error::Busy) => tokio::time::sleep(BUSY_PAUSE).await,
                result => return Ok(result?),
            }
        }
    }
}

async fn attempt(
    sender: Sender,
    webhook: Arc<Webhook>,
    event: Arc<Outgoing>,
    attempt: u32,
) -> (Arc<Outgoing>, u32, Attempt) {
    let message = Message::of_event(&event.event_id, event.body.clone());
    let sent = sender.send(&webhook.url, &secrets(&webhook, runtime::clock::now()), &message).await;
    (event, attempt, sent)
}

/// An attempt as it is kept.
pub fn attempted_of(event_id: Option<String>, attempt: u32, sent: Attempt) -> Attempted {
    let Attempt { at, duration_ms, answer } = sent;
    Attempted { event_id, attempt, at, duration_ms, answer }
}

/// What deliveries are signed with at a time.
pub fn secrets(webhook: &Webhook, now: Millis) -> Vec<Secret> {
    let previous = webhook.previous.as_ref().filter(|(_, until)| now < *until).map(|(secret, _)| secret);
    std::iter::once(&webhook.secret).chain(previous).map(|secret| Secret(secret.clone())).collect()
}

fn wants(webhook: &Webhook, event: &EventView) -> bool {
    let is_in = |list: &[String], one: &str| list.is_empty() || list.iter().any(|wanted| wanted == one);
    is_in(&webhook.types, event.kind()) && is_in(&webhook.stores, event.store())
}

fn wanted_of(webhook: &Webhook, part: &Part) -> Vec<Outgoing> {
    let events = part.events.iter().map(|shown| &shown.event);
    events.filter(|event| wants(webhook, event)).map(outgoing).collect()
}

fn outgoing(event: &EventView) -> Outgoing {
    Outgoing {
        chain_seq: event.chain_seq(),
        store: event.store().to_owned(),
        event_id: event.id().to_owned(),
        body: payload(event.kind(), event.recorded_at(), event),
    }
}
