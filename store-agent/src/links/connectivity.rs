//! The connectivity switch, and what really is: who wants to know watches.

use protocol::link::{EntryId, Stopped};
use protocol::time::Millis;
use tokio::sync::watch;

/// Whether the agent shall talk to central.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switch {
    /// Connected, or as if the cable were cut.
    pub connected: bool,
    /// Without a word: the heartbeat is left to grow old.
    pub abrupt: bool,
    pub since: Millis,
}

/// What the publisher last found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Central's word was read and accepted on the present connection.
    pub up: bool,
    /// Why this agent publishes nothing any more.
    pub stopped: Option<Stopped>,
    /// What central has acknowledged; the database learns of it later.
    pub acked: Option<EntryId>,
}

/// Both, for all tasks. Cheap to clone. The switch is not remembered: a restarted agent is connected.
#[derive(Clone)]
pub struct Connectivity {
    switch: watch::Sender<Switch>,
    link: watch::Sender<Link>,
}

impl Connectivity {
    /// Connected, and nothing known of the link.
    pub fn new(now: Millis) -> Self {
        let switch = Switch { connected: true, abrupt: false, since: now };
        Self { switch: watch::Sender::new(switch), link: watch::Sender::new(Link::default()) }
    }

    /// The switch as it is.
    pub fn switch(&self) -> Switch {
        *self.switch.borrow()
    }

    /// Throws the switch; nothing happens when it is so already.
    pub fn set(&self, connected: bool, abrupt: bool, now: Millis) -> Switch {
        self.switch.send_if_modified(|switch| {
            let changes = switch.connected != connected;
            if changes {
                *switch = Switch { connected, abrupt, since: now };
            }
            changes
        });
        self.switch()
    }

    /// Changes of the switch.
    pub fn watch_switch(&self) -> watch::Receiver<Switch> {
        self.switch.subscribe()
    }

    /// What the publisher last found.
    pub fn link(&self) -> Link {
        *self.link.borrow()
    }

    /// The publisher has found something.
    pub fn set_link(&self, link: Link) {
        self.link.send_if_modified(|present| {
            let changes = *present != link;
            *present = link;
            changes
        });
    }

    /// Changes of the link.
    pub fn watch_link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    /// `up`, `down`, `off` or `fenced`.
    pub fn name(&self) -> &'static str {
        match (self.switch().connected, self.link()) {
            (_, Link { stopped: Some(_), .. }) => "fenced",
            (false, _) => "off",
            (true, Link { up: true, .. }) => "up",
            (true, _) => "down",
        }
    }
}
