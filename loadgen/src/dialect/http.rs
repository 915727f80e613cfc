//! Answers to HTTP requests, as far as they have to be understood: where each ends, and whether it
//! says that all went well.

use super::{FRAME_BYTES_MAX, Fault, too_long};

/// Headers of an answer.
const HEADERS_MAX: usize = 64;
/// Line end behind a chunk.
const LINE_END_BYTES: usize = 2;

/// Appends a request that publishes `payload`.
pub(super) fn post(host: &str, path: &str, payload: &[u8], out: &mut Vec<u8>) {
    let length = payload.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(payload);
}

/// An answer without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Response {
    /// Its length with its body.
    pub whole: usize,
    /// Its code.
    pub status: u16,
    /// The server closes the connection after it.
    pub last: bool,
}

/// How an answer's body ends.
enum Body {
    Bytes(usize),
    Chunks,
    /// With the connection.
    Open,
}

/// Reads the answer that starts `bytes`; nothing while it is not all there.
pub(super) fn response(bytes: &[u8]) -> Result<Option<Response>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() <= FRAME_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(too_long("an HTTP answer", bytes.len())),
        Err(error) => return Err(format!("the server does not speak HTTP: {error}")),
    };
    let status = parsed.code.unwrap_or_default();
    let value = |name: &str| {
        let header = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| header.value.trim_ascii())
    };
    let last = value("Connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    let chunked =
        value("Transfer-Encoding").is_some_and(|value| value.eq_ignore_ascii_case(b"chunked"));
    let body = match (status, chunked, value("Content-Length")) {
        (100..=199 | 204 | 304, _, _) => Body::Bytes(0),
        (_, true, _) => Body::Chunks,
        (_, false, Some(length)) => Body::Bytes(
            super::nats::number(length)
                .ok_or_else(|| "the server sends an HTTP answer without a length".to_owned())?,
        ),
        (_, false, None) => Body::Open,
    };
    let whole = match body {
        Body::Bytes(length) => head + length,
        Body::Chunks => match chunks(&bytes[head..])? {
            Some(length) => head + length,
            None if bytes.len() > FRAME_BYTES_MAX => {
                return Err(too_long("an HTTP answer", bytes.len()));
            }
            None => return Ok(None),
        },
        Body::Open => return Ok(Some(Response { whole: head, status, last: true })),
    };
    match whole {
        too_much if too_much > FRAME_BYTES_MAX => Err(too_long("an HTTP answer", too_much)),
        whole if whole > bytes.len() => Ok(None),
        whole => Ok(Some(Response { whole, status, last })),
    }
}

/// The length of a body in chunks; nothing while it is not all there.
fn chunks(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let mut at = 0;
    loop {
        let (head, size) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err("the server sends an HTTP answer in bad chunks".to_owned()),
        };
        let size = match usize::try_from(size) {
            Ok(size) if size <= FRAME_BYTES_MAX => size,
            _ => return Err(format!("the server sends an HTTP chunk of {size} bytes")),
        };
        at += head + size + LINE_END_BYTES;
        match (at > bytes.len(), size) {
            (true, _) => return Ok(None),
            (false, 0) => return Ok(Some(at)),
            (false, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_last_byte_and_not_before() {
        let check = |text: &str, status, last| {
            let bytes = text.as_bytes();
            for length in 0..bytes.len() {
                assert_eq!(response(&bytes[..length]), Ok(None), "{length} bytes of {text}");
            }
            let whole = Some(Response { whole: bytes.len(), status, last });
            assert_eq!(response(&[bytes, b"HTTP/1.1 200 OK"].concat()), Ok(whole), "{text}");
        };
        check("HTTP/1.1 202 Accepted\r\ncontent-length: 3\r\n\r\nabc", 202, false);
        check("HTTP/1.1 204 No Content\r\nConnection: keep-alive\r\n\r\n", 204, false);
        check("HTTP/1.1 500 No\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", 500, true);
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            200,
            false,
        );
    }

    #[test]
    fn what_has_no_end_is_a_fault() {
        let check = |text: &str| assert!(response(text.as_bytes()).is_err(), "{text}");
        check("garbage\r\n\r\n");
        check("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n");
        check("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n");
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n");
    }
}
