//! What a search for products finds: words, in any order, each in the id or the name.
//!
//! Lower case and without accents on both sides. A word is found anywhere; one of one or two characters only where a word
//! begins, since it would be in nearly every text. Pure: the index is [`sqlite::labels`](crate::sqlite::labels).

use std::borrow::Cow;
use std::collections::BTreeSet;

use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};
use serde::Serialize;

/// Characters of a word, at least, that is found in the middle of another one.
const GRAM: usize = 3;
/// Stands before the beginnings of words in the index, which are no parts of words.
const BEGINNING: char = '\u{e100}';

/// How many a list holds, all pages taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// So many; if there were too many to count them, so many at least.
    pub found: usize,
    /// Whether all were counted.
    pub found_all: bool,
}

/// A part of a list of things that are searched for, or counted.
#[derive(Debug, Clone)]
pub struct Searched<T> {
    /// So many as were asked for, if there are so many.
    pub rows: Vec<T>,
    /// How many the whole list holds.
    pub found: Found,
    /// Set if too much was looked at before `rows` had so many: the last one that was. The list goes on behind it.
    pub reached: Option<T>,
}

/// Lower case, without accents, and one form for what looks alike.
fn fold(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            text.to_ascii_lowercase().into()
        } else {
            text.into()
        };
    }
    let mut plain = String::with_capacity(text.len());
    for character in DecomposingNormalizerBorrowed::new_nfkd().normalize(text).chars() {
        for lower in character.to_lowercase() {
            match lower {
                // Combining diacritical marks, and those for symbols and half ones.
                '\u{300}'..='\u{36f}'
                | '\u{1ab0}'..='\u{1aff}'
                | '\u{1dc0}'..='\u{1dff}'
                | '\u{20d0}'..='\u{20ff}'
                | '\u{fe20}'..='\u{fe2f}' => {}
                // Letters whose stroke or ligature Unicode does not take apart.
                'ß' => plain.push_str("ss"),
                'æ' => plain.push_str("ae"),
                'œ' => plain.push_str("oe"),
                'ø' => plain.push('o'),
                'đ' | 'ð' => plain.push('d'),
                'ł' => plain.push('l'),
                'ı' => plain.push('i'),
                'ς' => plain.push('σ'),
                other => plain.push(other),
            }
        }
    }
    // What was taken apart and is no accent, such as Hangul, is put together again.
    match ComposingNormalizerBorrowed::new_nfc().normalize(&plain) {
        Cow::Borrowed(_) => plain.into(),
        Cow::Owned(composed) => composed.into(),
    }
}

/// What is searched for: one word at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(Vec<Word>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    /// So short that it is found at beginnings only.
    is_short: bool,
}

impl Words {
    /// Words as people type them; `None`: there is nothing in it to be searched for.
    pub fn parse(text: &str) -> Option<Self> {
        let words: Vec<Word> = fold(text)
            .split_whitespace()
            .map(|word| Word { is_short: word.chars().nth(GRAM - 1).is_none(), text: word.to_owned() })
            .collect();
        (!words.is_empty()).then_some(Self(words))
    }

    /// Whether a product with this id and name is meant.
    pub fn find_in(&self, id: &str, name: &str) -> bool {
        let (id, name) = (fold(id), fold(name));
        self.0.iter().all(|word| word.is_in(&id) || word.is_in(&name))
    }

    /// What the index is asked for. It finds all that [`find_in`](Self::find_in) does, and maybe more.
    pub(crate) fn grams(&self) -> BTreeSet<String> {
        let mut grams = BTreeSet::new();
        for Word { text, is_short } in &self.0 {
            if *is_short {
                grams.insert(term(Some(BEGINNING), text));
                continue;
            }
            // Those that cover it: the others would make the answer slower and hardly shorter.
            let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            let last = starts.len() - GRAM;
            for start in (0..last).step_by(GRAM).chain([last]) {
                let end = starts.get(start + GRAM).copied().unwrap_or(text.len());
                grams.insert(term(None, &text[starts[start]..end]));
            }
        }
        grams
    }
}

impl Word {
    fn is_in(&self, text: &str) -> bool {
        if self.is_short {
            text.match_indices(&self.text).any(|(at, _)| begins(text, at))
        } else {
            text.contains(&self.text)
        }
    }
}

/// Whether a word begins here: behind white space, or a letter or digit behind what is neither.
fn begins(text: &str, at: usize) -> bool {
    let is_inner = |character: char| character.is_alphanumeric();
    match text[..at].chars().next_back() {
        None => true,
        Some(before) if before.is_whitespace() => true,
        Some(before) => !is_inner(before) && text[at..].starts_with(is_inner),
    }
}

