//! The restore (L10) in the midst of everything: a store loses its database, or gets an older copy of it, or a copy of it
//! runs elsewhere, while sales, purchases, cancels, picks and goods are under way on both links.
//!
//! Production code driven: [`protocol::restore::plan`] (what of two histories is shared, uncertain and recorded again, whose
//! state stands, and what the new epoch continues), [`protocol::link::Publisher`], [`protocol::link::receive`] for both
//! links, [`protocol::link::accepts_epoch`], the transitions of a purchase ([`Life`](protocol::promise::purchase::Life)), and the
//! stock's `decide`, `apply` and `shortage`.
//!
//! Said again in the smallest form, in `restore/`:
//!
//! * `store`: opening an epoch (L9), executing a command (B2, L8), taking over a state, and recording a fact again;
//! * `central`: opening an epoch (L7), staging, switching and settling a state, what an entry settles (B3, B5, B6), command
//!   epochs (L8), the question and its answer.
//!
//! Smaller than life: one item; all pages are one entry; the answer is told in one step, after the step that gave out the
//! epoch; outcomes that came with a state settle in one step, after the switch. The asker does not delete its stream, which
//! is a help and no rule. A pipeline of the event link is one step, and no old connection's command comes late (`link` and
//! `epochs` have both). The command link puts central's whole log in the stream's place, at any time or never, and the store
//! executes what is behind its cursor there: `purchases` shows that this is what the link does. There is no clock but
//! the one that numbers epochs, so no deadline; no view that is damaged or suspect (L11, L12); no reservation, transfer,
//! batch, allotment or policy.

mod central;
mod said;
mod store;

use protocol::link::{Epoch, Events, Stopped};
use protocol::number::CommandEpoch;
use protocol::promise::purchase::Status;
use protocol::restore::{Choice, Refusal};
use protocol::time::Millis;
use stateright::{Model, Property};

use self::central::{Central, Told};
use self::said::{Became, Command, Deed, Id, Operation, Said};
use self::store::Store;
use crate::publisher::{Done, Publisher, Wiring};
use crate::redis::{Redis, Row};
use crate::run::{Converging, Seen};

/// Bugs to plant.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bugs {
    /// The restore asks for central's state, and numbers its epoch itself.
    pub(crate) own_number: bool,
    /// Central tells what is staged, not what is shown.
    pub(crate) staged_told: bool,
    /// The restore takes over outcomes without what was picked.
    pub(crate) picks_forgotten: bool,
    /// The restore takes over no outcomes.
    pub(crate) outcomes_forgotten: bool,
    /// The question does not move central's cursor: what an older epoch still has on the way is applied.
    pub(crate) old_epoch_open: bool,
    /// Central opens no command epoch for an epoch that it accepts.
    pub(crate) command_epoch_kept: bool,
    /// The store does not look at what event epoch a command epoch is for.
    pub(crate) command_epoch_name_ignored: bool,
    /// The question is answered while the outcomes of a state are being settled.
    pub(crate) asked_while_installing: bool,
    /// Operations that central has are recorded again all the same.
    pub(crate) known_recorded_again: bool,
    /// The store does not keep the names of the operations that central told of.
    pub(crate) known_forgotten: bool,
    /// Central keeps outcomes that a new state does not name.
    pub(crate) unnamed_outcomes_kept: bool,
    /// Central does not ask again for what a state has forgotten of units that were promised.
    pub(crate) forgotten_not_asked_again: bool,
    /// Central tells the operations of entries, and not those that a state has named.
    pub(crate) named_not_told: bool,
    /// Central tells operations that a human has given up like any others.
    pub(crate) given_up_told: bool,
    /// A state that is taken over names what is recorded again behind it.
    pub(crate) repeated_named: bool,
}

