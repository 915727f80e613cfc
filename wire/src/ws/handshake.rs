//! The HTTP upgrade that begins a WebSocket connection.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest as _, Sha1};
use thiserror::Error;

use crate::limits::{WS_HANDSHAKE_BYTES_MAX, WS_HANDSHAKE_HEADERS_MAX};

/// The subprotocol's name. A client that offers it gets it; one that offers none is served as well.
pub const SUBPROTOCOL: &str = "barrage.v1";

/// What RFC 6455 appends to the key, so that no other kind of server answers right by chance.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Base64 of the 16 bytes of a key.
const KEY_TEXT_BYTES: usize = 24;

/// The value of `Sec-WebSocket-Accept`: proof that the server has read the client's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept([u8; 28]);

impl Accept {
    /// The answer to a key, given as it travels.
    fn to_key(key: &[u8; KEY_TEXT_BYTES]) -> Self {
        let digest: [u8; 20] =
            Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize().into();
        let mut text = [0; 28];
        let used = BASE64.encode_slice(digest, &mut text);
        assert_eq!(used, Ok(text.len()), "20 bytes are 28 characters");
        Self(text)
    }

    /// The header's value.
    pub fn as_bytes(&self) -> &[u8; 28] {
        &self.0
    }
}

/// A client's request that can be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Length of the request; frames follow it.
    pub consumed: usize,
    /// The proof to answer with.
    pub accept: Accept,
    /// Whether the client offers `SUBPROTOCOL`, which is then selected.
    pub subprotocol: bool,
}

/// Why a handshake fails.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum HandshakeError {
    /// Not HTTP.
    #[error("not an HTTP request; open a WebSocket here, raw TCP has its own port")]
    Malformed,
    /// The head does not end within the limit.
    #[error("request head over {WS_HANDSHAKE_BYTES_MAX} bytes; send fewer or shorter headers")]
    HeadTooLong,
    /// More headers than the limit.
    #[error("more than {WS_HANDSHAKE_HEADERS_MAX} headers; send fewer")]
    TooManyHeaders,
    /// A method other than GET.
    #[error("a WebSocket opens with GET")]
    Method,
    /// HTTP/1.0.
    #[error("a WebSocket opens with HTTP/1.1; a proxy in between must speak it, too")]
    HttpVersion,
    /// No `Upgrade: websocket`.
    #[error("this port serves WebSocket only; send Upgrade: websocket")]
    Upgrade,
    /// No `Connection: Upgrade`.
    #[error("send Connection: Upgrade; a proxy in between may have removed it")]
    Connection,
    /// Another version of WebSocket.
    #[error("send Sec-WebSocket-Version: 13")]
    Version,
    /// No key, several, or not base64 of 16 bytes.
    #[error("send one Sec-WebSocket-Key, base64 of 16 bytes")]
    Key,
    /// The server answers with another status than 101.
    #[error("the server answers with HTTP status {0} instead of 101")]
    Status(u16),
    /// The server's proof is missing or wrong.
    #[error("the server's Sec-WebSocket-Accept does not match the key")]
    Accept,
    /// The server selects a subprotocol or extension that was not offered.
    #[error("the server selects what was not offered")]
    NotOffered,
}

impl HandshakeError {
    /// The status line and further headers of the refusal.
    fn status(self) -> &'static str {
        match self {
            Self::Malformed
            | Self::HttpVersion
            | Self::Connection
            | Self::Key
            | Self::Status(_)
            | Self::Accept
            | Self::NotOffered => "400 Bad Request",
            Self::Method => "405 Method Not Allowed\r\nAllow: GET",
            Self::Upgrade | Self::Version => {
                "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13"
            }
            Self::HeadTooLong | Self::TooManyHeaders => "431 Request Header Fields Too Large",
        }
    }
}

