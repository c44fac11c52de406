//! Identifiers. An id that exists is valid: each type has one constructor, and it checks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// `^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$`, the one rule for stores and products.
fn check(text: &str) -> Result<(), Invalid> {
    let bytes = text.as_bytes();
    let first = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if first && bytes.len() <= 50 && bytes.iter().all(allowed) {
        Ok(())
    } else {
        Err(Invalid("must be 1 to 50 letters, digits, '.', '_' or '-', the first a letter or digit".into()))
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks the pattern; the text is kept as it is, case included.
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into()
            }
        }
    };
}

text_id! {
    /// A branch of the chain.
    StoreId
}
text_id! {
    /// What is sold (SKU).
    ProductId
}

/// Names one operation for ever: the ledger's `i`, and what a repetition is recognised by. 1 to 100 visible ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OperationId(Box<str>);

impl OperationId {
    /// Checks length and characters.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        if (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(Invalid("an operation's id is 1 to 100 visible ASCII characters".into()))
        }
    }

    /// The id of an operation that came without a key of its own.
    pub fn from_uuid(id: Uuid) -> Self {
        Self(id.to_string().into())
    }

    /// The id of an operation that a caller named by an idempotency key: the same key is the same operation, also
    /// after the database that answered it was replaced.
    pub fn from_key(scope: &str, key: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(scope.len() as u64).to_le_bytes());
        hasher.update(scope.as_bytes());
        hasher.update(key.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string().into())
    }

    /// The command that carries one attempt of a purchase (rule B1).
    pub fn attempt(purchase: &PurchaseId, attempt: u32) -> Self {
        Self(format!("{purchase}:{attempt}").into())
    }

    /// The id of one line of a batch, by its index.
    pub fn line(batch: &Self, index: usize) -> Self {
        Self(format!("{batch}/{index}").into())
    }

    /// The batch that it may be a line of.
    pub fn batch(&self) -> Option<Self> {
        self.0.rsplit_once('/').and_then(|(batch, _)| Self::parse(batch).ok())
    }

    /// The attempt of a purchase at a store that central has chosen (rule B6). A store is asked once at most for a purchase,
    /// so the store is the attempt's name: a central that was set back, and asks again, asks for the same.
    pub fn attempt_at(purchase: &PurchaseId, store: &StoreId) -> Self {
        let hash = blake3::hash(store.as_str().as_bytes()).to_hex();
        Self(format!("{purchase}@{}", &hash[..16]).into())
    }

    /// Whether it is such an attempt.
    pub fn is_of_chosen_store(&self) -> bool {
        self.0.as_bytes().get(36) == Some(&b'@')
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OperationId {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for OperationId {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse(&text)
    }
}

impl From<OperationId> for String {
    fn from(id: OperationId) -> String {
        id.0.into()
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id; the caller rolls the dice (UUID version 7 in the daemons).
            pub fn new(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                text.parse().map(Self).map_err(|_| Invalid(concat!("the id of a ", $what, " is a UUID").into()))
            }
        }
    };
}

uuid_id! {
    /// An online purchase.
    PurchaseId, "purchase"
}
uuid_id! {
    /// Units held for a while.
    ReservationId, "reservation"
}
uuid_id! {
    /// Units that go from one store to another.
    TransferId, "transfer"
}

impl ReservationId {
    /// The reservation that an operation makes: the same operation makes the same one, also in another database.
    pub fn of(operation: &OperationId) -> Self {
        let hash = blake3::hash(operation.as_str().as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_the_pattern() {
        for good in ["a", "7", "store-1", "A.b_c-D", &"x".repeat(50)] {
            assert!(StoreId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "-a", ".a", "a b", "a{b}", "a/b", "ä", "a:b", &"x".repeat(51)] {
            assert!(ProductId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_operations_id_is_short_and_visible() {
        for good in ["a", "00000000-0000-0000-0000-000000000007:1", "b/3", &"x".repeat(100)] {
            assert!(OperationId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "ä", "a\n", &"x".repeat(101)] {
            assert!(OperationId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_names_one_operation() {
        let id = OperationId::from_key("till", "receipt-1");
        assert_eq!(id, OperationId::from_key("till", "receipt-1"));
        assert_ne!(id, OperationId::from_key("til", "lreceipt-1"));
    }
}
