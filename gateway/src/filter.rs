//! Word lists over what clients say: masked, flagged or refused.
//!
//! A payload is opaque bytes. A word is found wherever its bytes are, with ASCII letters in either
//! case, so a very short word may also be found in the framing of a binary payload.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

/// Words of all lists together.
pub const WORDS_MAX: usize = 100_000;
/// Bytes of one word.
pub const WORD_BYTES_MAX: usize = 128;
/// Bytes of all words together: what an automaton takes grows with it and with nothing else.
pub const WORDS_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What a masked byte becomes.
const MASK: u8 = b'*';

/// Every app's word lists, ready to search.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// By rising app.
    apps: Vec<(u32, Vec<List>)>,
}

/// Words and what becomes of a message that has one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WordList {
    /// The tenant whose clients it is for.
    pub app: u32,
    /// What to do.
    pub action: Action,
    /// What it looks into.
    pub scope: Scope,
    /// The words; `check_word` has passed each.
    pub words: Vec<String>,
}

/// What becomes of a message with a word of a list. The first one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It is refused.
    Reject,
    /// It goes out with the word's bytes replaced.
    Mask,
    /// It goes out as it is, and somebody is told.
    Flag,
}

/// What a list looks into.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// Messages in these categories; nothing: in all that clients may publish in.
    pub categories: Option<Vec<u16>>,
    /// Whether also uplinks.
    pub uplinks: bool,
}

/// What a payload is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A message in this category.
    Category(u16),
    /// A client's request to a service.
    Uplink,
}

/// What is to be done with a payload. The words are for logs: telling a client which one it was
/// would tell it how to get around the list.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It may go out.
    Pass,
    /// It may go out, and somebody is told.
    Flag {
        /// The first word found of a list that flags.
        word: &'a str,
    },
    /// It may not.
    Reject {
        /// The first word found of a list that rejects.
        word: &'a str,
    },
    /// This goes out in its place.
    Mask {
        /// As long as it was, and UTF-8 if it was.
        payload: Vec<u8>,
        /// The word that it is also flagged for, if it is.
        flagged: Option<&'a str>,
    },
}

/// Whether a word may be in a list, and if not, why.
pub fn check_word(word: &str, action: Action) -> Result<(), String> {
    if word.trim().is_empty() {
        return Err("an empty word would be found everywhere".to_owned());
    }
    if word.len() > WORD_BYTES_MAX {
        let start: String = word.chars().take(16).collect();
        return Err(format!(
            "the word {:?} has {} bytes; at most {WORD_BYTES_MAX} are allowed",
            start + "…",
            word.len()
        ));
    }
    // Otherwise what one word leaves behind could be part of another, and masking again would
    // change the payload again.
    if action == Action::Mask && word.bytes().any(|byte| byte == MASK) {
        return Err(format!(
            "{word:?} has a `*`, which is what words are masked with; reject or flag it"
        ));
    }
    Ok(())
}

impl Filter {
    /// Builds the automata: one for all lists of an app that do the same in the same scope.
    pub fn new(mut lists: Vec<WordList>) -> Self {
        let words = || lists.iter().flat_map(|list| &list.words);
        assert!(words().count() <= WORDS_MAX, "words are counted where lists are read");
        assert!(words().map(String::len).sum::<usize>() <= WORDS_BYTES_MAX, "and so are bytes");
        for list in &mut lists {
            if let Some(categories) = &mut list.scope.categories {
                categories.sort_unstable();
                categories.dedup();
            }
        }
        lists.sort();
        let mut apps: Vec<(u32, Vec<List>)> = Vec::new();
        let key = |list: &WordList| (list.app, list.action, list.scope.clone());
        for alike in lists.chunk_by(|a, b| key(a) == key(b)) {
            let first = &alike[0];
            let mut words: Vec<&str> =
                alike.iter().flat_map(|list| &list.words).map(String::as_str).collect();
            words.sort_unstable();
            words.dedup();
            if words.is_empty() {
                continue;
            }
            let list = List::new(first.action, first.scope.clone(), &words);
            match apps.last_mut() {
                Some((app, lists)) if *app == first.app => lists.push(list),
                _ => apps.push((first.app, vec![list])),
            }
        }
        Self { apps }
    }

