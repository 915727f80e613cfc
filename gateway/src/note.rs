//! What is on disk beside the history: inboxes, and who may not speak. Each is a small key and a
//! value that begins with its version.

use barrage_router::{AppId, Class, InboxDevice, InboxMessage, Millis, Order, UserId, UserKey};
use bytes::Bytes;

use crate::limits::DEVICE_GRACE_MS;

/// The space of messages in inboxes.
pub const NOTE_MESSAGE: u8 = 1;
/// The space of users' devices.
pub const NOTE_DEVICE: u8 = 2;
/// The space of bans and mutes.
pub const NOTE_ORDER: u8 = 3;

const VERSION: u8 = 1;
/// In place of a part of a list.
const NO_PART: u32 = u32::MAX;

/// A message that waits in an inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageNote {
    category: u16,
    class: Class,
    kind: u16,
    expires_ms: u64,
    /// 0: none.
    pub idempotency_key: u128,
    /// The key is of a message for a list of users, or of this part of it.
    pub part: Option<u32>,
    payload: Bytes,
}

/// How far a device has ACKed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceNote {
    /// The last message that it has.
    pub acked: u64,
    /// When it is forgotten, in milliseconds since 1970.
    pub until_ms: u64,
}

/// The same note with its moment so much later; None when it has none. For those that were dated by a
/// clock that was so much behind.
pub fn redate(space: u8, key: &[u8], value: &[u8], by_ms: u64) -> Option<Vec<u8>> {
    match space {
        NOTE_MESSAGE => {
            let mut note = MessageNote::read(value)?;
            note.expires_ms = note.expires_ms.saturating_add(by_ms);
            Some(note.to_vec())
        }
        NOTE_DEVICE => {
            let mut note = DeviceNote::read(value)?;
            note.until_ms = note.until_ms.saturating_add(by_ms);
            Some(note.to_vec())
        }
        NOTE_ORDER => {
            let mut order = Order::read(key, value)?;
            let (Order::Ban { until_ms, .. } | Order::Mute { until_ms, .. }) = &mut order;
            // One that never ends stays the last moment; one that is lifted is on its way out.
            *until_ms = if *until_ms == 0 { 0 } else { until_ms.saturating_add(by_ms) };
            Some(order.value())
        }
        _ => None,
    }
}

/// The user and the number that a key names.
pub fn read_key(key: &[u8]) -> Option<(UserKey, u64)> {
    let (app, rest) = key.split_first_chunk()?;
    let (user, rest) = rest.split_first_chunk()?;
    let number = <[u8; 8]>::try_from(rest).ok()?;
    let user =
        UserKey { app: AppId(u32::from_be_bytes(*app)), user: UserId(u64::from_be_bytes(*user)) };
    Some((user, u64::from_be_bytes(number)))
}

fn key(user: UserKey, number: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&user.app.0.to_be_bytes());
    key[4..12].copy_from_slice(&user.user.0.to_be_bytes());
    key[12..].copy_from_slice(&number.to_be_bytes());
    key
}

impl MessageNote {
    /// Of a message in an inbox, with its expiry in milliseconds since 1970.
    pub fn new(
        message: &InboxMessage,
        expires_ms: u64,
        idempotency_key: u128,
        part: Option<u32>,
    ) -> Self {
        let InboxMessage { category, class, kind, payload, .. } = message.clone();
        Self { category, class, kind, expires_ms, idempotency_key, part, payload }
    }

    /// Where it is.
    pub fn key(user: UserKey, seq: u64) -> [u8; 20] {
        key(user, seq)
    }

    /// As bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.class.index() as u8];
        out.extend_from_slice(&self.part.unwrap_or(NO_PART).to_le_bytes());
        out.extend_from_slice(&self.category.to_le_bytes());
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.expires_ms.to_le_bytes());
        out.extend_from_slice(&self.idempotency_key.to_le_bytes());
        out.extend_from_slice(&self.payload);
        out
    }

    /// From bytes; None when they are not a note of this version.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (&[version, class], rest) = bytes.split_first_chunk()?;
        let (part, rest) = rest.split_first_chunk()?;
        let part = u32::from_le_bytes(*part);
        let (category, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first_chunk()?;
        let (expires_ms, rest) = rest.split_first_chunk()?;
        let (idempotency_key, payload) = rest.split_first_chunk()?;
        let class = *Class::ALL.get(usize::from(class))?;
        (version == VERSION).then(|| Self {
            category: u16::from_le_bytes(*category),
            class,
            kind: u16::from_le_bytes(*kind),
            expires_ms: u64::from_le_bytes(*expires_ms),
            idempotency_key: u128::from_le_bytes(*idempotency_key),
            part: (part != NO_PART).then_some(part),
            payload: Bytes::copy_from_slice(payload),
        })
    }

    /// The message again, on a clock that began `unix_ms` after 1970.
    pub fn message(self, seq: u64, unix_ms: u64) -> InboxMessage {
        let Self { category, class, kind, expires_ms, payload, .. } = self;
        let expires = Millis(expires_ms.saturating_sub(unix_ms));
        InboxMessage { seq, category, class, kind, payload, expires }
    }
}

