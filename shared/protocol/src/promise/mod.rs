//! What central has promised, as pure state machines: what a store's answer, a cancel, and retiring a store make of a
//! purchase and of a request. Central loads, decides here, and saves; the model checker runs the same functions.

pub mod policy;
pub mod purchase;
pub mod request;
