//! The command link at full length, and over it purchases, cancels, expiry, picking and a till.
//!
//! Events come back in order, one transaction each, at any time: `link` shows that this is what the event link does.
//! Production code driven: [`protocol::link::Publisher`], [`protocol::link::receive`], [`protocol::domain::decide`],
//! [`protocol::promise::purchase::Life`]. What central and the store load and save is in `till`.

use protocol::link::{Ack, Commands, Cursor, Log};
use protocol::number::CommandEpoch;
use protocol::promise::purchase::Status;
use protocol::time::Millis;
use stateright::{Model, Property};

use crate::publisher::{Done, Publisher, Wiring};
use crate::receiver::{Receiver, go_through};
use crate::redis::{Cmd, Redis, Row};
use crate::run::{Converging, Seen};
use crate::till::{Central, Command, Event, Kind, Store};

/// Bounds, and bugs to plant.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bounds {
    pub(crate) units: i64,
    pub(crate) purchases: u8,
    pub(crate) cancels: u8,
    /// Sales over the till.
    pub(crate) sales: u8,
    pub(crate) picks: u8,
    /// How often Redis's clock passes a deadline.
    pub(crate) ticks: u8,
    /// Faults of any kind in one run.
    pub(crate) faults: u8,
    /// Whether an operator may retire the store (which goes on all the same) and take it back, and put back a copy of
    /// central.
    pub(crate) operator: bool,
    /// An outcome settles whatever was settled before.
    pub(crate) settle_twice: bool,
    /// The store keeps no outcomes by command id.
    pub(crate) no_outcomes: bool,
    /// `confirmed` settles although a cancel was accepted.
    pub(crate) cancel_forgotten: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    central: Central,
    publisher: Publisher<Command>,
    /// A buyer's request that has read the heartbeat and Redis's clock, and not yet begun its transaction.
    buyer: Option<(u8, u8)>,
    redis: Redis<Command>,
    clock: u8,
    receiver: Receiver<Command>,
    /// Redis's clock, read behind the batch that the receiver holds.
    read_at: Option<u8>,
    store: Store,
    /// The next command epoch: the wall clock.
    epoch: i64,
    /// A copy of central's file, to be put back by `central restore`.
    copy: Option<Box<Central>>,
    restored: bool,
    voided: bool,
    /// What was ever said to be final of each purchase, for the model only.
    told: [Option<Status>; 3],
    contradicted: bool,
    cancels_left: u8,
    sales_left: u8,
    picks_left: u8,
    faults_left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A buyer's request reads the heartbeat and the clock.
    Look(u8),
    /// Its transaction (B1).
    Begin,
    Cancel(u8),
    Pick(u8),
    Sell,
    ClockPassesDeadline,
    Send {
        tick: bool,
    },
    Late,
    /// One step of the store's receiver.
    Receive,
    /// Central applies the next event.
    Settle,
    CentralFails {
        crash: bool,
        late: bool,
    },
    StoreCrashes,
    Wipe,
    LoseTail,
    LoseAck,
    SetBackAck(u64),
    /// Everything acknowledged is pruned from the command log.
    Prune,
    Retire,
    Adopt,
    Copy,
    Restore,
}

const STARTED_OVER: u8 = 0;
const EPOCH_BY_NEED: u8 = 1;
const REPEATED: u8 = 2;
const EXPIRED: u8 = 3;
const REJECTED: u8 = 4;
const CANCELLED_AFTER: u8 = 5;
const CANCEL_BEFORE_CONFIRMED: u8 = 6;
const CANCEL_REFUSED: u8 = 7;
const GAVE_BACK: u8 = 8;
const RECREATED: u8 = 9;
const REFUSED: u8 = 10;
const LATE_DELETE: u8 = 11;
const LATE_ADD: u8 = 12;
const CENTRAL_CRASH: u8 = 13;
const REPLY_LOST: u8 = 14;
const STORE_CRASH: u8 = 15;
const WIPE: u8 = 16;
const TAIL_LOST: u8 = 17;
const ACK_LOST: u8 = 18;
const ACK_SET_BACK: u8 = 19;
const RESTORED: u8 = 20;
const STALE_EPOCH: u8 = 21;
const TAKEN_BACK: u8 = 22;

