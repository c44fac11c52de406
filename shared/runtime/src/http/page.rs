//! Paging of lists: by number for people, by cursor for programs.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::openapi::schema::{json_of, schema};
use super::{Bounded, Problem};
use crate::search::{Found, Searched, Words};
use crate::sqlite::newest::{Part, Slice};

pub(super) const SIZE_DEFAULT: i64 = 50;
pub(super) const SIZE_MOST: i64 = 1_000;
/// How far pages reach; beyond it only a cursor does.
pub(super) const REACH: i64 = 100_000;

/// A list as clients get it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    /// This page.
    pub items: Vec<T>,
    /// Where the next begins; `null`: this was the last.
    pub next_cursor: Option<String>,
}

impl<T> List<T> {
    /// A page out of up to one record more than was asked for, which tells whether there is a next one.
    pub fn cut(mut items: Vec<T>, page: &Page, cursor: impl Fn(&T) -> String) -> Self {
        let more = items.len() > page.size;
        items.truncate(page.size);
        let next_cursor = if more { items.last().map(cursor) } else { None };
        Self { items, next_cursor }
    }

    /// The same page with its records as clients see them.
    pub fn map<U>(self, view: impl FnMut(T) -> U) -> List<U> {
        List { items: self.items.into_iter().map(view).collect(), next_cursor: self.next_cursor }
    }
}

/// A page of a list by number. It may go on although this page is not full.
impl<T> From<Part<T>> for List<T> {
    fn from(Part { rows, next }: Part<T>) -> Self {
        Self { items: rows, next_cursor: next.map(|number| encode_cursor(&[&number.to_string()])) }
    }
}

impl<T: ToSchema> PartialSchema for List<T> {
    fn schema() -> RefOr<Schema> {
        let item = json!({"$ref": format!("#/components/schemas/{}", T::name())});
        schema(json!({
            "type": "object", "required": ["items", "nextCursor"],
            "properties": {
                "items": {"type": "array", "items": item, "description": "This page."},
                "nextCursor": {
                    "type": ["string", "null"],
                    "description": "Where the next page begins: its `cursor`. `null`: this was the last.",
                },
            },
        }))
    }
}

impl<T: ToSchema> ToSchema for List<T> {
    fn name() -> Cow<'static, str> {
        format!("{}List", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((T::name().into(), T::schema()));
        T::schemas(schemas);
    }
}

/// A list that tells how many it holds.
#[derive(Debug, Serialize)]
pub struct Counted<T> {
    #[serde(flatten)]
    list: List<T>,
    #[serde(flatten)]
    found: Found,
}

impl<T> Counted<T> {
    /// As [`List::cut`], out of what a search came upon. It may go on although this page is not full.
    pub fn cut(searched: Searched<T>, page: &Page, cursor: impl Fn(&T) -> String) -> Self {
        let goes_on_at = searched.reached.as_ref().map(&cursor);
        let mut list = List::cut(searched.rows, page, cursor);
        list.next_cursor = list.next_cursor.or(goes_on_at);
        Self { list, found: searched.found }
    }

    /// The same page with its records as clients see them.
    pub fn map<U>(self, view: impl FnMut(T) -> U) -> Counted<U> {
        Counted { list: self.list.map(view), found: self.found }
    }
}

impl<T: ToSchema> PartialSchema for Counted<T> {
    fn schema() -> RefOr<Schema> {
        let mut list = json_of::<List<T>>();
        for (name, mut what) in [("found", json!({"type": "integer"})), ("foundAll", json!({"type": "boolean"}))] {
            what["description"] = match name {
                "found" => "How many the whole list has; so many at least, if `foundAll` is false.".into(),
                _ => "Whether all were counted.".into(),
            };
            list["properties"][name] = what;
        }
        list["required"] = json!(["items", "nextCursor", "found", "foundAll"]);
        schema(list)
    }
}

impl<T: ToSchema> ToSchema for Counted<T> {
    fn name() -> Cow<'static, str> {
        List::<T>::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        List::<T>::schemas(schemas);
    }
}

