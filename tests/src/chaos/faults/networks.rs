//! Networks.

use anyhow::bail;

use super::Plan;
use crate::chaos::proxy::Weather;
use crate::chaos::rig::{Rig, Who};

pub(super) async fn network(rig: &Rig, who: Who, weather: Weather, plan: &mut Plan) -> anyhow::Result<String> {
    let daemon = rig.daemon(who);
    let _network = daemon.network.lock().await;
    let before = daemon.proxy.hindered();
    daemon.proxy.set(weather);
    plan.for_ms(1_500, 5_000).await;
    daemon.proxy.set(Weather::Clear);
    match daemon.proxy.hindered() - before {
        0 => bail!("{}, {weather:?}: nothing was on its way", daemon.name),
        hindered => Ok(format!("{}, {weather:?}, {hindered} times", daemon.name)),
    }
}

pub(super) async fn network_of_somebody(rig: &Rig, weather: Weather, mut plan: Plan) -> anyhow::Result<String> {
    let who = plan.somebody();
    network(rig, who, weather, &mut plan).await
}