/// The configuration.
pub(crate) struct Purchases {
    bounds: Bounds,
    seen: Seen,
    converging: Converging,
}

impl Purchases {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, seen: Seen::default(), converging: Converging::default() }
    }

    fn send(&self, state: &mut State, tick: bool) -> Done<Commands> {
        let State { central, publisher, redis, .. } = state;
        let done = publisher.step(tick, central, redis, Wiring::default());
        match done {
            Done::Acked(seq) => state.central.acked = seq,
            Done::StartedOver => self.seen.note(STARTED_OVER),
            Done::OpenEpoch(_) => {
                self.seen.note(EPOCH_BY_NEED);
                open_epoch(state);
                state.publisher.epoch_opened();
            }
            Done::Nothing | Done::Stepped => {}
        }
        done
    }

    /// One step of the store's receiver: cursor, `SET ack`, `XREAD`, `TIME`, transaction, and so on.
    fn receive(&self, state: &mut State) {
        match state.receiver {
            Receiver::Idle => state.receiver = Receiver::AnswerWriter(ack(&state.store)),
            Receiver::AnswerWriter(ack) => {
                state.receiver.talk(&mut state.redis);
                state.receiver = Receiver::Asking(ack.cursor);
            }
            Receiver::Asking(_) => {
                state.receiver.talk(&mut state.redis);
            }
            Receiver::Holding(_) => self.execute(state),
        }
    }

    fn execute(&self, state: &mut State) {
        let Some(now) = state.read_at.take() else {
            state.read_at = Some(state.clock);
            return;
        };
        let Receiver::Holding(batch) = std::mem::replace(&mut state.receiver, Receiver::Idle) else { return };
        let execute = |store: &mut Store, row: &Row<Command>| {
            if store.opened_for == 0 {
                return false;
            }
            if let (true, Command::Purchase { id, .. }) = (self.bounds.no_outcomes, &row.payload) {
                store.outcomes.remove(id);
            }
            if store.execute(row, now) {
                self.seen.note(REPEATED);
            }
            true
        };
        let open = |store: &mut Store, row: &Row<Command>| {
            let opened = store.open(row);
            if !opened {
                self.seen.note(STALE_EPOCH);
            }
            opened
        };
        go_through(&mut state.store, &batch, |store| store.cursor, execute, open);
        state.receiver = Receiver::AnswerWriter(ack(&state.store));
    }

    /// Central applies the next event of the store's ledger.
    fn settle(&self, state: &mut State) {
        let event = state.store.ledger[state.central.read];
        self.note(state, event);
        let pending = |state: &State, number| {
            state.central.purchases.get(&number).map(|one| one.status()) == Some(Status::Pending)
        };
        if let Event::Said { purchase, kind: Kind::Confirmed, .. } = event {
            let planted =
                if pending(state, purchase) { self.bounds.cancel_forgotten } else { self.bounds.settle_twice };
            if let (true, Some(known)) = (planted, state.central.purchases.get_mut(&purchase)) {
                known.life.status = Status::Confirmed;
            }
        }
        if state.central.apply(event) {
            self.seen.note(GAVE_BACK);
        }
        tell(state);
    }

    fn note(&self, state: &State, event: Event) {
        let (purchase, kind) = match event {
            Event::Said { purchase, kind, .. } => (purchase, kind),
            _ => return,
        };
        let known = state.central.purchases.get(&purchase);
        let status = known.map(|known| known.status());
        self.seen.note(match (kind, status) {
            (_, None) => RECREATED,
            (Kind::Expired, _) => EXPIRED,
            (Kind::Rejected, _) => REJECTED,
            (Kind::Refused, _) => CANCEL_REFUSED,
            (Kind::Cancelled, Some(Status::Confirmed)) => CANCELLED_AFTER,
            (Kind::Confirmed, Some(Status::Pending)) if known.is_some_and(|known| known.life.cancel_requested) => {
                CANCEL_BEFORE_CONFIRMED
            }
            _ => return,
        });
    }

    fn cycle(&self, state: &mut State) {
        if state.central.retired {
            adopt(state);
        }
        if let Some((purchase, deadline)) = state.buyer.take() {
            state.central.begin(purchase, deadline);
        }
        while let Some(cmd) = state.publisher.late.pop_front() {
            state.redis.execute(&cmd);
        }
        for _ in 0..30 {
            if self.send(state, true) == Done::Nothing {
                break;
            }
        }
        for _ in 0..12 {
            self.receive(state);
        }
        while state.central.read < state.store.ledger.len() {
            self.settle(state);
        }
    }
}

