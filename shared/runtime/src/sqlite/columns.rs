//! Columns that both databases have.

use protocol::hash::{Digest, Hash};
use protocol::link::Cursor;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// A hash in a column.
pub struct HashColumn(pub Hash);

impl ToSql for HashColumn {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(&self.0.0)))
    }
}

impl FromSql for HashColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Hash::from_slice(value.as_blob()?).map(Self).ok_or(FromSqlError::OutOfRange(0))
    }
}

/// A digest in a column.
pub struct DigestColumn(pub Digest);

impl ToSql for DigestColumn {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.to_bytes().to_vec()))
    }
}

impl FromSql for DigestColumn {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Digest::from_slice(value.as_blob()?).map(Self).ok_or(FromSqlError::OutOfRange(0))
    }
}

/// Reads a cursor from three neighbouring columns: epoch, seq, hash.
pub fn cursor_at(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Cursor> {
    Ok(Cursor { epoch: row.get(first)?, seq: row.get(first + 1)?, hash: row.get::<_, HashColumn>(first + 2)?.0 })
}

/// Reads a column whose text was written by this program from a checked value.
pub fn parsed<T: std::str::FromStr>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error: T::Err| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