    /// What is to be done with what a client of the app says.
    pub fn check(&self, app: u32, what: What, payload: &[u8]) -> Verdict<'_> {
        let mut masked: Option<Vec<u8>> = None;
        let mut flagged = None;
        // Lists that reject come first: nothing is masked in vain.
        for list in self.lists(app).iter().filter(|list| list.scope.covers(what)) {
            match list.action {
                Action::Reject => {
                    if let Some(word) = list.first(payload) {
                        return Verdict::Reject { word };
                    }
                }
                Action::Mask => {
                    for found in list.automaton.find_iter(payload) {
                        let masked = masked.get_or_insert_with(|| payload.to_vec());
                        masked[found.range()].fill(MASK);
                    }
                }
                Action::Flag => flagged = flagged.or_else(|| list.first(payload)),
            }
        }
        match (masked, flagged) {
            (Some(payload), flagged) => Verdict::Mask { payload, flagged },
            (None, Some(word)) => Verdict::Flag { word },
            (None, None) => Verdict::Pass,
        }
    }

    /// Whether nothing is looked into at all.
    pub fn is_empty(&self) -> bool {
        self.apps.is_empty()
    }

    /// Bytes that the automata and their words take.
    pub fn memory_bytes(&self) -> usize {
        let list = |list: &List| {
            let words = list.words.iter().map(|word| word.len() + size_of_val(word));
            list.automaton.memory_usage() + words.sum::<usize>()
        };
        self.apps.iter().flat_map(|(_, lists)| lists).map(list).sum()
    }

    fn lists(&self, app: u32) -> &[List] {
        match self.apps.binary_search_by_key(&app, |(app, _)| *app) {
            Ok(at) => &self.apps[at].1,
            Err(_) => &[],
        }
    }
}

/// All words of an app that do the same in the same scope.
#[derive(Clone, Debug)]
struct List {
    action: Action,
    scope: Scope,
    automaton: AhoCorasick,
    /// By the automaton's numbers.
    words: Vec<Box<str>>,
}

impl List {
    fn new(action: Action, scope: Scope, words: &[&str]) -> Self {
        // The other kinds are either slow or take up to a kilobyte for each byte of a word.
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(words)
            .expect("so few words fit its numbers");
        let words = words.iter().map(|&word| word.into()).collect();
        Self { action, scope, automaton, words }
    }

    fn first(&self, payload: &[u8]) -> Option<&str> {
        let found = self.automaton.find(payload)?;
        Some(&self.words[found.pattern().as_usize()])
    }
}