/// What stands in the index for a product with this id and name.
pub(crate) fn grams_of(id: &str, name: &str) -> BTreeSet<String> {
    let mut grams = BTreeSet::new();
    for text in [fold(id), fold(name)] {
        let starts: Vec<(usize, char)> = text.char_indices().collect();
        for (number, (start, first)) in starts.iter().enumerate() {
            if first.is_whitespace() {
                continue;
            }
            let is_beginning = begins(&text, *start);
            for length in 1..=GRAM {
                let Some((_, last)) = starts.get(number + length - 1).filter(|(_, last)| !last.is_whitespace()) else {
                    break;
                };
                let end = starts[number + length - 1].0 + last.len_utf8();
                if length == GRAM {
                    grams.insert(term(None, &text[*start..end]));
                } else if is_beginning {
                    grams.insert(term(Some(BEGINNING), &text[*start..end]));
                }
            }
        }
    }
    grams
}

/// A gram as one term for SQLite's ASCII tokenizer, to which all ASCII but letters and digits separates terms, and all
/// else belongs to them: such characters are moved to a private place of Unicode.
fn term(mark: Option<char>, gram: &str) -> String {
    let moved = |character: char| match u32::from(character) {
        code @ 0..=0x7f if !character.is_ascii_alphanumeric() => char::from_u32(0xe000 + code).unwrap_or(character),
        _ => character,
    };
    mark.into_iter().chain(gram.chars().map(moved)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(q: &str, name: &str) -> bool {
        let words = Words::parse(q).expect("something to search for");
        let found = words.find_in("SKU-0815", name);
        // The index must not miss it.
        assert!(!found || words.grams().is_subset(&grams_of("SKU-0815", name)), "{q:?} in {name:?}");
        found
    }

    #[test]
    fn words_are_found_in_any_order_and_in_parts() {
        for q in
            ["potatoes 5 lb", "LB 5 russet", "otato usse", "potatoes", "5", "pot 0815", "sku-0815", "u-08", "08 sku"]
        {
            assert!(finds(q, "POTATOES RUSSET 5 LB"), "{q}");
        }
        for q in ["potatoes 6 lb", "russets", "b", "ot", "15", "potatoesrusset"] {
            assert!(!finds(q, "POTATOES RUSSET 5 LB"), "{q}");
        }
    }

    #[test]
    fn case_and_accents_do_not_matter_on_either_side() {
        for (q, name) in [
            ("creme brulee", "Crème Brûlée"),
            ("CRÈME", "creme fraiche"),
            ("cre\u{300}me", "Crème"),
            ("strasse", "Straße 5"),
            ("STRASSE", "straße"),
            ("grüner", "GRUNER TEE"),
            ("istanbul", "İSTANBUL"),
            ("kirmizi", "KIRMIZI"),
            ("σοσ", "ΣΟΣ"),
            ("rodgrod", "Rødgrød"),
            ("lodz", "Łódź"),
            ("ベッド", "ﾍﾞｯﾄﾞ"),
            ("대한", "대한민국"),
            ("kg", "½ ㎏"),
            ("м", "Молоко"),
        ] {
            assert!(finds(q, name), "{q} in {name}");
        }
        assert!(!finds("か", "がぎ"), "a voiced sound is another letter");
    }

    #[test]
    fn what_is_not_a_letter_is_searched_for_like_one() {
        for (q, name) in
            [("100%", "Juice 100%"), ("7-up", "7-UP 1,5 l"), ("1,5", "7-UP 1,5 l"), ("%_'", "a%_'b"), ("\"*", "\"* x")]
        {
            assert!(finds(q, name), "{q} in {name}");
        }
        assert!(!finds("%", "100 percent"));
        assert!(finds("5%", "milk 3.5%"), "a word begins behind the point");
        assert!(!finds("5%", "milk 15%"));
    }

    #[test]
    fn white_space_alone_is_nothing_to_search_for() {
        for nothing in ["", "  ", "\u{a0}\u{3000}", "\u{301}\u{302}"] {
            assert_eq!(Words::parse(nothing), None, "{nothing:?}");
        }
        assert!(finds("a\u{a0}b", "b a"));
    }

    proptest::proptest! {
        #[test]
        fn the_index_misses_nothing(q in "[aäB1 .-]{1,8}", name in "[aÄb1 .-]{1,12}") {
            if let Some(words) = Words::parse(&q) {
                let found = words.find_in("b-1", &name);
                proptest::prop_assert!(!found || words.grams().is_subset(&grams_of("b-1", &name)));
            }
        }
    }
}