/// Bounds, and bugs to plant.
#[derive(Clone, Copy, Default)]
pub(crate) struct Bounds {
    pub(crate) units: i64,
    pub(crate) sales: u8,
    /// Whether tills ask again for what they have sold.
    pub(crate) repeats: bool,
    pub(crate) purchases: u8,
    pub(crate) cancels: u8,
    pub(crate) picks: u8,
    /// Goods that central books in.
    pub(crate) goods: u8,
    /// Questions of restores, by any agent, whether it has to or not.
    pub(crate) questions: u8,
    /// Faults of any kind in one run.
    pub(crate) faults: u8,
    /// Whether the disk may be lost.
    pub(crate) disks: bool,
    /// Whether the store's file may be copied, and put back.
    pub(crate) copies: bool,
    /// Begins with an agent and a clone of it.
    pub(crate) cloned: bool,
    /// Begins with a state that a human has chosen, with a sale of which central has no entry, and a copy from before that.
    pub(crate) chosen: bool,
    /// Whether central's file may be put back.
    pub(crate) backups: bool,
    /// Whether logs are pruned as far as they are acknowledged.
    pub(crate) prunes: bool,
    /// Whether Redis loses everything, and processes end where they stand.
    pub(crate) crashes: bool,
    /// Whether the store is set up anew under its id, and an operator tells central to take what it has refused.
    pub(crate) adopts: bool,
    pub(crate) bugs: Bugs,
}

impl Bounds {
    /// Whether a human may have to say which state stands: not as long as there is one disk at a time, and one central.
    fn may_ask(&self) -> bool {
        self.copies || self.cloned || self.backups || self.adopts
    }
}

