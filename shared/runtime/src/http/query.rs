//! Query parameters: unknown and repeated ones are refused; a field that is a list may be repeated.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::value::{Error, MapDeserializer, SeqDeserializer, StringDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use super::{Problem, words};

/// Parameters of one request, at most: each is compared with those before it. The longest list that is asked for has 100.
const PARAMETERS: usize = 128;

/// The query as `T`, whose fields are optional numbers, booleans, texts or lists of texts.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

/// Refuses any.
pub(super) fn none(query: &str) -> Result<(), Problem> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    read(query).map(|Nothing {}| ())
}

fn read<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    for (count, (name, value)) in form_urlencoded::parse(query.as_bytes()).enumerate() {
        if count == PARAMETERS {
            return Err(Problem::invalid("?", format!("A query has at most {PARAMETERS} parameters")));
        }
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value.into_owned()),
            None => fields.push((name.into_owned(), vec![value.into_owned()])),
        }
    }
    let map = MapDeserializer::<_, Error>::new(fields.into_iter().map(|(name, values)| (name, Values(values))));
    serde_path_to_error::deserialize(map).map_err(|error| {
        let text = error.inner().to_string();
        let missing = text.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()).map(str::to_owned);
        let name = missing.unwrap_or_else(|| error.path().to_string());
        Problem::invalid(format!("?{name}"), words::predicate(&text))
    })
}

/// All values of one parameter.
struct Values(Vec<String>);

impl Values {
    fn one(self) -> Result<String, Error> {
        let mut values = self.0.into_iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            _ => Err(Error::custom("must be sent only once")),
        }
    }
}

impl IntoDeserializer<'_> for Values {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Values {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.one()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.one()?;
        let digits = text.strip_prefix('-').unwrap_or(&text);
        let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let number = whole.then(|| text.parse().ok()).flatten();
        match number {
            Some(number) => visitor.visit_i64(number),
            None => Err(Error::invalid_type(Unexpected::Str(&text), &visitor)),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.one()?.as_str() {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            other => Err(Error::invalid_type(Unexpected::Str(other), &visitor)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(SeqDeserializer::new(self.0.into_iter().map(StringDeserializer::<Error>::new)))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u16 u32 u128 f32 f64 char str string bytes byte_buf unit unit_struct tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::http::{Bounded, PageSize};

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
    struct Filter {
        size: Option<PageSize>,
        low: Option<bool>,
        product_id: Vec<String>,
        q: Option<String>,
    }

    fn pointer(query: &str) -> String {
        let problem = read::<Filter>(query).expect_err(query);
        problem.to_json()["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn reads_numbers_flags_texts_and_lists() {
        let filter = read::<Filter>("size=5&low=true&productId=a&productId=b&q=a%20b").expect("valid");
        assert_eq!(
            filter,
            Filter {
                size: Some(Bounded(5)),
                low: Some(true),
                product_id: vec!["a".into(), "b".into()],
                q: Some("a b".into())
            }
        );
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(pointer("size=x"), "?size");
        assert_eq!(pointer("size=1.0"), "?size");
        assert_eq!(pointer("size=+1"), "?size");
        assert_eq!(pointer("size=1&size=1"), "?size");
        assert_eq!(pointer("low=yes"), "?low");
        assert_eq!(pointer("sise=1"), "?sise");
    }

    #[test]
    fn it_says_in_plain_words_what_is_wrong() {
        for (query, words) in [
            ("size=x", "size must be a whole number from 1 to 1,000"),
            ("size=0", "size must be a whole number from 1 to 1,000"),
            ("size=1001", "size must be a whole number from 1 to 1,000"),
            ("size=99999999999999999999", "size must be a whole number from 1 to 1,000"),
            ("low=yes", "low must be true or false"),
            ("size=1&size=1", "size must be sent only once"),
            ("sise=1", "sise is not known: there are size, low, productId, q"),
        ] {
            let problem = read::<Filter>(query).expect_err(query).to_json();
            assert_eq!((&problem["detail"], &problem["errors"][0]["detail"]), (&words.into(), &words.into()));
        }
    }

    #[test]
    fn a_query_has_so_many_parameters_and_no_more() {
        let list = |many: usize| vec!["productId=a"; many].join("&");
        assert_eq!(read::<Filter>(&list(PARAMETERS)).expect("valid").product_id.len(), PARAMETERS);
        assert_eq!(pointer(&list(PARAMETERS + 1)), "?");
    }
}
