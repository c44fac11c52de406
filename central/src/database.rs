//! Central's database: its schema, and small things that every query needs.

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use shared::hash::{Digest, Hash};
use shared::link::Cursor;
use shared::sqlite::Schema;

/// Numbered migrations; `application_id` is "SHCE".
pub const SCHEMA: Schema =
    Schema { application_id: 0x5348_4345, migrations: &[include_str!("../migrations/0001_view.sql")] };

/// A hash in a column.
pub(crate) struct HashColumn(pub(crate) Hash);

impl ToSql for HashColumn {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(&self.0.0)))
    }
}

impl FromSql for HashColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Hash::from_slice(value.as_blob()?).map(Self).ok_or(rusqlite::types::FromSqlError::OutOfRange(0))
    }
}

/// A digest in a column.
pub(crate) struct DigestColumn(pub(crate) Digest);

impl ToSql for DigestColumn {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.to_bytes().to_vec()))
    }
}

impl FromSql for DigestColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Digest::from_slice(value.as_blob()?).map(Self).ok_or(rusqlite::types::FromSqlError::OutOfRange(0))
    }
}

/// Reads a cursor from three neighbouring columns: epoch, seq, hash.
pub(crate) fn cursor_at(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Cursor> {
    Ok(Cursor { epoch: row.get(first)?, seq: row.get(first + 1)?, hash: row.get::<_, HashColumn>(first + 2)?.0 })
}

/// Reads a column whose text was written by this program from a checked value.
pub(crate) fn parsed<T: std::str::FromStr>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error: T::Err| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