/// Where an agent's process stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Mode {
    Serving,
    /// It is to be restored.
    Down,
    /// Central has given out an epoch.
    Asked(Epoch),
    /// Central has answered.
    Told(Box<Told>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Agent {
    store: Store,
    publisher: Publisher<Said>,
    mode: Mode,
}

impl Agent {
    fn new(store: Store, mode: Mode) -> Self {
        Self { store, publisher: Publisher::new(), mode }
    }

    fn serves(&self) -> bool {
        self.mode == Mode::Serving
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    agents: Vec<Agent>,
    /// A copy of the store's file.
    copy: Option<Box<Store>>,
    redis: Redis<Said>,
    /// The command stream, and the command epoch that a store has last acknowledged.
    commands: Vec<Row<Command>>,
    commands_acked: CommandEpoch,
    central: Central,
    /// What central has read of the event stream.
    held: Vec<Row<Said>>,
    /// A copy of central's file.
    backup: Option<Box<Central>>,
    /// The wall clock, as the last number made from it.
    clock: Millis,
    sold: u8,
    goods: u8,
    cancels_left: u8,
    picks_left: u8,
    questions_left: u8,
    faults_left: u8,
    /// For the model: what central has ever applied and no second misfortune has destroyed; what was said to be final of
    /// each purchase; whether a human has chosen to lose something, and whether central was set back.
    acknowledged: u16,
    told: [Option<Status>; 3],
    excused: bool,
    set_back: bool,
    /// For the model: what must never be.
    contradicted: bool,
    lost_by_restore: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Sell(usize),
    SellAgain(usize, u8),
    Pick(usize, u8),
    /// One step of an agent's publisher.
    Send(usize),
    /// The agent reads the command stream and executes what it finds.
    Execute(usize),
    Buy(u8),
    Cancel(u8),
    SendGoods,
    /// Central puts its command log in the stream.
    Publish,
    /// Central reads the event stream.
    Read,
    /// Central applies what it has read.
    Apply,
    /// Central settles the outcomes that came with a state.
    Install,
    Sweep,
    /// The restore's question: the agent's process ends, if it runs.
    Ask(usize),
    Tell(usize),
    CarryOut(usize, Option<Choice>),
    /// The tool ends before it has carried out what it was told.
    ToolEnds(usize),
    Prune(usize),
    CopyStore,
    CopyCentral,
    LoseDisk,
    SetUpAnew,
    SetBack,
    SetBackCentral,
    Adopt,
    Wipe,
    AgentCrashes(usize),
    CentralCrashes,
}

const RESTORED: u8 = 0;
const RECORDED_AGAIN: u8 = 1;
const OWN_STATE: u8 = 2;
const NEEDS_CHOICE: u8 = 3;
const CANNOT_TELL: u8 = 4;
const OVERTAKEN: u8 = 5;
const INSTALLING: u8 = 6;
const FENCED: u8 = 7;
const SUPERSEDED: u8 = 8;
const DIVERGED: u8 = 9;
const IN_HANDS: u8 = 10;
const HALF_A_STATE: u8 = 11;
const SHORTAGE: u8 = 12;
const COMMAND_AGAIN: u8 = 13;
const ADOPTED: u8 = 14;
const OF_EMPTY: u8 = 15;
const OF_OLDER: u8 = 16;
const OF_CLONE: u8 = 17;
const BEHIND: u8 = 18;
const EPOCH_BY_NEED: u8 = 19;
const STALE_COMMANDS: u8 = 20;
const REPEATED_SALE: u8 = 21;
const ASKED_AGAIN: u8 = 22;
const SHORT_OF_PROMISED: u8 = 23;
const KNOWN_BY_NAME: u8 = 24;
const GIVEN_UP: u8 = 25;

/// The configuration.
pub(crate) struct Restore {
    bounds: Bounds,
    seen: Seen,
    converging: Converging,
}

impl Restore {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds, seen: Seen::default(), converging: Converging::default() }
    }

    fn send(&self, state: &mut State, agent: usize) -> Done<Events> {
        let State { agents, redis, clock, .. } = state;
        let Agent { store, publisher, .. } = &mut agents[agent];
        let wiring = Wiring { pipelines_whole: true, ..Wiring::default() };
        let mut done = publisher.step(true, store, redis, wiring);
        if publisher.is_calling() {
            let answered = publisher.step(true, store, redis, wiring);
            done = if done == Done::StartedOver { done } else { answered };
        }
        match done {
            Done::Acked(seq) => store.acked = if self.bounds.prunes { seq } else { store.acked },
            Done::OpenEpoch(proven) => {
                self.seen.note(EPOCH_BY_NEED);
                *clock = clock.plus(1);
                store.open_by_need(store.head.epoch.next(*clock), proven);
                publisher.epoch_opened();
            }
            Done::Nothing | Done::Stepped | Done::StartedOver => {}
        }
        if let Some(why) = publisher.stopped() {
            self.seen.note(match why {
                Stopped::Fenced => FENCED,
                Stopped::Superseded => SUPERSEDED,
                Stopped::Diverged => DIVERGED,
            });
        }
        done
    }

    fn execute(&self, state: &mut State, agent: usize) {
        let Agent { store, .. } = &mut state.agents[agent];
        let behind = state.commands.iter().filter(|row| row.id > store.commands.id());
        let batch: Vec<Row<Command>> = behind.cloned().collect();
        let before = store.rows.len();
        store.execute(&batch, &self.bounds.bugs);
        if store.rows[before..].iter().any(|row| matches!(row.payload, Said::Repeated { .. })) {
            self.seen.note(COMMAND_AGAIN);
        }
        let is_promised = |row: &Row<Command>| matches!(row.payload, Command::Do { id: Id::Buy(_), forced: true });
        if store.rows.len() > before && batch.iter().any(is_promised) {
            self.seen.note(ASKED_AGAIN);
            if store.rows[before..].iter().any(|row| matches!(row.payload, Said::Fact(fact) if fact.is_shortage())) {
                self.seen.note(SHORT_OF_PROMISED);
            }
        }
        if store.rows.len() == before && !batch.is_empty() {
            self.seen.note(STALE_COMMANDS);
        }
        state.commands_acked = store.commands.epoch;
    }

    fn apply(&self, state: &mut State) {
        let batch = std::mem::take(&mut state.held);
        let State { central, clock, .. } = state;
        if batch.iter().any(|row| row.id.epoch < central.cursor.epoch) {
            self.seen.note(IN_HANDS);
        }
        central.receive(&batch, clock, &self.bounds.bugs);
        state.redis.ack = Some(state.central.ack());
        state.acknowledged |= state.central.units.done;
        tell(state);
    }

    /// The question. `false`: central is not ready for it.
    fn ask(&self, state: &mut State, number: usize) -> bool {
        let State { agents, central, clock, .. } = state;
        let agent = &mut agents[number];
        if self.bounds.bugs.own_number {
            let own = agent.store.head.epoch.next(Millis(0));
            agent.mode = central.tell(own, &self.bounds.bugs).map_or(Mode::Down, |told| Mode::Told(Box::new(told)));
            agent.publisher = Publisher::new();
            return true;
        }
        if central.opens_half() {
            self.seen.note(HALF_A_STATE);
        }
        let Some(epoch) = central.question(agent.store.head.epoch, clock, &self.bounds.bugs) else {
            self.seen.note(INSTALLING);
            return false;
        };
        (agent.mode, agent.publisher) = (Mode::Asked(epoch), Publisher::new());
        true
    }

    fn tell(&self, state: &mut State, number: usize) {
        let agent = &mut state.agents[number];
        let Mode::Asked(epoch) = agent.mode else { return };
        let told = state.central.tell(epoch, &self.bounds.bugs);
        if told.is_none() {
            self.seen.note(OVERTAKEN);
        }
        agent.mode = told.map_or(Mode::Down, |told| Mode::Told(Box::new(told)));
    }

    /// `Err`: a human is to say, or it is to ask again.
    fn carry_out(&self, state: &mut State, number: usize, choice: Option<Choice>) -> Result<(), Refusal> {
        let agent = &mut state.agents[number];
        let Mode::Told(told) = &agent.mode else { return Ok(()) };
        let told = told.clone();
        let (before, rows) = (agent.store.units.done, agent.store.rows.clone());
        let (plan, recorded) = agent.store.carry_out(&told, choice, &self.bounds.bugs)?;
        self.seen.note(RESTORED);
        self.seen.note(if rows.is_empty() { OF_EMPTY } else { OF_OLDER });
        if recorded > 0 {
            self.seen.note(RECORDED_AGAIN);
        }
        let of_entries = || told.entries.iter().map(|(_, _, operation)| *operation);
        if plan.state == Choice::Central {
            let by_name = |named: &Operation| !of_entries().any(|operation| operation == *named);
            if told.state.named.iter().any(by_name) {
                self.seen.note(KNOWN_BY_NAME);
            }
            let done = told.done(&self.bounds.bugs);
            if of_entries().any(|operation| operation != Operation::Link && !done.contains(&operation)) {
                self.seen.note(GIVEN_UP);
            }
        }
        if plan.state == Choice::Own && told.complete {
            self.seen.note(if choice.is_some() { OWN_STATE } else { BEHIND });
        }
        if agent.store.rows.iter().any(|row| matches!(row.payload, Said::Fact(fact) if fact.is_shortage())) {
            self.seen.note(SHORTAGE);
        }
        let kept = (0..4).map(Deed::Sale).chain((0..2).map(Deed::Receipt)).map(Deed::bit).sum::<u16>();
        // What it has otherwise than by an entry that only its log has a human may have given up meanwhile.
        let unshared = rows.iter().filter(|row| plan.is_unshared(row.id));
        let only_here = unshared.filter_map(|row| row.payload.deed()).fold(0, |only, deed| only | deed.bit());
        let given_up = if state.excused { !only_here } else { 0 };
        state.lost_by_restore |= choice.is_none() && before & kept & !given_up & !agent.store.units.done != 0;
        state.excused |= choice.is_some();
        agent.mode = Mode::Serving;
        if number > 0 {
            self.seen.note(OF_CLONE);
        }
        Ok(())
    }

    /// A fair stretch: the clone ends, if there is one; the store is restored if it has to be; then everyone does what
    /// there is to do.
    fn cycle(&self, state: &mut State) {
        if state.agents.len() > 1 {
            state.agents.truncate(1);
            destroyed(state);
        }
        if state.agents[0].publisher.stopped().is_some() {
            state.agents[0].mode = Mode::Down;
        }
        while !state.agents[0].serves() {
            state.central.install(&self.bounds.bugs);
            if state.agents[0].mode == Mode::Down && !self.ask(state, 0) {
                return;
            }
            self.tell(state, 0);
            if state.agents[0].mode == Mode::Down {
                return;
            }
            if self.carry_out(state, 0, None).is_err() && self.carry_out(state, 0, Some(Choice::Central)).is_err() {
                state.agents[0].mode = Mode::Down;
                return;
            }
        }
        for _ in 0..12 {
            let done = self.send(state, 0);
            while !state.held.is_empty() || self.read(state) {
                state.central.install(&self.bounds.bugs);
                self.apply(state);
            }
            state.central.install(&self.bounds.bugs);
            tell(state);
            state.redis.ack = Some(state.central.ack());
            state.commands.clone_from(&state.central.commands);
            if state.agents[0].publisher.stopped().is_some() {
                break;
            }
            self.execute(state, 0);
            if done == Done::Nothing {
                break;
            }
        }
    }

    fn read(&self, state: &mut State) -> bool {
        state.held = state.redis.after(state.central.cursor.id());
        // What does not fit will not fit the next time.
        let fits = state.held.first().is_some_and(|row| {
            let receipt = protocol::link::receive(&state.central.cursor, &row.entry());
            receipt == protocol::link::Receipt::Next
                || receipt == protocol::link::Receipt::Opens && row.id.epoch != state.central.fenced
        });
        if !fits {
            state.held.clear();
        }
        fits
    }
}