/// Remembers what is now said to be final.
fn tell(state: &mut State) {
    for (number, purchase) in &state.central.purchases {
        let told = &mut state.told[usize::from(*number)];
        let now = (purchase.status() != Status::Pending).then_some(purchase.status());
        let fits = told.is_none() || *told == now || (*told, now) == (Some(Status::Confirmed), Some(Status::Cancelled));
        // A copy of central learns again what it had known; only the end of that may be held against it.
        state.contradicted |= !fits && now.is_some() && !state.restored;
        *told = if state.restored { told.or(now) } else { now.or(*told) };
    }
}

/// L8. The number is greater than any before: the wall clock, kept from going back by what is known.
fn open_epoch(state: &mut State) {
    let epoch = next_epoch(state);
    state.central.open_epoch(epoch);
}

fn next_epoch(state: &mut State) -> CommandEpoch {
    state.epoch += 1;
    state.central.head().epoch.max(state.central.ready).next(Millis(state.epoch))
}

fn adopt(state: &mut State) {
    let epoch = next_epoch(state);
    state.central.adopt(epoch);
}

fn ack(store: &Store) -> Ack<Commands> {
    Ack { cursor: store.cursor, fenced: CommandEpoch::NONE }
}

fn settled(state: &State) -> bool {
    let Central { purchases, requests, read, .. } = &state.central;
    state.store.cursor == state.central.head()
        && state.redis.ack == Some(ack(&state.store))
        && *read == state.store.ledger.len()
        && requests.is_empty()
        && !state.central.retired
        && !state.central.is_settling()
        && purchases.values().all(|purchase| purchase.status() != Status::Pending)
}

/// What must be true once everything has settled.
fn balances(units: i64, state: &State) -> bool {
    let confirmed = state.central.purchases.values().filter(|one| one.status() == Status::Confirmed).count() as i64;
    let told = state.central.purchases.iter().all(|(number, purchase)| {
        let told = state.told[usize::from(*number)];
        told == Some(purchase.status()) || (told, purchase.status()) == (Some(Status::Confirmed), Status::Cancelled)
    });
    units - state.store.sold - state.store.quantity == confirmed
        && state.central.quantity == state.store.quantity
        && (told || state.voided && state.restored)
}

