//! Columns that both databases have.

use protocol::domain::Lines;
use protocol::hash::{Digest, Hash};
use protocol::ids::Invalid;
use protocol::link::{Cursor, EntryId, Link};
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

/// An epoch or a sequence number in a column. It is written as the plain number.
pub struct NumberColumn<N>(pub N);

impl<N: TryFrom<i64, Error = Invalid>> FromSql for NumberColumn<N> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        N::try_from(number).map(Self).map_err(FromSqlError::other)
    }
}

/// Reads a number that has a type of its own: an epoch, a sequence number, a quantity.
pub fn number_at<N: TryFrom<i64, Error = Invalid>>(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<N> {
    Ok(row.get::<_, NumberColumn<N>>(column)?.0)
}

/// Reads what is bought from three columns: the first line's product and quantity, and of several lines all of them.
pub fn lines_at(row: &rusqlite::Row<'_>, product: usize, quantity: usize, lines: usize) -> rusqlite::Result<Lines> {
    match row.get_ref(lines)?.as_str_or_null()? {
        None => Ok(Lines::one(parsed(row, product)?, number_at(row, quantity)?)),
        Some(text) => serde_json::from_str(text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(lines, rusqlite::types::Type::Text, Box::new(error))
        }),
    }
}

/// The last of the columns that [`lines_at`] reads.
pub fn several(lines: &Lines) -> Option<String> {
    lines.only().is_none().then(|| serde_json::to_string(lines).expect("lines serialise"))
}

/// Reads a place from two neighbouring columns: epoch, seq.
pub fn id_at<L: Link>(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<EntryId<L>> {
    Ok(EntryId { epoch: number_at(row, first)?, seq: number_at(row, first + 1)? })
}

/// Reads a cursor from three neighbouring columns: epoch, seq, hash.
pub fn cursor_at<L: Link>(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Cursor<L>> {
    let EntryId { epoch, seq } = id_at(row, first)?;
    Ok(Cursor { epoch, seq, hash: row.get::<_, HashColumn>(first + 2)?.0 })
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