/// What `q` searches for.
pub fn words(q: Option<&str>) -> Result<Option<Words>, Problem> {
    let Some(q) = q else { return Ok(None) };
    if !(2..=100).contains(&q.chars().count()) {
        return Err(Problem::invalid("?q", "must be 2 to 100 characters"));
    }
    let words = Words::parse(q);
    words.map(Some).ok_or_else(|| Problem::invalid("?q", "must have a character that can be searched for"))
}

/// `page` of a list.
pub type PageNumber = Bounded<0, REACH>;
/// `size` of a page.
pub type PageSize = Bounded<1, SIZE_MOST>;

/// `page`, `size` and `cursor` as sent.
#[derive(Debug, Default, Clone, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Number of the page, from 0.
    pub page: Option<PageNumber>,
    /// Records on it.
    pub size: Option<PageSize>,
    /// Where it begins.
    pub cursor: Option<String>,
}

/// Which part of a list is wanted.
#[derive(Debug, Clone)]
pub struct Page {
    /// Records, 1 to 1,000.
    pub size: usize,
    /// Records to pass over first.
    pub offset: usize,
    /// Key of the record after which it begins.
    pub after: Option<Vec<String>>,
}

impl Page {
    /// Checks what was sent. `keys`: how many parts this list's cursor has.
    pub fn of(
        page: Option<PageNumber>,
        size: Option<PageSize>,
        cursor: Option<&str>,
        keys: usize,
    ) -> Result<Self, Problem> {
        let size = size.map_or(SIZE_DEFAULT, |size| size.0);
        if page.is_some() && cursor.is_some() {
            return Err(Problem::invalid("?page", "must not be sent together with cursor"));
        }
        let offset = page.map_or(0, |page| page.0) * size;
        if offset > REACH {
            return Err(Problem::invalid(
                "?page",
                "must be smaller: page * size reaches up to 100,000, beyond it only cursor does",
            ));
        }
        let after = cursor.map(|cursor| decode_cursor(cursor, keys)).transpose()?;
        Ok(Self { size: size as usize, offset: offset as usize, after })
    }

    /// The part of a list by number that it is: one record more than wanted tells whether there is a next page.
    pub fn by_number(&self) -> Result<Slice<i64>, Problem> {
        let number = |after: &Vec<String>| after[0].parse().map_err(|_| no_cursor());
        Ok(Slice { after: self.after.as_ref().map(number).transpose()?, offset: self.offset, limit: self.size + 1 })
    }
}

impl PageQuery {
    /// Checks what was sent.
    pub fn page(&self, keys: usize) -> Result<Page, Problem> {
        Page::of(self.page, self.size, self.cursor.as_deref(), keys)
    }
}

/// An opaque cursor out of a record's key.
pub fn encode_cursor(parts: &[&str]) -> String {
    parts.join("\n").bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn no_cursor() -> Problem {
    Problem::invalid("?cursor", "must be a nextCursor of this list")
}

/// The key in a cursor that [`encode_cursor`] made of so many parts.
pub fn decode_cursor(cursor: &str, keys: usize) -> Result<Vec<String>, Problem> {
    let invalid = no_cursor;
    if !cursor.is_ascii() || !cursor.len().is_multiple_of(2) || cursor.len() > 1_000 {
        return Err(invalid());
    }
    let bytes = (0..cursor.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&cursor[at..at + 2], 16).map_err(|_| invalid()))
        .collect::<Result<Vec<u8>, _>>()?;
    let text = String::from_utf8(bytes).map_err(|_| invalid())?;
    let parts: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if parts.len() == keys { Ok(parts) } else { Err(invalid()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_what_it_writes() {
        let cursor = encode_cursor(&["store-1", "coffee"]);
        assert_eq!(decode_cursor(&cursor, 2).expect("valid"), ["store-1", "coffee"]);
        for bad in ["x", "zz", "é", "0", "ff", &cursor[2..]] {
            assert!(decode_cursor(bad, 3).is_err(), "{bad}");
        }
    }

    #[test]
    fn pages_are_bounded() {
        let page = |page, size, cursor| Page::of(Some(Bounded(page)), Some(Bounded(size)), cursor, 1);
        assert!(page(101, 1_000, None).is_err());
        assert!(page(REACH, SIZE_MOST, None).is_err());
        assert!(page(0, SIZE_DEFAULT, Some("61")).is_err());
        assert_eq!(page(2, 10, None).expect("valid").offset, 20);
    }
}
