//! The link alone: one log of one epoch, one receiver, every fault of Redis and of the two processes.
//!
//! Production code driven: [`protocol::link::Publisher`] with its judging, window and audit, [`protocol::link::receive`], the
//! chain. The log only grows; what changes when it does not is the matter of `epochs`.

use protocol::hash::Hash;
use protocol::link::{Ack, Cursor, Epoch, Events, Log, OPENED, Seq};
use stateright::{Model, Property};

use crate::publisher::{Done, Publisher, Rows, Wiring};
use crate::receiver::{Receiver, go_through};
use crate::redis::{Payload, Redis, Row};
use crate::run::{Converging, Seen};

/// Bounds, and bugs to plant.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bounds {
    /// Entries in the log, the opening one included.
    pub(crate) entries: u64,
    /// Faults of any kind in one run.
    pub(crate) faults: u8,
    pub(crate) wiring: Wiring,
    /// The receiver applies without looking at its cursor.
    pub(crate) no_cursor_check: bool,
    /// The receiver stores its cursor in a transaction of its own, after it has applied.
    pub(crate) cursor_apart: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Said {
    Opened,
    Sold,
}

impl Payload for Said {
    type Link = Events;

    fn kind(&self) -> &'static str {
        match self {
            Self::Opened => OPENED,
            Self::Sold => "sold",
        }
    }
}

/// The sender's database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ledger(Vec<Row<Said>>);

impl Ledger {
    fn append(&mut self, said: Said) {
        self.0.push(Row::follow(&self.head(), said));
    }
}

impl Log for Ledger {
    fn head(&self) -> Cursor {
        self.0.last().map_or(Cursor { epoch: 1.into(), ..Cursor::default() }, Row::cursor)
    }
    fn hash_at(&self, seq: Seq) -> Option<Hash> {
        if seq == Seq::ZERO { Some(Hash::ZERO) } else { self.row(seq).map(|row| row.hash) }
    }
}

impl Rows<Said> for Ledger {
    fn row(&self, seq: Seq) -> Option<&Row<Said>> {
        seq.get().checked_sub(1).and_then(|index| self.0.get(index as usize))
    }
}

/// The receiver's database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Central {
    cursor: Cursor,
    applied: Vec<Hash>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    ledger: Ledger,
    publisher: Publisher<Said>,
    redis: Redis<Said>,
    central: Central,
    receiver: Receiver<Said>,
    /// A planted bug's half of a transaction.
    unsaved: Option<Cursor>,
    faults_left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Sell,
    /// One step of the sender; with `tick`, T has passed since its last.
    Send {
        tick: bool,
    },
    /// An old connection's command is executed at last.
    Late,
    Receive,
    Sweep,
    /// The sender's connection breaks, or its process ends; what was on its way is lost, or executed late.
    SenderFails {
        crash: bool,
        late: bool,
    },
    ReceiverCrashes,
    Wipe,
    LoseTail,
    LoseAck,
    /// The ack is what it was at this place.
    SetBackAck(u64),
    /// The receiver's database is what it was at this place.
    SetBackCentral(u64),
}

const STARTED_OVER: u8 = 0;
const HOLE: u8 = 1;
const HOLE_HEALED: u8 = 2;
const REPLY_LOST: u8 = 3;
const LATE_DELETE: u8 = 4;
const LATE_ADD: u8 = 5;
const WIPE: u8 = 6;
const TAIL_LOST: u8 = 7;
const ACK_LOST: u8 = 8;
const ACK_SET_BACK: u8 = 9;
const CENTRAL_SET_BACK: u8 = 10;
const SENDER_CRASH: u8 = 11;
const RECEIVER_CRASH: u8 = 12;

/// The configuration.
pub(crate) struct Link {
    bounds: Bounds,
    seen: Seen,
    converging: Converging,
}

