//! Bells: "look there". A hint that may be lost.

use ::redis::aio::MultiplexedConnection;
use ::redis::{Pipeline, RedisResult};

use super::{Keys, is_of_the_server};
use protocol::ids::StoreId;

/// Rings a store's bell.
pub(super) fn ring(pipe: &mut Pipeline, keys: &Keys, store: &StoreId) {
    pipe.cmd("PUBLISH").arg(keys.bell(store)).arg(store.as_str());
}

/// Rings the bell that means no store. Says whether that is allowed.
pub async fn ring_for_oneself(connection: &mut MultiplexedConnection, keys: &Keys, message: &str) -> RedisResult<bool> {
    match ::redis::cmd("PUBLISH").arg(keys.own_bell()).arg(message).query_async::<i64>(connection).await {
        Ok(_) => Ok(true),
        Err(error) if !is_of_the_server(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