/// Remembers what is now said to be final.
fn tell(state: &mut State) {
    for (number, purchase) in &state.central.purchases {
        let told = &mut state.told[usize::from(*number)];
        let now = (purchase.life.status != Status::Pending).then_some(purchase.life.status);
        let fits = told.is_none() || *told == now || (*told, now) == (Some(Status::Confirmed), Some(Status::Cancelled));
        state.contradicted |= !fits && !state.set_back;
        *told = if state.set_back { told.or(now) } else { now.or(*told) };
    }
}

/// What two misfortunes together have destroyed was acknowledged, and is nowhere any more.
fn destroyed(state: &mut State) {
    let held = state.agents.iter().fold(state.central.units.done, |held, agent| held | agent.store.units.done);
    state.acknowledged &= held;
}

fn settled(state: &State) -> bool {
    let [Agent { store, publisher, mode: Mode::Serving }] = state.agents.as_slice() else { return false };
    let central = &state.central;
    publisher.stopped().is_none()
        && store.head == central.cursor
        && state.redis.ack == Some(central.ack())
        && store.commands == central.command_head()
        && central.requests.is_empty()
        && central.installing.is_none()
        && !central.is_settling()
        && central.purchases.values().all(|purchase| purchase.life.status != Status::Pending)
}

/// What must be true once everything has settled.
fn agrees(bounds: &Bounds, state: &State) -> bool {
    let (store, central) = (&state.agents[0].store, &state.central);
    let matches = |(number, purchase): (&u8, &central::Purchase)| {
        let outcome = store.outcomes.get(&Id::Buy(*number));
        let same = match purchase.life.status {
            Status::Confirmed => matches!(outcome, Some(Became::Confirmed { .. })),
            Status::Rejected => outcome == Some(&Became::Rejected),
            Status::Cancelled => outcome == Some(&Became::Cancelled),
            Status::Pending | Status::Expired => false,
        };
        same && outcome == central.outcomes.get(&Id::Buy(*number))
    };
    // Whatever a human has chosen: who was promised a unit has it, or has picked it, unless the chosen state has refused it.
    let is_kept = |(number, purchase): (&u8, &central::Purchase)| {
        let has_left = matches!(store.outcomes.get(&Id::Buy(*number)), Some(Became::Confirmed { .. }));
        let is_refused = store.outcomes.get(&Id::Buy(*number)) == Some(&Became::Rejected);
        match purchase.life.status {
            Status::Confirmed => has_left || purchase.life.picked || is_refused,
            Status::Pending | Status::Rejected | Status::Expired | Status::Cancelled => !has_left,
        }
    };
    let is_told = |(id, became): (&Id, &Became)| id.purchase().is_none() || store.outcomes.get(id) == Some(became);
    store.units == central.units
        && central.outcomes.iter().all(is_told)
        && store.units.adds_up(bounds.units)
        && (!state.excused || bounds.may_ask())
        && central.purchases.iter().all(is_kept)
        && (state.excused || state.acknowledged & !store.units.done == 0 && central.purchases.iter().all(matches))
}