impl Model for Purchases {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let bounds = self.bounds;
        vec![State {
            central: Central::new(bounds.units),
            publisher: Publisher::new(),
            buyer: None,
            redis: Redis::empty(),
            clock: 0,
            receiver: Receiver::Idle,
            read_at: None,
            store: Store::new(bounds.units),
            epoch: 1,
            copy: None,
            restored: false,
            voided: false,
            told: [None; 3],
            contradicted: false,
            cancels_left: bounds.cancels,
            sales_left: bounds.sales,
            picks_left: bounds.picks,
            faults_left: bounds.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let next = (0..self.bounds.purchases).find(|number| !state.central.purchases.contains_key(number));
        match (state.buyer, next) {
            (Some(_), _) => actions.push(Action::Begin),
            (None, Some(next)) if state.told[usize::from(next)].is_none() && !state.restored => {
                actions.push(Action::Look(next));
            }
            _ => {}
        }
        if state.cancels_left > 0 {
            actions.extend(state.central.purchases.keys().map(|number| Action::Cancel(*number)));
        }
        if state.picks_left > 0 {
            actions.extend((0..self.bounds.purchases).map(Action::Pick));
        }
        if state.sales_left > 0 {
            actions.push(Action::Sell);
        }
        if state.clock < self.bounds.ticks {
            actions.push(Action::ClockPassesDeadline);
        }
        actions.push(Action::Send { tick: false });
        if !state.publisher.is_calling() {
            actions.push(Action::Send { tick: true });
        }
        if !state.publisher.late.is_empty() {
            actions.push(Action::Late);
        }
        actions.push(Action::Receive);
        if state.central.read < state.store.ledger.len() {
            actions.push(Action::Settle);
        }
        // When it is copied matters only by what is in the file then, so a quiet moment will do.
        let quiet = !state.publisher.is_calling() && state.receiver == Receiver::Idle && state.buyer.is_none();
        if self.bounds.operator && quiet && state.copy.is_none() && !state.restored {
            actions.push(Action::Copy);
        }
        if state.central.retired {
            actions.push(Action::Adopt);
        }
        if state.faults_left == 0 {
            return;
        }
        for crash in [false, true] {
            actions.push(Action::CentralFails { crash, late: false });
            if state.publisher.would_be_late() && state.publisher.late.is_empty() {
                actions.push(Action::CentralFails { crash, late: true });
            }
        }
        actions.extend([Action::StoreCrashes, Action::Wipe, Action::LoseTail, Action::LoseAck, Action::Prune]);
        if let Some(ack) = state.redis.ack {
            actions.extend((0..ack.cursor.seq.get()).map(Action::SetBackAck));
        }
        if self.bounds.operator {
            if !state.central.retired {
                actions.push(Action::Retire);
            }
            if state.copy.is_some() {
                actions.push(Action::Restore);
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let mut fault = |what: u8| {
            self.seen.note(what);
            state.faults_left -= 1;
        };
        match action {
            Action::Look(number) => state.buyer = Some((number, last.clock)),
            Action::Begin => {
                let (number, deadline) = state.buyer.take()?;
                if !state.central.begin(number, deadline) {
                    self.seen.note(REFUSED);
                }
            }
            Action::Cancel(number) => {
                state.cancels_left -= 1;
                if !state.central.cancel(number, last.cancels_left) {
                    return None;
                }
            }
            Action::Pick(number) => {
                state.picks_left -= 1;
                if !state.store.pick(number) {
                    return None;
                }
            }
            Action::Sell => {
                state.sales_left -= 1;
                if !state.store.sell() {
                    return None;
                }
            }
            Action::ClockPassesDeadline => state.clock += 1,
            Action::Send { tick } => {
                self.send(&mut state, tick);
            }
            Action::Late => {
                let cmd = state.publisher.late.pop_front()?;
                self.seen.note(if cmd == Cmd::Delete { LATE_DELETE } else { LATE_ADD });
                state.redis.execute(&cmd);
            }
            Action::Receive => self.receive(&mut state),
            Action::Settle => self.settle(&mut state),
            Action::CentralFails { crash, late } => {
                fault(if crash { CENTRAL_CRASH } else { REPLY_LOST });
                if crash {
                    state.publisher.crashed(late);
                    state.buyer = None;
                } else {
                    state.publisher.broken(late);
                }
            }
            Action::StoreCrashes => {
                fault(STORE_CRASH);
                state.receiver = Receiver::Idle;
                state.read_at = None;
            }
            Action::Wipe => {
                fault(WIPE);
                state.redis.wipe();
            }
            Action::LoseTail => {
                fault(TAIL_LOST);
                state.redis.lose_tail();
            }
            Action::LoseAck => {
                fault(ACK_LOST);
                state.redis.ack = None;
            }
            Action::SetBackAck(seq) => {
                fault(ACK_SET_BACK);
                let ack = last.redis.ack.filter(|ack| seq == 0 || ack.cursor.epoch == last.central.head().epoch)?;
                state.redis.ack = Some(Ack { cursor: last.central.was_at(seq), ..ack });
            }
            Action::Prune => {
                state.faults_left -= 1;
                state.central.prune();
            }
            Action::Retire => {
                state.faults_left -= 1;
                state.voided = true;
                let epoch = next_epoch(&mut state);
                state.central.retire(epoch);
                tell(&mut state);
            }
            Action::Adopt => {
                self.seen.note(TAKEN_BACK);
                adopt(&mut state);
            }
            Action::Copy => state.copy = Some(Box::new(last.central.clone())),
            Action::Restore => {
                fault(RESTORED);
                state.central = *state.copy.take()?;
                state.restored = true;
                state.buyer = None;
                state.publisher.crashed(false);
                open_epoch(&mut state);
            }
        }
        (State { faults_left: last.faults_left, ..state.clone() } != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn sees(name: &'static str, condition: fn(&Purchases, &State) -> bool) -> Property<Purchases> {
            Property::sometimes(name, condition)
        }
        let mut properties = vec![
            Property::always("stock is never negative", |_, state: &State| state.store.quantity >= 0),
            Property::always("a purchase has one final outcome", |_, state: &State| !state.contradicted),
            Property::always("confirmed is said after the store has committed it", |_, state: &State| {
                state
                    .central
                    .purchases
                    .iter()
                    .all(|(number, purchase)| purchase.status() != Status::Confirmed || state.store.has_taken(*number))
            }),
            Property::always("cancelled while pending is never confirmed", |_, state: &State| {
                let mut purchases = state.central.purchases.values();
                !purchases.any(|one| one.cancelled_while_pending && one.status() == Status::Confirmed)
            }),
            Property::always("central's sender never stops", |_, state: &State| state.publisher.stopped().is_none()),
            Property::always("once settled, units taken are units confirmed", |model: &Self, state: &State| {
                !settled(state) || balances(model.bounds.units, state)
            }),
            Property::always("a fair run converges and balances", |model: &Self, state: &State| {
                let balanced = |state: &State| settled(state) && balances(model.bounds.units, state);
                model.converging.check(state, 10, |state| model.cycle(state), balanced)
            }),
            sees("a purchase is confirmed", |_, state| state.told.contains(&Some(Status::Confirmed))),
            sees("an audit starts over", |model, _| model.seen.has(STARTED_OVER)),
            sees("a confirmed purchase is cancelled", |model, _| model.seen.has(CANCELLED_AFTER)),
            sees("a cancel is accepted before confirmed is heard", |model, _| model.seen.has(CANCEL_BEFORE_CONFIRMED)),
            sees("a late DEL", |model, _| model.seen.has(LATE_DELETE)),
            sees("a late XADD", |model, _| model.seen.has(LATE_ADD)),
            sees("central crashes", |model, _| model.seen.has(CENTRAL_CRASH)),
            sees("a reply is lost", |model, _| model.seen.has(REPLY_LOST)),
            sees("the store crashes", |model, _| model.seen.has(STORE_CRASH)),
            sees("a wipe", |model, _| model.seen.has(WIPE)),
            sees("a tail is lost", |model, _| model.seen.has(TAIL_LOST)),
            sees("an ack is lost", |model, _| model.seen.has(ACK_LOST)),
            sees("an ack is set back", |model, _| model.seen.has(ACK_SET_BACK)),
        ];
        if self.bounds.ticks > 0 {
            properties.push(sees("a purchase expires", |model, _| model.seen.has(EXPIRED)));
        }
        if self.bounds.sales > 0 {
            properties.extend([
                sees("a purchase is rejected", |model, _| model.seen.has(REJECTED)),
                sees("a buyer is refused", |model, _| model.seen.has(REFUSED)),
            ]);
        }
        if self.bounds.picks > 0 {
            properties.push(sees("a cancel is refused: it was picked", |model, _| model.seen.has(CANCEL_REFUSED)));
        }
        if self.bounds.operator {
            properties.extend([
                sees("a copy of central is put back", |model, _| model.seen.has(RESTORED)),
                sees("a known command is answered from its outcome", |model, _| model.seen.has(REPEATED)),
                sees("a forgotten purchase is known again", |model, _| model.seen.has(RECREATED)),
                sees("a retired store is taken back", |model, _| model.seen.has(TAKEN_BACK)),
                sees("units taken for a purchase that has ended go back", |model, _| model.seen.has(GAVE_BACK)),
            ]);
        }
        if self.bounds.faults > 1 {
            properties.push(sees("a pruned log opens a command epoch", |model, _| model.seen.has(EPOCH_BY_NEED)));
        }
        properties
    }
}

impl Store {
    fn new(quantity: i64) -> Self {
        let outcomes = std::collections::BTreeMap::new();
        Self { quantity, sold: 0, outcomes, ledger: Vec::new(), cursor: Cursor::default(), opened_for: 0 }
    }

    fn has_taken(&self, number: u8) -> bool {
        let is_it =
            |event: &Event| matches!(event, Event::Said { purchase, kind: Kind::Confirmed, .. } if *purchase == number);
        self.ledger.iter().any(is_it)
    }
}