impl DeviceNote {
    /// Where it is.
    pub fn key(user: UserKey, device: u64) -> [u8; 20] {
        key(user, device)
    }

    /// As bytes.
    pub fn to_vec(self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.acked.to_le_bytes());
        out.extend_from_slice(&self.until_ms.to_le_bytes());
        out
    }

    /// From bytes; None when they are not a note of this version.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (&[version], rest) = bytes.split_first_chunk()?;
        let (acked, rest) = rest.split_first_chunk()?;
        let until_ms = <[u8; 8]>::try_from(rest).ok()?;
        let (acked, until_ms) = (u64::from_le_bytes(*acked), u64::from_le_bytes(until_ms));
        (version == VERSION).then_some(Self { acked, until_ms })
    }

    /// The device again, on a clock that began `unix_ms` after 1970.
    pub fn device(self, device: u64, unix_ms: u64) -> InboxDevice {
        let until = Millis(self.until_ms.saturating_sub(unix_ms).max(DEVICE_GRACE_MS));
        InboxDevice { device, acked: self.acked, until }
    }
}

#[cfg(test)]
mod tests {
    use barrage_router::UNTIL_FOREVER;

    use super::*;

    #[test]
    fn what_was_dated_too_early_is_dated_later() {
        let user = UserKey { app: AppId(1), user: UserId(2) };
        let check = |until_ms, later_ms| {
            let order = |until_ms| Order::Ban { user, until_ms, text: "no".into() };
            let order = (order(until_ms), order(later_ms));
            let value = redate(NOTE_ORDER, &order.0.key(), &order.0.value(), 10);
            assert_eq!(value, Some(order.1.value()), "{until_ms}");
        };
        check(0, 0);
        check(5, 15);
        check(UNTIL_FOREVER, UNTIL_FOREVER);
        let device = DeviceNote { acked: 5, until_ms: 6 };
        let later = redate(NOTE_DEVICE, b"", &device.to_vec(), 10).unwrap();
        assert_eq!(DeviceNote::read(&later), Some(DeviceNote { acked: 5, until_ms: 16 }));
        let note = [&[VERSION, 0][..], &[255; 4], &[0; 4], &7u64.to_le_bytes(), &[0; 16]].concat();
        let later = redate(NOTE_MESSAGE, b"", &note, 10).unwrap();
        assert_eq!(MessageNote::read(&later).map(|note| note.expires_ms), Some(17));
        assert_eq!(redate(NOTE_ORDER, b"", b"", 10), None);
        assert_eq!(redate(9, b"", &note, 10), None);
    }

    #[test]
    fn notes_come_back_as_they_were_and_garbage_does_not() {
        let note = MessageNote {
            category: 3,
            class: Class::P1,
            kind: 9,
            expires_ms: u64::MAX,
            idempotency_key: 7,
            part: Some(3),
            payload: Bytes::from_static(b"hello"),
        };
        let bytes = note.to_vec();
        assert_eq!(MessageNote::read(&bytes), Some(note.clone()));
        let empty = bytes.len() - note.payload.len();
        for cut in 0..empty {
            assert_eq!(MessageNote::read(&bytes[..cut]), None, "{cut} bytes");
        }
        let device = DeviceNote { acked: 5, until_ms: 6 };
        let bytes = device.to_vec();
        assert_eq!(DeviceNote::read(&bytes), Some(device));
        for cut in 0..bytes.len() {
            assert_eq!(DeviceNote::read(&bytes[..cut]), None, "{cut} bytes");
        }
        let user = UserKey { app: AppId(1), user: UserId(u64::MAX) };
        assert_eq!(read_key(&key(user, 42)), Some((user, 42)));
        assert_eq!(read_key(b"short"), None);
    }
}