impl Link {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, seen: Seen::default(), converging: Converging::default() }
    }

    fn send(&self, state: &mut State, tick: bool) -> Done<Events> {
        let hole = has_hole(&state.redis);
        let State { ledger, publisher, redis, .. } = state;
        let done = publisher.step(tick, ledger, redis, self.bounds.wiring);
        if done == Done::StartedOver {
            self.seen.note(STARTED_OVER);
        }
        match (hole, has_hole(&state.redis)) {
            (false, true) => self.seen.note(HOLE),
            (true, false) => self.seen.note(HOLE_HEALED),
            _ => {}
        }
        done
    }

    /// One step of the receiver, if it is not idle.
    fn go_on(&self, state: &mut State) {
        if let Some(cursor) = state.unsaved.take() {
            state.central.cursor = cursor;
            state.receiver = Receiver::AnswerWriter(ack(&state.central));
            return;
        }
        if state.receiver.talk(&mut state.redis) {
            return;
        }
        let Receiver::Holding(batch) = std::mem::replace(&mut state.receiver, Receiver::Idle) else { return };
        let before = state.central.cursor;
        if self.bounds.no_cursor_check {
            for row in &batch {
                record(&mut state.central, row);
            }
        } else {
            go_through(&mut state.central, &batch, |central| central.cursor, record, record);
        }
        if self.bounds.cursor_apart {
            state.unsaved = Some(std::mem::replace(&mut state.central.cursor, before));
            state.receiver = Receiver::Idle;
        } else {
            state.receiver = Receiver::AnswerWriter(ack(&state.central));
        }
    }

    /// A fair stretch without faults: everyone does all there is to do. Traffic goes on while it heals.
    fn cycle(&self, state: &mut State) {
        if state.ledger.head().seq.get() < self.bounds.entries + 3 {
            state.ledger.append(Said::Sold);
        }
        while let Some(cmd) = state.publisher.late.pop_front() {
            state.redis.execute(&cmd);
        }
        for _ in 0..30 {
            if self.send(state, true) == Done::Nothing {
                break;
            }
            // With T passing at every question there is always a round to run; half a dozen are enough.
        }
        for look in [true, false] {
            for _ in 0..4 {
                if !is_idle(state) {
                    self.go_on(state);
                }
            }
            state.receiver = if look { Receiver::Asking(state.central.cursor) } else { sweep(state) };
        }
        while !is_idle(state) {
            self.go_on(state);
        }
    }
}

fn record(central: &mut Central, row: &Row<Said>) -> bool {
    central.applied.push(row.hash);
    central.cursor = row.cursor();
    true
}

fn ack(central: &Central) -> Ack {
    Ack { cursor: central.cursor, fenced: Epoch::NONE }
}

fn sweep(state: &State) -> Receiver<Said> {
    Receiver::AnswerWriter(ack(&state.central))
}

fn is_idle(state: &State) -> bool {
    state.receiver == Receiver::Idle && state.unsaved.is_none()
}

fn has_hole(redis: &Redis<Said>) -> bool {
    redis.stream.windows(2).any(|pair| pair[0].id.seq.next() != pair[1].id.seq)
}

fn settled(state: &State) -> bool {
    state.central.cursor == state.ledger.head() && state.redis.ack == Some(ack(&state.central))
}