impl Model for Restore {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            agents: vec![Agent::new(Store::new(self.bounds.units, 1.into()), Mode::Serving)],
            copy: None,
            redis: Redis::empty(),
            commands: Vec::new(),
            commands_acked: CommandEpoch::NONE,
            central: Central::new(),
            held: Vec::new(),
            backup: None,
            clock: Millis(1),
            sold: 0,
            goods: 0,
            cancels_left: self.bounds.cancels,
            picks_left: self.bounds.picks,
            questions_left: self.bounds.questions,
            faults_left: self.bounds.faults,
            acknowledged: 0,
            told: [None; 3],
            excused: false,
            set_back: false,
            contradicted: false,
            lost_by_restore: false,
        };
        state.redis.ack = Some(state.central.ack());
        let clean = Restore::new(Bounds { bugs: Bugs::default(), ..self.bounds });
        for _ in 0..4 {
            clean.cycle(&mut state);
        }
        assert!(settled(&state), "it begins with a store that has opened: {state:?}");
        if self.bounds.cloned {
            state.agents.push(state.agents[0].clone());
        }
        if self.bounds.chosen {
            let own = Action::CarryOut(0, Some(Choice::Own));
            for action in [Action::SetUpAnew, Action::CopyStore, Action::Sell(0), Action::Ask(0), Action::Tell(0), own]
            {
                state = clean.next_state(&state, action).expect("it can be done");
            }
            for _ in 0..4 {
                clean.cycle(&mut state);
            }
            assert!(settled(&state), "central has the chosen state: {state:?}");
            let Bounds { questions, faults, .. } = self.bounds;
            (state.questions_left, state.faults_left, state.excused) = (questions, faults, false);
        }
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let bounds = &self.bounds;
        for (number, agent) in state.agents.iter().enumerate() {
            if agent.serves() {
                actions.push(Action::Send(number));
                if state.sold < bounds.sales {
                    actions.push(Action::Sell(number));
                }
                if bounds.repeats {
                    actions.extend((0..state.sold).map(|sale| Action::SellAgain(number, sale)));
                }
                if state.picks_left > 0 {
                    actions.extend((0..bounds.purchases).map(|purchase| Action::Pick(number, purchase)));
                }
                if agent.publisher.stopped().is_none() {
                    actions.push(Action::Execute(number));
                }
            }
            if state.questions_left > 0 {
                actions.push(Action::Ask(number));
            }
            match agent.mode {
                Mode::Asked(_) => actions.push(Action::Tell(number)),
                Mode::Told(_) => {
                    let choices = [None, Some(Choice::Own), Some(Choice::Central)];
                    actions.extend(choices.map(|choice| Action::CarryOut(number, choice)));
                }
                Mode::Serving | Mode::Down => {}
            }
        }
        let central = &state.central;
        if let Some(next) = (0..bounds.purchases).find(|number| !central.purchases.contains_key(number))
            && state.told[usize::from(next)].is_none()
            && !state.set_back
        {
            actions.push(Action::Buy(next));
        }
        if state.cancels_left > 0 {
            actions.extend(central.purchases.keys().map(|number| Action::Cancel(*number)));
        }
        if state.goods < bounds.goods {
            actions.push(Action::SendGoods);
        }
        if state.commands != central.commands {
            actions.push(Action::Publish);
        }
        actions.push(if state.held.is_empty() { Action::Read } else { Action::Apply });
        if central.installing.is_some() {
            actions.push(Action::Install);
        }
        if state.redis.ack != Some(central.ack()) {
            actions.push(Action::Sweep);
        }
        if bounds.prunes {
            actions.extend((0..state.agents.len()).map(Action::Prune));
        }
        if bounds.adopts && central.fenced != Epoch::NONE {
            actions.push(Action::Adopt);
        }
        if state.faults_left == 0 {
            return;
        }
        let serves = state.agents[0].serves();
        if bounds.copies && serves && state.copy.is_none() {
            actions.push(Action::CopyStore);
        }
        if bounds.backups && state.held.is_empty() && state.backup.is_none() && !state.set_back {
            actions.push(Action::CopyCentral);
        }
        if bounds.disks && serves {
            actions.push(Action::LoseDisk);
        }
        if bounds.adopts && serves {
            actions.push(Action::SetUpAnew);
        }
        if state.copy.is_some() {
            actions.push(Action::SetBack);
        }
        if state.backup.is_some() {
            actions.push(Action::SetBackCentral);
        }
        if bounds.crashes {
            actions.push(Action::Wipe);
            for (number, agent) in state.agents.iter().enumerate() {
                actions.push(match agent.mode {
                    Mode::Serving => Action::AgentCrashes(number),
                    Mode::Down | Mode::Asked(_) | Mode::Told(_) => Action::ToolEnds(number),
                });
            }
            actions.push(Action::CentralCrashes);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Sell(agent) => {
                if !state.agents[agent].store.sell(last.sold) {
                    return None;
                }
                state.sold += 1;
            }
            Action::SellAgain(agent, sale) => {
                if !state.agents[agent].store.sell(sale) {
                    return None;
                }
                self.seen.note(REPEATED_SALE);
            }
            Action::Pick(agent, purchase) => {
                if !state.agents[agent].store.pick(purchase) {
                    return None;
                }
                state.picks_left -= 1;
            }
            Action::Send(agent) => {
                self.send(&mut state, agent);
            }
            Action::Execute(agent) => self.execute(&mut state, agent),
            Action::Buy(purchase) => {
                if !state.central.buy(purchase) {
                    return None;
                }
            }
            Action::Cancel(purchase) => {
                state.cancels_left -= 1;
                if !state.central.cancel(purchase, last.cancels_left) {
                    return None;
                }
            }
            Action::SendGoods => {
                if !state.central.send_goods(last.goods) {
                    return None;
                }
                state.goods += 1;
            }
            Action::Publish => state.commands.clone_from(&last.central.commands),
            Action::Read => state.held = last.redis.after(last.central.cursor.id()),
            Action::Apply => {
                if last.central.installing.is_some() && !self.bounds.bugs.asked_while_installing {
                    return None;
                }
                self.apply(&mut state);
            }
            Action::Install => {
                state.central.install(&self.bounds.bugs);
                tell(&mut state);
            }
            Action::Sweep => state.redis.ack = Some(last.central.ack()),
            Action::Ask(agent) => {
                state.questions_left -= 1;
                if !self.ask(&mut state, agent) {
                    return None;
                }
            }
            Action::Tell(agent) => self.tell(&mut state, agent),
            Action::CarryOut(agent, choice) => match self.carry_out(&mut state, agent, None) {
                Ok(()) if choice.is_none() => {}
                Err(why @ (Refusal::NeedsChoice { .. } | Refusal::CannotTell { .. })) if choice.is_some() => {
                    let needs = matches!(why, Refusal::NeedsChoice { .. });
                    self.seen.note(if needs { NEEDS_CHOICE } else { CANNOT_TELL });
                    self.carry_out(&mut state, agent, choice).ok()?;
                }
                Ok(()) | Err(_) => return None,
            },
            Action::ToolEnds(agent) => {
                state.faults_left -= 1;
                state.agents[agent].mode = Mode::Down;
            }
            Action::Prune(agent) => state.agents[agent].store.prune(),
            Action::CopyStore => state.copy = Some(Box::new(last.agents[0].store.clone())),
            Action::CopyCentral => state.backup = Some(Box::new(last.central.clone())),
            Action::LoseDisk => {
                state.faults_left -= 1;
                state.agents[0] = Agent::new(Store::empty(), Mode::Down);
                destroyed(&mut state);
            }
            Action::SetUpAnew => {
                state.faults_left -= 1;
                state.clock = last.clock.plus(1);
                let epoch = Epoch::NONE.next(state.clock);
                state.agents[0] = Agent::new(Store::new(self.bounds.units, epoch), Mode::Serving);
                destroyed(&mut state);
            }
            Action::SetBack => {
                state.faults_left -= 1;
                state.agents[0] = Agent::new(*state.copy.take()?, Mode::Serving);
                destroyed(&mut state);
            }
            Action::SetBackCentral => {
                state.faults_left -= 1;
                state.central = *state.backup.take()?;
                state.held.clear();
                state.set_back = true;
                let State { central, clock, .. } = &mut state;
                central.reopen(last.commands_acked, clock);
                destroyed(&mut state);
            }
            Action::Adopt => {
                self.seen.note(ADOPTED);
                state.excused = true;
                state.central.adopt = Some(last.central.fenced);
                state.central.fenced = Epoch::NONE;
            }
            Action::Wipe => {
                state.faults_left -= 1;
                state.redis.wipe();
                state.commands.clear();
                state.commands_acked = CommandEpoch::NONE;
            }
            Action::AgentCrashes(agent) => {
                state.faults_left -= 1;
                state.agents[agent].publisher.crashed(false);
            }
            Action::CentralCrashes => {
                state.faults_left -= 1;
                state.held.clear();
            }
        }
        (State { faults_left: last.faults_left, ..state.clone() } != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("nothing is done twice, and no unit comes from nowhere", |model: &Self, state: &State| {
                let units = state.agents.iter().filter(|agent| agent.serves()).map(|agent| &agent.store.units);
                units.chain([&state.central.units]).all(|units| units.adds_up(model.bounds.units))
            }),
            Property::always(
                "what is said of a purchase is what has become of its units",
                |model: &Self, state: &State| {
                    let agrees = |store: &Store| {
                        (0..model.bounds.purchases).all(|p| store.units.agrees(p, store.outcomes.get(&Id::Buy(p))))
                    };
                    state.agents.iter().all(|agent| agrees(&agent.store))
                },
            ),
            Property::always("nothing acknowledged is lost", |_, state: &State| {
                let mut held = state.central.units.done;
                if state.set_back {
                    held = state.agents.iter().fold(held, |held, agent| held | agent.store.units.done);
                }
                state.excused || state.acknowledged & !held == 0
            }),
            Property::always("a restore loses nothing that its database has", |_, state: &State| {
                !state.lost_by_restore
            }),
            Property::always("a purchase has one final outcome", |_, state: &State| {
                state.excused || !state.contradicted
            }),
            Property::always("cancelled while pending is never confirmed", |_, state: &State| {
                let mut purchases = state.central.purchases.values();
                !purchases.any(|one| one.cancelled_while_pending && one.life.status == Status::Confirmed)
            }),
            Property::always("a fair run ends, and both sides agree", |model: &Self, state: &State| {
                let ended = |state: &State| settled(state) && agrees(&model.bounds, state);
                model.converging.check(state, 12, |state| model.cycle(state), ended)
            }),
        ];
        let bounds = self.bounds;
        let seen: &[(bool, Condition, &'static str)] = &[
            (true, sees::<RESTORED>, "a store is restored"),
            (true, sees::<RECORDED_AGAIN>, "what only its log has is recorded again"),
            (true, sees::<IN_HANDS>, "central holds entries of an older epoch"),
            (
                !bounds.backups && !bounds.adopts,
                sees::<HALF_A_STATE>,
                "the question meets a state that has come by half",
            ),
            (true, sees::<STALE_COMMANDS>, "commands of an older epoch are met"),
            (bounds.disks, sees::<OF_EMPTY>, "a new machine is restored"),
            (
                bounds.purchases + bounds.goods > 0,
                sees::<COMMAND_AGAIN>,
                "a command comes again, and is answered from its outcome",
            ),
            (
                bounds.purchases > 0 && bounds.questions > 1,
                sees::<INSTALLING>,
                "the question meets outcomes that are being settled",
            ),
            (bounds.copies || bounds.cloned, sees::<OF_OLDER>, "an older copy is restored"),
            (bounds.copies || bounds.cloned, sees::<SUPERSEDED>, "an agent is superseded"),
            (bounds.copies && !bounds.chosen || bounds.cloned, sees::<DIVERGED>, "an agent diverges"),
            (bounds.cloned, sees::<OF_CLONE>, "a clone is restored"),
            (bounds.copies && bounds.units == 1, sees::<SHORTAGE>, "what is recorded again was sold elsewhere"),
            (bounds.backups, sees::<OVERTAKEN>, "the answer comes too late"),
            (bounds.backups || bounds.adopts, sees::<FENCED>, "an epoch is refused"),
            (
                bounds.backups && bounds.prunes,
                sees::<EPOCH_BY_NEED>,
                "a log opens an epoch because it does not reach back",
            ),
            (bounds.repeats, sees::<REPEATED_SALE>, "a till repeats itself, and is not known"),
            (bounds.chosen, sees::<KNOWN_BY_NAME>, "what a restore takes over is known by its name alone"),
            (
                bounds.adopts && bounds.sales > 0,
                sees::<GIVEN_UP>,
                "a restore takes over a state without what a human has given up",
            ),
            (bounds.adopts, sees::<ADOPTED>, "an operator has an epoch adopted"),
            (bounds.adopts, sees::<NEEDS_CHOICE>, "a human has to choose"),
            (bounds.adopts, sees::<OWN_STATE>, "a human has chosen the own state"),
            (
                bounds.adopts && bounds.purchases > 0,
                sees::<ASKED_AGAIN>,
                "a chosen state is asked for what was promised",
            ),
            (
                bounds.adopts && bounds.purchases > 0 && bounds.units == 1 && bounds.sales > 0,
                sees::<SHORT_OF_PROMISED>,
                "what was promised is missing in the chosen state",
            ),
        ];
        let asked = seen.iter().filter(|(applies, ..)| *applies);
        properties.extend(asked.map(|(_, condition, name)| Property::sometimes(name, *condition)));
        properties
    }
}

type Condition = fn(&Restore, &State) -> bool;

fn sees<const WHAT: u8>(model: &Restore, _: &State) -> bool {
    model.seen.has(WHAT)
}
