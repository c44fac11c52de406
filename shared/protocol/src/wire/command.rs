//! Commands: what central asks a store to do.

use serde::{Deserialize, Serialize};

use super::batch::check_length;
use super::{BatchLine, NotUnderstood, PurchaseRef, encode};
use crate::domain::reservation::{Act, TTL_MS_MAX};
use crate::domain::transfer::Transfer;
use crate::domain::{Guard, Lines, Operation, TOTAL_MAX};
use crate::ids::{ProductId, ReservationId, TransferId};
use crate::link::{Epoch, OPENED};
use crate::time::Millis;

/// `t` of a batch's entry.
pub const BATCH: &str = "batch";
/// Of one that asks for a reservation.
pub const RESERVE: &str = "reserve";
/// Of one that ends a reservation or makes it last longer.
pub const RESERVATION: &str = "reservation";
/// Of one that asks for the whole state.
pub const RESYNC: &str = "resync";

/// Who asked, and what for. Travels with the operation into its event.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// Receipt, order or delivery note; up to 100 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Till or person; up to 64 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// When it happened, if the caller said so. Informative: order is epoch and seq.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Millis>,
    /// Central asked for it as a line of a batch, which it does not answer (B9). 0.1.0 does not say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_line: bool,
}

/// What central asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A command epoch, for this event epoch only (L8).
    Opened {
        /// The store's event epoch that it belongs to.
        for_epoch: Epoch,
    },
    /// Take the units for an online purchase.
    Purchase {
        /// The attempt.
        purchase: PurchaseRef,
        /// Redis time after which it must be refused as expired (B1). None: central has confirmed it out of the allotment,
        /// and it is never refused (B11).
        deadline: Option<Millis>,
        /// Who asked.
        about: About,
    },
    /// Cancel one attempt of a purchase, in order (B5).
    Cancel {
        /// The attempt.
        purchase: PurchaseRef,
        /// Give the units back even if they were picked: the buyer was told that it never will be confirmed.
        forced: bool,
        /// Who asked.
        about: About,
    },
    /// An operation on one item.
    Operate {
        /// Of which product.
        product_id: ProductId,
        /// What.
        operation: Operation,
        /// What the caller believes the version to be.
        guard: Guard,
        /// Who asked.
        about: About,
    },
    /// Operations on items, one after the other. Each line is an operation of its own, named after the command and its
    /// index; the command is answered by what became of all of them.
    Batch {
        /// What, in this order.
        lines: Vec<BatchLine>,
        /// All of it or nothing.
        atomic: bool,
        /// Who asked.
        about: About,
    },
    /// Hold units, all of these or none.
    Reserve {
        /// The new reservation.
        reservation_id: ReservationId,
        /// What.
        lines: Lines,
        /// For so long from when the store executes it, ms.
        ttl_ms: i64,
        /// Redis time after which it must be refused as expired (B1).
        deadline: Millis,
        /// Who asked.
        about: About,
    },
    /// Confirm, cancel or extend a reservation.
    Reservation {
        /// Which.
        reservation_id: ReservationId,
        /// What is asked of it.
        act: Act,
        /// Who asked.
        about: About,
    },
    /// Take a transfer's units off the shelf, all of its lines or none.
    Ship {
        /// As it is then, but for the names.
        transfer: Transfer,
        /// Redis time after which it must be refused as expired (B1).
        deadline: Millis,
        /// Who asked.
        about: About,
    },
    /// A transfer is on its way to the store.
    Announce {
        /// As the source has said it.
        transfer: Transfer,
    },
    /// Book in what has arrived of a transfer.
    ReceiveTransfer {
        /// Which.
        transfer_id: TransferId,
        /// Absent: all of it.
        lines: Option<Lines>,
        /// Who asked.
        about: About,
    },
    /// Of the units that are set aside for online sale so many are not sold: if fewer are wanted, tills may have them.
    Release {
        /// Of which product.
        product_id: ProductId,
        /// 1 to [`TOTAL_MAX`].
        units: i64,
    },
    /// Send the whole state again.
    Resync,
}

#[derive(Serialize, Deserialize)]
struct OpenedBody {
    #[serde(rename = "for")]
    for_epoch: Epoch,
}

#[derive(Serialize, Deserialize)]
struct PurchaseBody {
    purchase: PurchaseRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Millis>,
    about: About,
}

