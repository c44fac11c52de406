//! Central's database.

use shared::sqlite::Schema;

/// Numbered migrations; `application_id` is "SHCE".
pub const SCHEMA: Schema =
    Schema { application_id: 0x5348_4345, migrations: &[include_str!("../migrations/0001_view.sql")] };
