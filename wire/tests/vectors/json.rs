//! How fields are written in the file: integers that a double cannot hold and all 64-bit ones as
//! decimal strings, bytes as hex, lists as arrays, records as objects, codes as their number.

use barrage_wire::client::{Cursor, Platform};
use barrage_wire::codec::{Field, List, Tail, Text};
use barrage_wire::server::{CloseReason, Code};
use barrage_wire::upstream::{AckMode, EventKind, PublishHead, PublishReply};
use serde_json::{Value, json};

pub trait Json {
    /// The type's name, as in PROTOCOL.md.
    fn type_name() -> String;
    fn json(&self) -> Value;
}

macro_rules! numbers {
    ($($int:ty => $json:expr),* $(,)?) => {$(
        impl Json for $int {
            fn type_name() -> String {
                stringify!($int).into()
            }
            fn json(&self) -> Value {
                $json(*self)
            }
        }
    )*};
}
numbers!(
    u8 => |value| json!(value),
    u16 => |value| json!(value),
    u32 => |value| json!(value),
    u64 => |value: u64| json!(value.to_string()),
    u128 => |value: u128| json!(value.to_string()),
    Platform => |value| json!(value as u8),
    AckMode => |value| json!(value as u8),
    EventKind => |value| json!(value as u8),
    Code => |value| json!(value as u16),
    CloseReason => |value| json!(value as u16),
);

impl<T: Json, const N: usize> Json for [T; N] {
    fn type_name() -> String {
        format!("{}[{N}]", T::type_name())
    }
    fn json(&self) -> Value {
        self.iter().map(Json::json).collect()
    }
}

impl Json for Tail<'_> {
    fn type_name() -> String {
        "tail".into()
    }
    fn json(&self) -> Value {
        json!(hex(self.0))
    }
}

impl<const MAX: usize> Json for Text<'_, MAX> {
    fn type_name() -> String {
        "text".into()
    }
    fn json(&self) -> Value {
        json!(self.0)
    }
}

impl<'a, T: Json + Field<'a> + Copy, const MAX: usize> Json for List<'a, T, MAX> {
    fn type_name() -> String {
        format!("list<{}>", T::type_name())
    }
    fn json(&self) -> Value {
        self.iter().map(|item| item.json()).collect()
    }
}

macro_rules! records {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl Json for $name {
            fn type_name() -> String {
                stringify!($name).into()
            }
            fn json(&self) -> Value {
                let Self { $($field),* } = self;
                json!({ $(stringify!($field): $field.json()),* })
            }
        }
    )*};
}
records! {
    Cursor { room, epoch, seq }
    PublishHead { request, ack, category, kind, ttl_ms, merge_key, idempotency_key }
    PublishReply { request, code, seq }
}

/// One field of a message.
pub fn field<T: Json>(name: &str, value: &T) -> Value {
    json!({ "name": name, "type": T::type_name(), "value": value.json() })
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The file: one line per entry, so that a difference is easy to read.
pub fn document(sections: &[(&str, Vec<Value>)]) -> String {
    let mut text = String::from("{\n\"version\": 1");
    for (name, entries) in sections {
        let lines: Vec<String> = entries.iter().map(Value::to_string).collect();
        text += &format!(",\n\"{name}\": [\n{}\n]", lines.join(",\n"));
    }
    text + "\n}\n"
}