/// Reads a client's request; `None` while its head is incomplete.
pub fn parse_request(bytes: &[u8]) -> Result<Option<Request>, HandshakeError> {
    let mut headers = [httparse::EMPTY_HEADER; WS_HANDSHAKE_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(head(bytes));
    let Some(consumed) = complete(parsed, bytes)? else {
        return Ok(None);
    };
    if request.method != Some("GET") {
        return Err(HandshakeError::Method);
    }
    if request.version != Some(1) {
        return Err(HandshakeError::HttpVersion);
    }
    check_upgrade(request.headers)?;
    if only(request.headers, "Sec-WebSocket-Version") != Some(b"13") {
        return Err(HandshakeError::Version);
    }
    let key = only(request.headers, "Sec-WebSocket-Key").and_then(|key| key.try_into().ok());
    let key: &[u8; KEY_TEXT_BYTES] = key.ok_or(HandshakeError::Key)?;
    // The decoder asks for room for whole groups of three bytes.
    if BASE64.decode_slice(key, &mut [0; 18]) != Ok(16) {
        return Err(HandshakeError::Key);
    }
    let subprotocol = lists(request.headers, "Sec-WebSocket-Protocol", |offered| {
        offered == SUBPROTOCOL.as_bytes()
    });
    Ok(Some(Request { consumed, accept: Accept::to_key(key), subprotocol }))
}

/// Appends the answer that grants `request`.
pub fn write_response(request: &Request, out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: ",
    );
    out.extend_from_slice(request.accept.as_bytes());
    if request.subprotocol {
        out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
        out.extend_from_slice(SUBPROTOCOL.as_bytes());
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Appends the answer that refuses a request and says what to do about it.
pub fn write_refusal(error: &HandshakeError, out: &mut Vec<u8>) {
    let (status, body) = (error.status(), error.to_string());
    let length = body.len() + 1;
    let answer = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\n\r\n{body}\n"
    );
    out.extend_from_slice(answer.as_bytes());
}

/// Appends a client's request. `key` is 16 random bytes, to be given to `parse_response` again.
pub fn write_request(host: &str, path: &str, key: [u8; 16], out: &mut Vec<u8>) {
    for part in ["GET ", path, " HTTP/1.1\r\nHost: ", host] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(
        b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
          Sec-WebSocket-Key: ",
    );
    out.extend_from_slice(&key_text(key));
    out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
    out.extend_from_slice(SUBPROTOCOL.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
}

/// Reads the server's answer: its length, or `None` while it is incomplete. Frames follow it.
pub fn parse_response(bytes: &[u8], key: [u8; 16]) -> Result<Option<usize>, HandshakeError> {
    let mut headers = [httparse::EMPTY_HEADER; WS_HANDSHAKE_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(head(bytes));
    let Some(consumed) = complete(parsed, bytes)? else {
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    if status != 101 {
        return Err(HandshakeError::Status(status));
    }
    check_upgrade(response.headers)?;
    let accept = Accept::to_key(&key_text(key));
    if only(response.headers, "Sec-WebSocket-Accept") != Some(accept.as_bytes()) {
        return Err(HandshakeError::Accept);
    }
    let foreign = lists(response.headers, "Sec-WebSocket-Extensions", |name| !name.is_empty())
        || lists(response.headers, "Sec-WebSocket-Protocol", |name| name != SUBPROTOCOL.as_bytes());
    if foreign { Err(HandshakeError::NotOffered) } else { Ok(Some(consumed)) }
}

/// As much of `bytes` as a head may be long.
fn head(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(WS_HANDSHAKE_BYTES_MAX)]
}

/// The head's length once it has ended; an endless one is refused.
fn complete(
    parsed: httparse::Result<usize>,
    bytes: &[u8],
) -> Result<Option<usize>, HandshakeError> {
    match parsed {
        Ok(httparse::Status::Complete(consumed)) => Ok(Some(consumed)),
        Ok(httparse::Status::Partial) if bytes.len() < WS_HANDSHAKE_BYTES_MAX => Ok(None),
        Ok(httparse::Status::Partial) => Err(HandshakeError::HeadTooLong),
        Err(httparse::Error::TooManyHeaders) => Err(HandshakeError::TooManyHeaders),
        Err(_) => Err(HandshakeError::Malformed),
    }
}

/// Both sides say `Upgrade: websocket` and `Connection: Upgrade`, in any case and among others.
fn check_upgrade(headers: &[httparse::Header<'_>]) -> Result<(), HandshakeError> {
    if !lists(headers, "Upgrade", |item| item.eq_ignore_ascii_case(b"websocket")) {
        return Err(HandshakeError::Upgrade);
    }
    if !lists(headers, "Connection", |item| item.eq_ignore_ascii_case(b"upgrade")) {
        return Err(HandshakeError::Connection);
    }
    Ok(())
}

/// The value of a header that is there exactly once.
fn only<'h>(headers: &[httparse::Header<'h>], name: &str) -> Option<&'h [u8]> {
    let mut values = headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
    match (values.next(), values.next()) {
        (Some(header), None) => Some(header.value.trim_ascii()),
        (Some(_), Some(_)) | (None, _) => None,
    }
}

/// Whether a header's comma-separated list holds an item that is `wanted`. The header may be there
/// several times, which means the same as one with all items.
fn lists(headers: &[httparse::Header<'_>], name: &str, wanted: impl Fn(&[u8]) -> bool) -> bool {
    headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name))
        .flat_map(|header| header.value.split(|&byte| byte == b','))
        .any(|item| wanted(item.trim_ascii()))
}

fn key_text(key: [u8; 16]) -> [u8; KEY_TEXT_BYTES] {
    let mut text = [0; KEY_TEXT_BYTES];
    let used = BASE64.encode_slice(key, &mut text);
    assert_eq!(used, Ok(text.len()), "16 bytes are 24 characters");
    text
}
