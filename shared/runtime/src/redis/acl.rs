//! What central and each store's agent may do in Redis: the rules of their users, as `ACL SETUSER` takes them.
//!
//! They name exactly the keys, channels and commands that the code sends, so whoever sends another command adds it here.

use super::Keys;
use protocol::ids::StoreId;

/// How stores come into the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joining {
    /// An agent enters its store in the set of all stores, where central finds it.
    Discovered,
    /// Central has a list of its own: nobody needs the set.
    Listed,
}

/// What central's user may do.
pub fn of_central(keys: &Keys, joining: Joining) -> String {
    let any = "*";
    let mut rules = vec![
        format!("%R~{}", keys.of(any, "events")),
        format!("%W~{}", keys.of(any, "events:ack")),
        format!("%RW~{}", keys.of(any, "commands")),
        format!("%R~{}", keys.of(any, "commands:ack")),
        format!("%R~{}", keys.of(any, "heartbeat")),
        format!("%R~{}", keys.of(any, "claim")),
        format!("&{}", keys.all_bells()),
        "+xadd +xtrim +xinfo|stream +xlen +memory|usage +xrange +del +getrange +set +pttl +psubscribe +publish +time"
            .to_owned(),
    ];
    if joining == Joining::Discovered {
        rules.push(format!("(%R~{} +memory|usage +scard +sscan)", keys.stores()));
    }
    rules.join(" ")
}

/// What the user of a store's agent may do.
pub fn of_store(keys: &Keys, store: &StoreId, joining: Joining) -> String {
    let mut rules = vec![
        format!("%RW~{}", keys.events(store)),
        format!("%R~{}", keys.events_ack(store)),
        format!("%R~{}", keys.commands(store)),
        format!("%W~{}", keys.commands_ack(store)),
        format!("%RW~{}", keys.heartbeat(store)),
        format!("%W~{}", keys.claim(store)),
        format!("&{}", keys.bell(store)),
        "+xadd +xtrim +xinfo|stream +xlen +memory|usage +xread +del +getrange +set +pttl +publish +time".to_owned(),
    ];
    if joining == Joining::Discovered {
        // In brackets: on this key, which is everybody's, nothing but this.
        rules.push(format!("(%W~{} +sadd)", keys.stores()));
    }
    rules.join(" ")
}

/// The rule of a password that need not be told: its SHA-256.
pub fn password(password: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, password.as_bytes());
    digest.as_ref().iter().fold("#".to_owned(), |rule, byte| format!("{rule}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_may_touch_its_own_keys_and_its_own_bell() {
        let store = StoreId::parse("store-1").expect("valid");
        assert_eq!(
            of_store(&Keys::new("shelf"), &store, Joining::Listed),
            "%RW~shelf:{store-1}:events %R~shelf:{store-1}:events:ack %R~shelf:{store-1}:commands \
             %W~shelf:{store-1}:commands:ack %RW~shelf:{store-1}:heartbeat %W~shelf:{store-1}:claim &shelf:bell:9 \
             +xadd +xtrim +xinfo|stream +xlen +memory|usage +xread +del +getrange +set +pttl +publish +time"
        );
    }

    #[test]
    fn only_discovery_needs_the_set_of_stores() {
        let keys = Keys::new("shelf");
        let store = StoreId::parse("store-1").expect("valid");
        let of = |joining| [of_central(&keys, joining), of_store(&keys, &store, joining)];
        assert!(of(Joining::Discovered).iter().all(|rules| rules.contains("~shelf:stores")));
        assert!(
            of(Joining::Discovered)[1].ends_with(" (%W~shelf:stores +sadd)"),
            "it may enter itself, not delete the set"
        );
        assert!(of(Joining::Listed).iter().all(|rules| !rules.contains("shelf:stores")));
    }

    #[test]
    fn a_password_is_told_by_its_hash() {
        // printf secret | sha256sum
        assert_eq!(password("secret"), "#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b");
    }
}