#[derive(Serialize, Deserialize)]
struct CancelBody {
    purchase: PurchaseRef,
    forced: bool,
    about: About,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperateBody {
    product_id: ProductId,
    operation: Operation,
    #[serde(default)]
    guard: Guard,
    about: About,
}

#[derive(Serialize, Deserialize)]
struct BatchBody {
    lines: Vec<BatchLine>,
    atomic: bool,
    about: About,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReserveBody {
    reservation_id: ReservationId,
    lines: Lines,
    ttl_ms: i64,
    deadline: Millis,
    about: About,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReservationBody {
    reservation_id: ReservationId,
    act: Act,
    about: About,
}

#[derive(Serialize, Deserialize)]
struct ShipBody {
    transfer: Transfer,
    deadline: Millis,
    about: About,
}

#[derive(Serialize, Deserialize)]
struct AnnounceBody {
    transfer: Transfer,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReceiveTransferBody {
    transfer_id: TransferId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lines: Option<Lines>,
    about: About,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReleaseBody {
    product_id: ProductId,
    units: i64,
}

impl Command {
    /// `t` of the entry.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Opened { .. } => OPENED,
            Self::Purchase { .. } => "purchase",
            Self::Cancel { .. } => "cancel",
            Self::Operate { .. } => "operation",
            Self::Batch { .. } => BATCH,
            Self::Reserve { .. } => RESERVE,
            Self::Reservation { .. } => RESERVATION,
            Self::Ship { .. } => "ship",
            Self::Announce { .. } => "announce",
            Self::ReceiveTransfer { .. } => "receive_transfer",
            Self::Release { .. } => "release",
            Self::Resync => RESYNC,
        }
    }

    /// `b` of the entry.
    pub fn encode(&self) -> String {
        match self.clone() {
            Self::Opened { for_epoch } => encode(&OpenedBody { for_epoch }),
            Self::Purchase { purchase, deadline, about } => encode(&PurchaseBody { purchase, deadline, about }),
            Self::Cancel { purchase, forced, about } => encode(&CancelBody { purchase, forced, about }),
            Self::Operate { product_id, operation, guard, about } => {
                encode(&OperateBody { product_id, operation, guard, about })
            }
            Self::Batch { lines, atomic, about } => encode(&BatchBody { lines, atomic, about }),
            Self::Reserve { reservation_id, lines, ttl_ms, deadline, about } => {
                encode(&ReserveBody { reservation_id, lines, ttl_ms, deadline, about })
            }
            Self::Reservation { reservation_id, act, about } => encode(&ReservationBody { reservation_id, act, about }),
            Self::Ship { transfer, deadline, about } => encode(&ShipBody { transfer, deadline, about }),
            Self::Announce { transfer } => encode(&AnnounceBody { transfer }),
            Self::ReceiveTransfer { transfer_id, lines, about } => {
                encode(&ReceiveTransferBody { transfer_id, lines, about })
            }
            Self::Release { product_id, units } => encode(&ReleaseBody { product_id, units }),
            Self::Resync => "{}".into(),
        }
    }

    /// Reads an entry's type and body.
    pub fn decode(kind: &str, body: &str) -> Result<Self, NotUnderstood> {
        Ok(match kind {
            OPENED => {
                let body: OpenedBody = serde_json::from_str(body)?;
                Self::Opened { for_epoch: body.for_epoch }
            }
            "purchase" => {
                let PurchaseBody { purchase, deadline, about } = serde_json::from_str(body)?;
                Self::Purchase { purchase, deadline, about }
            }
            "cancel" => {
                let CancelBody { purchase, forced, about } = serde_json::from_str(body)?;
                Self::Cancel { purchase, forced, about }
            }
            "operation" => {
                let OperateBody { product_id, operation, guard, about } = serde_json::from_str(body)?;
                Self::Operate { product_id, operation, guard, about }
            }
            BATCH => {
                let BatchBody { lines, atomic, about } = serde_json::from_str(body)?;
                check_length(lines.len())?;
                Self::Batch { lines, atomic, about }
            }
            RESERVE => {
                let ReserveBody { reservation_id, lines, ttl_ms, deadline, about } = serde_json::from_str(body)?;
                check_ttl(ttl_ms)?;
                Self::Reserve { reservation_id, lines, ttl_ms, deadline, about }
            }
            RESERVATION => {
                let ReservationBody { reservation_id, act, about } = serde_json::from_str(body)?;
                if let Act::Extend { ttl_ms } = &act {
                    check_ttl(*ttl_ms)?;
                }
                Self::Reservation { reservation_id, act, about }
            }
            "ship" => {
                let ShipBody { transfer, deadline, about } = serde_json::from_str(body)?;
                Self::Ship { transfer, deadline, about }
            }
            "announce" => {
                let AnnounceBody { transfer } = serde_json::from_str(body)?;
                Self::Announce { transfer }
            }
            "receive_transfer" => {
                let ReceiveTransferBody { transfer_id, lines, about } = serde_json::from_str(body)?;
                Self::ReceiveTransfer { transfer_id, lines, about }
            }
            "release" => {
                let ReleaseBody { product_id, units } = serde_json::from_str(body)?;
                if !(1..=TOTAL_MAX).contains(&units) {
                    return Err(NotUnderstood("the units that are released are out of range".into()));
                }
                Self::Release { product_id, units }
            }
            RESYNC => Self::Resync,
            other => return Err(NotUnderstood(format!("unknown command type {other:?}"))),
        })
    }
}

fn check_ttl(ttl_ms: i64) -> Result<(), NotUnderstood> {
    if (1..=TTL_MS_MAX).contains(&ttl_ms) {
        Ok(())
    } else {
        Err(NotUnderstood("a reservation's time to live is out of range".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{LowAt, Quantity};
    use crate::ids::{OperationId, PurchaseId};

    #[test]
    fn a_threshold_is_a_number_or_off() {
        let change = |low_at| Operation::Change { name: None, discontinued: None, low_at };
        for (low_at, said) in [(Some(LowAt::Units(7)), "7"), (Some(LowAt::OFF), "\"off\"")] {
            let text = serde_json::to_string(&change(low_at)).expect("serialises");
            assert_eq!(text, format!(r#"{{"op":"change","lowAt":{said}}}"#));
            assert_eq!(serde_json::from_str::<Operation>(&text).expect("reads"), change(low_at));
        }
        let kept: Operation = serde_json::from_str(r#"{"op":"change"}"#).expect("reads");
        assert_eq!(kept, change(None));
        assert!(serde_json::from_str::<Operation>(r#"{"op":"change","lowAt":"5"}"#).is_err());
    }

    fn sale() -> BatchLine {
        BatchLine {
            product_id: ProductId::parse("tea").expect("valid"),
            operation: Operation::Sell { quantity: Quantity::try_from(2).expect("in range") },
            expected_version: Some(7),
            reference: Some("receipt-1".into()),
            occurred_at: Some(Millis(5)),
        }
    }

    #[test]
    fn a_batch_is_written_like_this() {
        let bare = BatchLine { expected_version: None, reference: None, occurred_at: None, ..sale() };
        let batch = Command::Batch { lines: vec![sale(), bare], atomic: false, about: About::default() };
        let written = concat!(
            r#"{"lines":[{"productId":"tea","operation":{"op":"sell","quantity":2},"expectedVersion":7,"#,
            r#""reference":"receipt-1","occurredAt":"1970-01-01T00:00:00.005Z"},"#,
            r#"{"productId":"tea","operation":{"op":"sell","quantity":2}}],"atomic":false,"about":{}}"#,
        );
        assert_eq!((batch.kind(), batch.encode().as_str()), ("batch", written));
        assert_eq!(Command::decode("batch", written), Ok(batch));
        for lines in [0, 1_001] {
            let batch = Command::Batch { lines: vec![sale(); lines], atomic: true, about: About::default() };
            assert!(Command::decode("batch", &batch.encode()).is_err(), "{lines} lines");
        }
    }

    #[test]
    fn a_command_reads_what_it_writes() {
        let product_id = ProductId::parse("coffee").expect("valid");
        let purchase = PurchaseRef {
            from_allotment: None,
            purchase_id: PurchaseId::new(uuid::Uuid::from_u128(7)),
            attempt: OperationId::parse("7:1").expect("valid"),
            lines: Lines::one(product_id.clone(), Quantity::try_from(2).expect("in range")),
            reference: None,
            created_at: Millis(1_000),
            expires_at: Millis(61_000),
        };
        let about = About { actor: Some("shop".into()), ..About::default() };
        let commands = [
            Command::Opened { for_epoch: 12.into() },
            Command::Purchase { purchase: purchase.clone(), deadline: Some(Millis(5)), about: about.clone() },
            Command::Purchase { purchase: purchase.clone(), deadline: None, about: about.clone() },
            Command::Cancel { purchase, forced: true, about: about.clone() },
            Command::Operate {
                product_id,
                operation: Operation::Count { quantity: 3, counted_at: None, count_ref: Some("w7".into()) },
                guard: Guard { expected_version: Some(3), if_match: Some(crate::domain::IfMatch::Any) },
                about: about.clone(),
            },
            Command::Batch { lines: vec![sale()], atomic: true, about },
            Command::Reserve {
                reservation_id: ReservationId::new(uuid::Uuid::from_u128(8)),
                lines: Lines::one(ProductId::parse("tea").expect("valid"), Quantity::ONE),
                ttl_ms: 900_000,
                deadline: Millis(9),
                about: About::default(),
            },
            Command::Reservation {
                reservation_id: ReservationId::new(uuid::Uuid::from_u128(8)),
                act: Act::Extend { ttl_ms: 5 },
                about: About::default(),
            },
            Command::Release { product_id: ProductId::parse("tea").expect("valid"), units: 4 },
            Command::Resync,
        ];
        for command in commands {
            assert_eq!(Command::decode(command.kind(), &command.encode()), Ok(command));
        }
        assert!(Command::decode("teleport", "{}").is_err());
        assert!(Command::decode("purchase", "{}").is_err());
    }
}
