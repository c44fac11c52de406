//! Lives of a ledger: a file put back, a clone, an empty agent with the same id, a pruned log, central put back.
//!
//! Production code driven: [`protocol::link::Publisher`] (which stops itself, or asks for an epoch), [`protocol::link::receive`],
//! [`protocol::link::accepts_epoch`]. Opening an epoch (L9) and accepting one (L7) are two lines each in the daemons'
//! SQL (`store-agent/src/ledger/epoch.rs`, `central/src/projection/view.rs`) and here. Operations are bits, so that a view is a
//! number; the whole state travels as one entry behind `opened`.

use std::collections::BTreeSet;

use protocol::hash::Hash;
use protocol::link::{Ack, Cursor, Epoch, Events, Known, Log, OPENED, Past, Seq, accepts_epoch};
use protocol::time::Millis;
use stateright::{Model, Property};

use crate::publisher::{Done, Publisher, Rows, Wiring};
use crate::receiver::{Receiver, go_through};
use crate::redis::{Payload, Redis, Row};
use crate::run::{Converging, Seen};

/// Bounds, and bugs to plant.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bounds {
    /// Sales, over all agents.
    pub(crate) sales: u8,
    /// Faults of any kind in one run.
    pub(crate) faults: u8,
    /// Whether there are copies of the store's file, and empty agents.
    pub(crate) copies: bool,
    /// Whether central's file is put back.
    pub(crate) backups: bool,
    /// Whether logs are pruned as far as they are acknowledged.
    pub(crate) prunes: bool,
    /// Whether clocks stand still, so that epochs are numbered by what is known alone.
    pub(crate) clocks_stand: bool,
    /// Begins with an agent and its clone, pruned as far as they are acknowledged; each has sold since.
    pub(crate) cloned: bool,
    pub(crate) wiring: Wiring,
    /// Central takes every epoch that is greater than its own.
    pub(crate) any_epoch: bool,
    /// Central does not look at what a log had kept when it opened an epoch.
    pub(crate) kept_ignored: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Said {
    Opened(Vec<Past>),
    /// The whole state: pages and `snapshot_end`.
    State(u16),
    Sold(u8),
}

impl Payload for Said {
    type Link = Events;

    fn kind(&self) -> &'static str {
        match self {
            Self::Opened(_) => OPENED,
            Self::State(_) => "snapshot_end",
            Self::Sold(_) => "sold",
        }
    }
}

/// A store's database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ledger {
    rows: Vec<Row<Said>>,
    /// First entry kept.
    first: Seq,
    acked: Seq,
    lineage: Vec<Past>,
    /// Entries kept of earlier epochs.
    earlier: BTreeSet<Cursor>,
    operations: u16,
}

impl Ledger {
    /// A new database.
    fn new(epoch: Epoch) -> Self {
        let mut new = Self {
            rows: Vec::new(),
            first: Seq::FIRST,
            acked: Seq::ZERO,
            lineage: Vec::new(),
            earlier: BTreeSet::new(),
            operations: 0,
        };
        new.open(epoch, None);
        new
    }

    /// L9.
    fn open(&mut self, epoch: Epoch, proven: Option<Cursor>) {
        let head = self.head();
        if head.epoch != Epoch::NONE {
            self.lineage.push(Past { end: head, kept: self.first, proven: None });
        }
        for past in &mut self.lineage {
            past.proven = proven.filter(|proven| proven.epoch == past.end.epoch);
        }
        let kept = self.rows.drain(..).filter(|row| row.id.seq >= self.first);
        self.earlier.extend(kept.map(|row| row.cursor()));
        (self.first, self.acked) = (Seq::FIRST, Seq::ZERO);
        let start = Cursor { epoch, ..Cursor::default() };
        self.rows.push(Row::follow(&start, Said::Opened(self.lineage.clone())));
        self.append(Said::State(self.operations));
    }

    fn append(&mut self, said: Said) {
        self.rows.push(Row::follow(&self.head(), said));
    }

    fn sell(&mut self, operation: u8) {
        self.operations |= 1 << operation;
        self.append(Said::Sold(operation));
    }
}