impl Model for Link {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut ledger = Ledger(Vec::new());
        ledger.append(Said::Opened);
        vec![State {
            ledger,
            publisher: Publisher::new(),
            redis: Redis::empty(),
            central: Central::default(),
            receiver: Receiver::Idle,
            unsaved: None,
            faults_left: self.bounds.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.ledger.head().seq.get() < self.bounds.entries {
            actions.push(Action::Sell);
        }
        actions.push(Action::Send { tick: false });
        if !state.publisher.is_calling() {
            actions.push(Action::Send { tick: true });
        }
        if !state.publisher.late.is_empty() {
            actions.push(Action::Late);
        }
        actions.push(Action::Receive);
        if is_idle(state) {
            actions.push(Action::Sweep);
        }
        if state.faults_left == 0 {
            return;
        }
        for crash in [false, true] {
            actions.push(Action::SenderFails { crash, late: false });
            if state.publisher.would_be_late() && state.publisher.late.is_empty() {
                actions.push(Action::SenderFails { crash, late: true });
            }
        }
        actions.extend([Action::ReceiverCrashes, Action::Wipe, Action::LoseTail, Action::LoseAck]);
        if let Some(ack) = state.redis.ack {
            actions.extend((0..ack.cursor.seq.get()).map(Action::SetBackAck));
        }
        actions.extend((0..state.central.cursor.seq.get()).map(Action::SetBackCentral));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let mut fault = |what: u8| {
            self.seen.note(what);
            state.faults_left -= 1;
        };
        match action {
            Action::Sell => state.ledger.append(Said::Sold),
            Action::Send { tick } => {
                self.send(&mut state, tick);
            }
            Action::Late => {
                let cmd = state.publisher.late.pop_front()?;
                self.seen.note(if cmd == crate::redis::Cmd::Delete { LATE_DELETE } else { LATE_ADD });
                state.redis.execute(&cmd);
            }
            Action::Receive if is_idle(last) => state.receiver = Receiver::Asking(last.central.cursor),
            Action::Receive => self.go_on(&mut state),
            Action::Sweep => state.receiver = sweep(last),
            Action::SenderFails { crash, late } => {
                fault(if crash { SENDER_CRASH } else { REPLY_LOST });
                if crash {
                    state.publisher.crashed(late);
                } else {
                    state.publisher.broken(late);
                }
            }
            Action::ReceiverCrashes => {
                fault(RECEIVER_CRASH);
                state.receiver = Receiver::Idle;
                state.unsaved = None;
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
                state.redis.ack = Some(Ack { cursor: at(&last.ledger, seq), fenced: Epoch::NONE });
            }
            Action::SetBackCentral(seq) => {
                fault(CENTRAL_SET_BACK);
                state.central.applied.truncate(seq as usize);
                state.central.cursor = at(&last.ledger, seq);
                state.receiver = Receiver::Idle;
                state.unsaved = None;
            }
        }
        // A fault that changed nothing is not spent.
        (State { faults_left: last.faults_left, ..state.clone() } != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("applied is a prefix of the log, once each", |_, state: &State| {
                let log = state.ledger.0.iter().map(|row| row.hash);
                state.central.applied.iter().copied().eq(log.take(state.central.applied.len()))
            }),
            Property::always("the cursor is what was applied", |model: &Self, state: &State| {
                model.bounds.cursor_apart
                    || state.central.cursor == at(&state.ledger, state.central.applied.len() as u64)
            }),
            Property::always("a sender whose log only grows never stops", |_, state: &State| {
                state.publisher.stopped().is_none()
            }),
            Property::always("a fair run converges", |model: &Self, state: &State| {
                model.converging.check(state, 10, |state| model.cycle(state), settled)
            }),
            Property::sometimes("everything is applied and acknowledged", |model: &Self, state: &State| {
                state.ledger.head().seq.get() == model.bounds.entries && settled(state)
            }),
            Property::sometimes("an audit starts over", |model: &Self, _| model.seen.has(STARTED_OVER)),
            Property::sometimes("a hole", |model: &Self, _| model.seen.has(HOLE)),
            Property::sometimes("a hole is healed", |model: &Self, _| model.seen.has(HOLE_HEALED)),
            Property::sometimes("a reply is lost", |model: &Self, _| model.seen.has(REPLY_LOST)),
            Property::sometimes("a late DEL", |model: &Self, _| model.seen.has(LATE_DELETE)),
            Property::sometimes("a late XADD", |model: &Self, _| model.seen.has(LATE_ADD)),
            Property::sometimes("a wipe", |model: &Self, _| model.seen.has(WIPE)),
            Property::sometimes("a tail is lost", |model: &Self, _| model.seen.has(TAIL_LOST)),
            Property::sometimes("an ack is lost", |model: &Self, _| model.seen.has(ACK_LOST)),
            Property::sometimes("an ack is set back", |model: &Self, _| model.seen.has(ACK_SET_BACK)),
            Property::sometimes("central is set back", |model: &Self, _| model.seen.has(CENTRAL_SET_BACK)),
            Property::sometimes("the sender crashes", |model: &Self, _| model.seen.has(SENDER_CRASH)),
            Property::sometimes("the receiver crashes", |model: &Self, _| model.seen.has(RECEIVER_CRASH)),
        ]
    }
}

fn at(ledger: &Ledger, seq: u64) -> Cursor {
    let seq = Seq::try_from(seq).expect("a small number");
    ledger.row(seq).map_or_else(|| if seq == Seq::ZERO { Cursor::default() } else { ledger.head() }, Row::cursor)
}
