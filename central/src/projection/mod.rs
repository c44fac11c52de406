//! From the stores' events to the stock that is shown.

pub mod replay;
pub mod settle;
pub mod steps;
pub mod view;