impl Log for Ledger {
    fn head(&self) -> Cursor {
        self.rows.last().map(Row::cursor).unwrap_or_default()
    }
    fn hash_at(&self, seq: Seq) -> Option<Hash> {
        if seq == Seq::ZERO { Some(Hash::ZERO) } else { self.row(seq).map(|row| row.hash) }
    }
    fn continues(&self, receiver: &Cursor) -> bool {
        let ended = |past: &&Past| past.end.epoch == receiver.epoch && past.kept < past.end.seq;
        let past = self.lineage.iter().find(ended);
        past.is_some_and(|past| past.proven != Some(*receiver)) && self.earlier.contains(receiver)
    }
}

impl Rows<Said> for Ledger {
    fn row(&self, seq: Seq) -> Option<&Row<Said>> {
        if seq < self.first { None } else { self.rows.get((seq - Seq::FIRST) as usize) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Agent {
    ledger: Ledger,
    publisher: Publisher<Said>,
}

impl Agent {
    fn new(ledger: Ledger) -> Self {
        Self { ledger, publisher: Publisher::new() }
    }
}

/// Central's database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Central {
    cursor: Cursor,
    fenced: Epoch,
    adopt: Option<Epoch>,
    lineage: Vec<Past>,
    /// Epochs of its copy of the ledger.
    epochs: BTreeSet<Epoch>,
    /// The view.
    operations: u16,
    /// For the model: an operation was applied that was there already.
    twice: bool,
}

impl Central {
    fn ack(&self) -> Ack {
        Ack { cursor: self.cursor, fenced: self.fenced }
    }

    fn apply(&mut self, row: &Row<Said>) -> bool {
        self.cursor = row.cursor();
        match row.payload {
            Said::Opened(_) => return false,
            Said::State(operations) => self.operations = operations,
            Said::Sold(operation) => {
                self.twice |= self.operations & (1 << operation) != 0;
                self.operations |= 1 << operation;
            }
        }
        true
    }

    /// L7. The view stays as it is until the state has come.
    fn open(&mut self, row: &Row<Said>, bounds: Bounds) -> bool {
        let Said::Opened(lineage) = &row.payload else { return false };
        let ended: Vec<Past> = lineage.iter().map(|past| Past::ended(past.end)).collect();
        let lineage = if bounds.kept_ignored { &ended } else { lineage };
        let epochs = self.epochs.iter().copied().chain(self.lineage.iter().map(|past| past.end.epoch));
        let epochs = epochs.chain([self.cursor.epoch]).collect();
        let known = Known { cursor: self.cursor, epochs, adopt: self.adopt };
        if !bounds.any_epoch && !accepts_epoch(&known, row.id.epoch, lineage) {
            self.fenced = row.id.epoch;
            return false;
        }
        (self.fenced, self.adopt) = (Epoch::NONE, None);
        self.lineage.clone_from(lineage);
        self.epochs.insert(row.id.epoch);
        self.cursor = row.cursor();
        true
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    agents: Vec<Agent>,
    /// A copy of the store's file.
    copy: Option<Box<Ledger>>,
    redis: Redis<Said>,
    central: Central,
    receiver: Receiver<Said>,
    /// A copy of central's file.
    backup: Option<Box<Central>>,
    /// The wall clock, as the last epoch made from it.
    clock: Millis,
    sold: u8,
    /// For the model: what central has ever applied, and whether someone chose, or two disks together, to lose some.
    acknowledged: u16,
    excused: bool,
    faults_left: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Sell(usize),
    Send {
        agent: usize,
        tick: bool,
    },
    Late(usize),
    Receive,
    Sweep,
    Prune,
    CopyStore,
    CopyCentral,
    /// The first agent's file is the copy.
    SetBack,
    /// An agent starts on the copy, beside the first.
    Clone,
    /// An agent with the same id starts on nothing.
    Empty,
    /// The clone, or the empty agent, ends.
    SecondEnds,
    SetBackCentral,
    /// An operator tells central to take the refused epoch.
    Adopt,
    Fails {
        agent: usize,
        crash: bool,
        late: bool,
    },
    Wipe,
    StaleAck,
}

const FENCED: u8 = 0;
const SUPERSEDED: u8 = 1;
const DIVERGED: u8 = 2;
const EPOCH_BY_NEED: u8 = 3;
const ACCEPTED: u8 = 4;
const ADOPTED: u8 = 5;
const SET_BACK: u8 = 6;
const CLONED: u8 = 7;
const EMPTY: u8 = 8;
const CENTRAL_SET_BACK: u8 = 9;
const WIPE: u8 = 10;
const STALE_ACK: u8 = 11;
const LATE: u8 = 12;
const STARTED_OVER: u8 = 13;
const PROVEN: u8 = 14;

/// Steps of an agent's turn in a fair stretch: enough to open an epoch and start over in it, wherever its last turn has
/// ended, before the other one deletes the stream again.
const TURN: usize = 12;

/// The configuration.
pub(crate) struct Epochs {
    bounds: Bounds,
    seen: Seen,
    converging: Converging,
}

impl Epochs {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, seen: Seen::default(), converging: Converging::default() }
    }

    fn send(&self, state: &mut State, agent: usize, tick: bool) -> Done<Events> {
        let State { agents, redis, clock, .. } = state;
        let Agent { ledger, publisher } = &mut agents[agent];
        let done = publisher.step(tick, ledger, redis, Wiring { pipelines_whole: true, ..self.bounds.wiring });
        match done {
            Done::Acked(seq) => ledger.acked = seq,
            Done::StartedOver => self.seen.note(STARTED_OVER),
            Done::OpenEpoch(proven) => {
                self.seen.note(if proven.is_some() { PROVEN } else { EPOCH_BY_NEED });
                let epoch = self.number(clock, ledger.head().epoch);
                ledger.open(epoch, proven);
                publisher.epoch_opened();
            }
            Done::Nothing | Done::Stepped => {}
        }
        if let Some(why) = publisher.stopped() {
            self.seen.note(match why {
                protocol::link::Stopped::Fenced => FENCED,
                protocol::link::Stopped::Superseded => SUPERSEDED,
                protocol::link::Stopped::Diverged => DIVERGED,
            });
        }
        done
    }

    /// The number of a new epoch: the clock's, or what is known if that is more.
    fn number(&self, clock: &mut Millis, own: Epoch) -> Epoch {
        if !self.bounds.clocks_stand {
            *clock = clock.plus(1);
        }
        own.next(*clock)
    }

    fn receive(&self, state: &mut State) {
        // Nobody else moves the cursor: it is read in the step that asks.
        if state.receiver == Receiver::Idle {
            state.receiver = Receiver::Asking(state.central.cursor);
        }
        if state.receiver.talk(&mut state.redis) {
            return;
        }
        let Receiver::Holding(batch) = std::mem::replace(&mut state.receiver, Receiver::Idle) else { return };
        let open = |central: &mut Central, row: &Row<Said>| {
            let (known, adopt) = (central.cursor.epoch != Epoch::NONE, central.adopt == Some(row.id.epoch));
            let opened = central.open(row, self.bounds);
            if opened && known {
                self.seen.note(if adopt { ADOPTED } else { ACCEPTED });
            }
            opened
        };
        go_through(&mut state.central, &batch, |central| central.cursor, Central::apply, open);
        state.acknowledged |= state.central.operations;
        state.receiver = Receiver::AnswerWriter(state.central.ack());
    }

    /// A fair stretch: everyone does all there is to do, and sells on: a clone with nothing to say does not
    /// ask for the ack, and so does not learn that it is one.
    fn cycle(&self, state: &mut State) {
        for agent in 0..state.agents.len() {
            let mut own = (4 + 4 * agent as u8)..(8 + 4 * agent as u8);
            if let Some(next) = own.find(|next| state.agents[agent].ledger.operations & (1 << next) == 0) {
                state.agents[agent].ledger.sell(next);
            }
            while let Some(cmd) = state.agents[agent].publisher.late.pop_front() {
                state.redis.execute(&cmd);
            }
            for _ in 0..TURN {
                // Central is quicker than two agents that delete each other's stream.
                let done = self.send(state, agent, true);
                while state.receiver != Receiver::Idle {
                    self.receive(state);
                }
                self.receive(state);
                while state.receiver != Receiver::Idle {
                    self.receive(state);
                }
                state.redis.ack = Some(state.central.ack());
                if done == Done::Nothing {
                    break;
                }
            }
        }
    }
}

fn follows(state: &State, agent: &Agent) -> bool {
    agent.ledger.head() == state.central.cursor && agent.ledger.operations == state.central.operations
}

/// Every agent has said all, or knows that it is not the store. Where there is but one file that never went back, nobody
/// may stop for good.
fn settled(state: &State, bounds: &Bounds) -> bool {
    let may_stop = bounds.copies || bounds.cloned;
    let has_ended = |agent: &Agent| (may_stop && agent.publisher.stopped().is_some()) || follows(state, agent);
    state.redis.ack == Some(state.central.ack()) && state.agents.iter().all(has_ended)
}

impl Model for Epochs {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut agents = vec![Agent::new(Ledger::new(1.into()))];
        let mut central = Central::default();
        if self.bounds.cloned {
            let ledger = &mut agents[0].ledger;
            let (opened, state) = (&ledger.rows[0], &ledger.rows[1]);
            central.open(opened, self.bounds);
            central.apply(state);
            (ledger.first, ledger.acked) = (2.into(), 2.into());
            agents.push(agents[0].clone());
            agents[0].ledger.sell(0);
            agents[1].ledger.sell(1);
            agents[1].ledger.sell(2);
        }
        vec![State {
            agents,
            copy: None,
            redis: Redis::empty(),
            central,
            receiver: Receiver::Idle,
            backup: None,
            clock: Millis(1),
            sold: 0,
            acknowledged: 0,
            excused: false,
            faults_left: self.bounds.faults,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (agent, Agent { publisher, .. }) in state.agents.iter().enumerate() {
            if state.sold < self.bounds.sales {
                actions.push(Action::Sell(agent));
            }
            actions.push(Action::Send { agent, tick: false });
            if !publisher.is_calling() {
                actions.push(Action::Send { agent, tick: true });
            }
            if !publisher.late.is_empty() {
                actions.push(Action::Late(agent));
            }
        }
        actions.push(Action::Receive);
        let idle = state.receiver == Receiver::Idle;
        if idle && state.redis.ack != Some(state.central.ack()) {
            actions.push(Action::Sweep);
        }
        if self.bounds.prunes {
            actions.push(Action::Prune);
        }
        if state.agents.len() > 1 {
            actions.push(Action::SecondEnds);
        }
        // What an operator chooses may lose something: with clones from the beginning it is the protocol alone that matters.
        if state.central.fenced != Epoch::NONE && !self.bounds.cloned {
            actions.push(Action::Adopt);
        }
        // When it is copied matters only by what is in the file then, so a quiet moment will do.
        let quiet = idle && state.agents.iter().all(|agent| !agent.publisher.is_calling());
        if state.faults_left == 0 {
            return;
        }
        if self.bounds.copies && quiet && state.copy.is_none() && state.agents.len() == 1 {
            actions.push(Action::CopyStore);
        }
        if self.bounds.backups && quiet && state.backup.is_none() {
            actions.push(Action::CopyCentral);
        }
        if state.copy.is_some() {
            actions.push(Action::SetBack);
            if state.agents.len() == 1 {
                actions.push(Action::Clone);
            }
        }
        if self.bounds.copies && state.agents.len() == 1 {
            actions.push(Action::Empty);
        }
        if state.backup.is_some() {
            actions.push(Action::SetBackCentral);
        }
        for (agent, Agent { publisher, .. }) in state.agents.iter().enumerate() {
            actions.push(Action::Fails { agent, crash: true, late: false });
            if publisher.would_be_late() && publisher.late.is_empty() {
                actions.push(Action::Fails { agent, crash: false, late: true });
            }
        }
        actions.extend([Action::Wipe, Action::StaleAck]);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let mut fault = |what: u8| {
            self.seen.note(what);
            state.faults_left -= 1;
        };
        match action {
            Action::Sell(agent) => {
                state.agents[agent].ledger.sell(last.sold);
                state.sold += 1;
            }
            Action::Send { agent, tick } => {
                self.send(&mut state, agent, tick);
            }
            Action::Late(agent) => {
                let cmd = state.agents[agent].publisher.late.pop_front()?;
                self.seen.note(LATE);
                state.redis.execute(&cmd);
            }
            Action::Receive => self.receive(&mut state),
            Action::Sweep => state.receiver = Receiver::AnswerWriter(last.central.ack()),
            Action::Prune => {
                for Agent { ledger, .. } in &mut state.agents {
                    ledger.first = ledger.first.max(ledger.acked);
                }
            }
            Action::CopyStore => state.copy = Some(Box::new(last.agents[0].ledger.clone())),
            Action::CopyCentral => state.backup = Some(Box::new(last.central.clone())),
            Action::SetBack => {
                fault(SET_BACK);
                let agent = &mut state.agents[0];
                agent.publisher.crashed(false);
                agent.ledger = *state.copy.take()?;
            }
            Action::Clone => {
                fault(CLONED);
                state.agents.push(Agent::new(*state.copy.take()?));
            }
            Action::Empty => {
                fault(EMPTY);
                let epoch = self.number(&mut state.clock, Epoch::NONE);
                state.agents.push(Agent::new(Ledger::new(epoch)));
            }
            Action::SecondEnds => {
                let second = state.agents.pop()?;
                // What its connection still has on the way is nobody's now.
                if !second.publisher.late.is_empty() {
                    return None;
                }
            }
            Action::SetBackCentral => {
                fault(CENTRAL_SET_BACK);
                state.central = *state.backup.take()?;
                state.receiver = Receiver::Idle;
                state.acknowledged = state.central.operations;
            }
            Action::Adopt => {
                state.excused = true;
                state.central.adopt = Some(last.central.fenced);
                state.central.fenced = Epoch::NONE;
            }
            Action::Fails { agent, crash, late } => {
                state.faults_left -= 1;
                let publisher = &mut state.agents[agent].publisher;
                if crash { publisher.crashed(late) } else { publisher.broken(late) }
            }
            Action::Wipe => {
                fault(WIPE);
                state.redis.wipe();
            }
            Action::StaleAck => {
                fault(STALE_ACK);
                state.redis.ack = Some(Ack::default());
            }
        }
        (State { faults_left: last.faults_left, ..state.clone() } != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        fn sees(name: &'static str, condition: fn(&Epochs, &State) -> bool) -> Property<Epochs> {
            Property::sometimes(name, condition)
        }
        let mut properties = vec![
            Property::always("nothing is applied twice", |_, state: &State| !state.central.twice),
            Property::always("nothing acknowledged is lost, unless an operator says so", |_, state: &State| {
                state.excused || state.acknowledged & !state.central.operations == 0
            }),
            Property::always(
                "a fair run ends: all is said, or the agent has stopped",
                |model: &Self, state: &State| {
                    let settled = |state: &State| settled(state, &model.bounds);
                    model.converging.check(state, 12, |state| model.cycle(state), settled)
                },
            ),
            sees("a wipe", |model, _| model.seen.has(WIPE)),
            sees("an ack of long ago", |model, _| model.seen.has(STALE_ACK)),
            sees("a late command", |model, _| model.seen.has(LATE)),
            sees("an audit starts over", |model, _| model.seen.has(STARTED_OVER)),
        ];
        if self.bounds.copies {
            properties.extend([
                sees("a copy is found to have diverged", |model, _| model.seen.has(DIVERGED)),
                sees("a file is put back", |model, _| model.seen.has(SET_BACK)),
                sees("a clone runs", |model, _| model.seen.has(CLONED)),
                sees("an empty agent runs", |model, _| model.seen.has(EMPTY)),
            ]);
        }
        // With clocks that stand still an empty agent has the first one's number, and diverges.
        if self.bounds.copies && !self.bounds.clocks_stand {
            properties.extend([
                sees("an empty agent is fenced", |model, _| model.seen.has(FENCED)),
                sees("an agent is superseded", |model, _| model.seen.has(SUPERSEDED)),
                sees("an operator has an epoch adopted", |model, _| model.seen.has(ADOPTED)),
            ]);
        }
        if self.bounds.backups {
            properties.push(sees("central is put back", |model, _| model.seen.has(CENTRAL_SET_BACK)));
        }
        if self.bounds.prunes {
            properties.extend([
                sees("a pruned log opens an epoch", |model, _| model.seen.has(EPOCH_BY_NEED)),
                sees("an epoch is accepted for its lineage", |model, _| model.seen.has(ACCEPTED)),
                sees("an epoch is refused, and opened again with a proof", |model, _| model.seen.has(PROVEN)),
            ]);
        }
        properties
    }
}