impl Scope {
    fn covers(&self, what: What) -> bool {
        match (what, &self.categories) {
            (What::Uplink, _) => self.uplinks,
            (What::Category(_), None) => true,
            (What::Category(id), Some(categories)) => categories.binary_search(&id).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYWHERE: Scope = Scope { categories: None, uplinks: true };

    fn list(app: u32, action: Action, scope: Scope, words: &[&str]) -> WordList {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        WordList { app, action, scope, words }
    }

    fn say(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Pass => "pass".to_owned(),
            Verdict::Flag { word } => format!("flag {word}"),
            Verdict::Reject { word } => format!("reject {word}"),
            Verdict::Mask { payload, flagged: None } => format!("mask {}", payload.escape_ascii()),
            Verdict::Mask { payload, flagged: Some(word) } => {
                format!("mask {} flag {word}", payload.escape_ascii())
            }
        }
    }

    #[test]
    fn words_are_found_and_the_strictest_list_wins() {
        let filter = Filter::new(vec![
            list(1, Action::Flag, EVERYWHERE, &["spy", "bad"]),
            list(1, Action::Mask, EVERYWHERE, &["bad", "badge", "笨蛋"]),
            list(1, Action::Mask, EVERYWHERE, &["gel"]),
            list(1, Action::Reject, EVERYWHERE, &["worst"]),
        ]);
        let check = |payload: &[u8], says: &str| {
            let verdict = filter.check(1, What::Uplink, payload);
            assert_eq!(say(&verdict), says, "{}", payload.escape_ascii());
        };
        check(b"", "pass");
        check(b"hello", "pass");
        check(b"i spy", "flag spy");
        check(b"BaD", "mask *** flag bad");
        // Of words that begin at the same place the longest counts, and words do not overlap.
        check(b"badge", "mask ***** flag bad");
        check(b"badgel", "mask *****l flag bad");
        check(b"a gel", "mask a ***");
        check(b"bad worst bad", "reject worst");
        check(b"WORST", "reject worst");
        check("你笨蛋!".as_bytes(), "mask \\xe4\\xbd\\xa0******!");
        check(b"\xff\x00gel\x80\xe7", "mask \\xff\\x00***\\x80\\xe7");
        // A piece of a character is not one.
        check(&"笨蛋".as_bytes()[..5], "pass");
    }

    #[test]
    fn lists_look_only_where_they_should() {
        let scope =
            |categories: &[u16], uplinks| Scope { categories: Some(categories.to_vec()), uplinks };
        let filter = Filter::new(vec![
            list(1, Action::Reject, scope(&[5, 4, 5], false), &["chat"]),
            list(1, Action::Reject, scope(&[4, 5], false), &["talk"]),
            list(1, Action::Reject, scope(&[], true), &["ask"]),
            list(1, Action::Reject, Scope { categories: None, uplinks: false }, &["any"]),
            list(2, Action::Reject, EVERYWHERE, &["two"]),
            list(3, Action::Reject, EVERYWHERE, &[]),
        ]);
        let text = b"chat talk ask any two";
        let check = |app, what, says| {
            assert_eq!(say(&filter.check(app, what, text)), says, "{app} {what:?}");
        };
        check(1, What::Category(4), "reject any");
        check(1, What::Category(6), "reject any");
        check(1, What::Uplink, "reject ask");
        check(2, What::Uplink, "reject two");
        check(2, What::Category(0), "reject two");
        check(3, What::Uplink, "pass");
        check(0, What::Uplink, "pass");
        let rejects = |text: &[u8], what| say(&filter.check(1, what, text));
        assert_eq!(rejects(b"talk", What::Category(5)), "reject talk");
        assert_eq!(rejects(b"chat", What::Category(4)), "reject chat");
        assert_eq!(rejects(b"talk chat", What::Category(6)), "pass");
        let lists: Vec<usize> = filter.apps.iter().map(|(_, lists)| lists.len()).collect();
        assert_eq!(lists, [3, 1], "lists that do the same are one, empty ones none");
    }

    /// Every text of up to six letters, for lists whose words overlap in every way.
    #[test]
    fn masking_keeps_length_and_utf8_and_is_done_once() {
        let letters = ["a", "b", "é", "è", "*"];
        let lists: [&[&[&str]]; 6] = [
            &[&["a"]],
            &[&["ab", "ba"]],
            &[&["aba"], &["b"]],
            &[&["é", "aé", "éab"]],
            &[&["a", "ab", "abè"], &["èé"], &["bb"]],
            &[&["aa", "aaa"], &["ba", "éa"]],
        ];
        for lists in lists {
            let lists: Vec<WordList> = (0u16..)
                .zip(lists)
                // The scopes differ, so that these stay separate lists.
                .map(|(id, words)| {
                    let scope = Scope { categories: Some(vec![1, 2 + id]), uplinks: false };
                    list(1, Action::Mask, scope, words)
                })
                .collect();
            let filter = Filter::new(lists.clone());
            for text in texts(&letters, 6) {
                let verdict = filter.check(1, What::Category(1), text.as_bytes());
                let has_word = lists.iter().flat_map(|list| &list.words).any(|w| text.contains(w));
                let Verdict::Mask { payload, flagged: None } = verdict else {
                    assert_eq!((verdict, has_word), (Verdict::Pass, false), "{text}");
                    continue;
                };
                assert!(has_word, "{text}");
                assert_eq!(payload.len(), text.len(), "{text}");
                let masked = str::from_utf8(&payload).expect("still UTF-8");
                let changed = |(a, b): (u8, u8)| a == b || b == MASK;
                assert!(text.bytes().zip(payload.iter().copied()).all(changed), "{text}");
                let again = filter.check(1, What::Category(1), masked.as_bytes());
                assert_eq!(again, Verdict::Pass, "{text} became {masked}");
            }
        }
    }

    #[test]
    fn words_that_cannot_be_searched_for_are_refused() {
        let check = |word: &str, action, expected: Option<&str>| {
            let error = check_word(word, action).err();
            let same = match (&error, expected) {
                (Some(error), Some(says)) => error.contains(says),
                (error, says) => error.is_none() && says.is_none(),
            };
            assert!(same, "{word:?} {action:?}: {error:?}, not {expected:?}");
        };
        check("fine", Action::Mask, None);
        check("f*ne", Action::Reject, None);
        check("f*ne", Action::Flag, None);
        check("f*ne", Action::Mask, Some("has a `*`"));
        check("", Action::Flag, Some("empty word"));
        check(" \t", Action::Flag, Some("empty word"));
        check(&"x".repeat(WORD_BYTES_MAX), Action::Mask, None);
        check(&"é".repeat(65), Action::Mask, Some("has 130 bytes; at most 128"));
    }

    #[test]
    fn the_longest_lists_take_memory_in_proportion() {
        // Words that share no beginning are the worst case: a state for each byte.
        let words: Vec<String> =
            (0..WORDS_BYTES_MAX / 64).map(|number| format!("{number:06x}").repeat(10)).collect();
        let bytes: usize = words.iter().map(String::len).sum();
        let filter =
            Filter::new(vec![WordList { app: 1, action: Action::Mask, scope: EVERYWHERE, words }]);
        let each = filter.memory_bytes() / bytes;
        assert!((1..=32).contains(&each), "{each} bytes for each byte of a word");
    }

    fn texts(letters: &[&str], length: u32) -> impl Iterator<Item = String> {
        let count = letters.len();
        (0..=length).flat_map(move |length| {
            (0..count.pow(length)).map(move |number| {
                (0..length).map(|at| letters[number / count.pow(at) % count]).collect()
            })
        })
    }
}
