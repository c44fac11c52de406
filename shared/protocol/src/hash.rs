//! The two hashes of the protocol: the chain over a log, and the digest of a store's whole stock.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::domain::Item;
use crate::ids::{Invalid, ProductId};
use crate::position::EntryId;

/// 16 bytes of BLAKE3; as text 32 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 16]);

impl Hash {
    /// The hash before the first entry.
    pub const ZERO: Self = Self([0; 16]);

    /// Of bytes that lie together: feeding a hasher piece by piece costs more than to hash what an entry has.
    fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        Self(hash)
    }

    /// Reads the 16 bytes a database column keeps.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Invalid("a hash is 32 hexadecimal digits".into()));
        }
        // Each half in a register: of 128 bits at once it takes five times as long.
        let half = |digits| u64::from_str_radix(digits, 16).map_err(|error| Invalid(error.to_string()));
        Ok(Self(((u128::from(half(&text[..16])?) << 64) | u128::from(half(&text[16..])?)).to_be_bytes()))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Room for all that is hashed besides texts.
const NUMBERS: usize = 96;

fn push(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// `c` of an entry (rule L1): `H(c before, epoch, seq, t, i, b, d)`. Texts are prefixed by their length, so no two
/// different entries feed the same bytes. `digest` is `None` on the command link.
pub fn chain<L>(before: Hash, at: EntryId<L>, kind: &str, id: &str, body: &str, digest: Option<Digest>) -> Hash {
    let texts = [kind, id, body];
    let mut bytes = Vec::with_capacity(NUMBERS + texts.iter().map(|text| text.len()).sum::<usize>());
    bytes.extend_from_slice(&before.0);
    bytes.extend_from_slice(&u64::from(at.epoch).to_le_bytes());
    bytes.extend_from_slice(&u64::from(at.seq).to_le_bytes());
    texts.iter().for_each(|text| push(&mut bytes, text));
    if let Some(digest) = digest {
        bytes.extend_from_slice(&digest.0.to_le_bytes());
    }
    Hash::of(&bytes)
}

/// Digest of a whole stock: the sum of its items' hashes modulo 2^128, so order does not matter and one item's
/// change is one subtraction and one addition. As text 32 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest after an item has changed from `before` (`None`: it did not exist) to `after`.
    pub fn replace(self, product: &ProductId, before: Option<&Item>, after: Option<&Item>) -> Self {
        let minus = before.map_or(0, |item| item_hash(product, item));
        let plus = after.map_or(0, |item| item_hash(product, item));
        Self(self.0.wrapping_sub(minus).wrapping_add(plus))
    }

    /// The 16 bytes a database column keeps.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Reads [`Digest::to_bytes`].
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|b| Self(u128::from_be_bytes(b)))
    }
}

/// Every member of the item is in it: a view with the same digest has the same stock to the last field.
fn item_hash(product: &ProductId, item: &Item) -> u128 {
    let texts = [product.as_str(), &item.name];
    let mut bytes = Vec::with_capacity(NUMBERS + texts.iter().map(|text| text.len()).sum::<usize>());
    texts.iter().for_each(|text| push(&mut bytes, text));
    let flags = i64::from(item.discontinued) | i64::from(item.low) << 1;
    // -1 stands for "none": no real threshold or wish is negative.
    let numbers = [
        item.quantity,
        item.reserved,
        item.allotted,
        item.allotment_wanted.unwrap_or(-1),
        item.low_at.unwrap_or(-1),
        flags,
        item.version,
        item.updated_at.0,
    ];
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    u128::from_be_bytes(Hash::of(&bytes).0)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse::<Hash>().map(|hash| Self(u128::from_be_bytes(hash.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u32, seq: u32) -> EntryId {
        EntryId { epoch: epoch.into(), seq: seq.into() }
    }

    #[test]
    fn the_chain_depends_on_every_part() {
        let base = chain(Hash::ZERO, at(1, 1), "sold", "x", "{}", Some(Digest(1)));
        let others = [
            chain(Hash([1; 16]), at(1, 1), "sold", "x", "{}", Some(Digest(1))),
            chain(Hash::ZERO, at(2, 1), "sold", "x", "{}", Some(Digest(1))),
            chain(Hash::ZERO, at(1, 2), "sold", "x", "{}", Some(Digest(1))),
            chain(Hash::ZERO, at(1, 1), "sol", "dx", "{}", Some(Digest(1))),
            chain(Hash::ZERO, at(1, 1), "sold", "x{", "}", Some(Digest(1))),
            chain(Hash::ZERO, at(1, 1), "sold", "x", "{}", Some(Digest(2))),
            chain(Hash::ZERO, at(1, 1), "sold", "x", "{}", None),
        ];
        assert!(others.iter().all(|other| *other != base));
    }

    #[test]
    fn what_is_hashed_is_what_the_protocol_says() {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[7; 16]).update(&5_u64.to_le_bytes()).update(&9_u64.to_le_bytes());
        for text in ["sold", "x", "{}"] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hasher.update(&3_u128.to_le_bytes());
        let hash = chain(Hash([7; 16]), at(5, 9), "sold", "x", "{}", Some(Digest(3)));
        assert_eq!(hash.0[..], hasher.finalize().as_bytes()[..16]);
    }

    #[test]
    fn a_hash_reads_what_it_writes() {
        let hash = chain(Hash::ZERO, at(1, 1), "a", "b", "c", None);
        assert_eq!(hash.to_string().parse::<Hash>(), Ok(hash));
        assert!("+0000000000000000000000000000001".parse::<Hash>().is_err());
    }

    #[test]
    fn a_digest_tells_no_threshold_and_no_wish_from_any() {
        let product = ProductId::parse("a").expect("valid");
        let digest = |item: Item| Digest::default().replace(&product, None, Some(&item));
        for number in [0, 1] {
            assert_ne!(digest(Item { low_at: Some(number), ..Item::default() }), digest(Item::default()));
            assert_ne!(digest(Item { allotment_wanted: Some(number), ..Item::default() }), digest(Item::default()));
        }
    }

    #[test]
    fn a_digest_does_not_depend_on_the_order() {
        let a = ProductId::parse("a").expect("valid");
        let b = ProductId::parse("b").expect("valid");
        let item = Item { quantity: 3, ..Item::default() };
        let one = Digest::default().replace(&a, None, Some(&item)).replace(&b, None, Some(&item));
        let two = Digest::default().replace(&b, None, Some(&item)).replace(&a, None, Some(&item));
        assert_eq!(one, two);
        assert_ne!(one, Digest::default());
        assert_eq!(one.replace(&a, Some(&item), None).replace(&b, Some(&item), None), Digest::default());
    }
}
