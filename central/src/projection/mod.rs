//! From the stores' events to the stock that is shown: a batch loads what it touches, folds it in memory, and saves it
//! once.

mod install;
pub mod rebuild;
pub mod replay;
mod settle;
pub mod steps;
pub mod touched;
pub mod view;
