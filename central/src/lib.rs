//! Central.
