//! WebSocket as it should be: the handshake, and frames in every form.

use barrage_wire::ClientFrame;
use barrage_wire::fuzz::{Event, events};
use barrage_wire::ws::{
    Opcode, Role, parse_request, parse_response, put_close, put_frame, put_masked, put_ping,
    put_pong, server_header, write_request, write_response,
};
use serde_json::{Value, json};

use super::json::hex;

/// The key of RFC 6455, section 1.3.
const KEY: [u8; 16] = *b"the sample nonce";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub fn good() -> Vec<Value> {
    let mut ours = Vec::new();
    write_request("localhost:7001", "/", KEY, &mut ours);
    let ours = String::from_utf8(ours).unwrap();
    let browser = "GET /live HTTP/1.1\r\nhost: example.com\r\nupgrade: WebSocket\r\n\
         connection: keep-alive, Upgrade\r\norigin: https://example.com\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-extensions: permessage-deflate\r\n\r\n";
    [("with the subprotocol", ours.as_str()), ("a browser without the subprotocol", browser)]
        .into_iter()
        .map(|(name, request)| {
            let parsed = parse_request(request.as_bytes()).unwrap().unwrap();
            assert_eq!(parsed.consumed, request.len());
            assert_eq!(parsed.accept.as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            let mut response = Vec::new();
            write_response(&parsed, &mut response);
            assert_eq!(parse_response(&response, KEY), Ok(Some(response.len())));
            let response = String::from_utf8(response).unwrap();
            json!({ "name": name, "key": hex(&KEY), "request": request, "response": response })
        })
        .collect()
}

pub fn frames() -> Vec<Value> {
    let ping = ClientFrame::Ping { nonce: 1 }.to_vec();
    let long = ClientFrame::Publish {
        request: 1,
        alias: 1,
        category: 3,
        kind: 0,
        payload: barrage_wire::Tail(&[b'x'; 120]),
    }
    .to_vec();
    let two = [&ping[..], &long[..]].concat();
    let message = |bytes: &[u8]| Event::Message(bytes.to_vec());
    vec![
        vector("one frame in one message", Role::Server, vec![message(&ping)], |out| {
            put_masked(out, MASK, &ping);
        }),
        vector("a length in two bytes", Role::Server, vec![message(&long)], |out| {
            put_masked(out, MASK, &long);
        }),
        vector("two frames in one message", Role::Server, vec![message(&two)], |out| {
            put_masked(out, MASK, &two);
        }),
        vector(
            "a message in three fragments with a ping inside",
            Role::Server,
            vec![Event::Ping(b"hi".to_vec()), message(&ping)],
            |out| {
                put_frame(out, Opcode::Binary, false, Some(MASK), &ping[..5]);
                put_ping(out, Some([1, 2, 3, 4]), b"hi");
                put_frame(out, Opcode::Continuation, false, Some([9; 4]), &[]);
                put_frame(out, Opcode::Continuation, true, Some([5, 6, 7, 8]), &ping[5..]);
            },
        ),
        vector("an empty message", Role::Server, vec![message(&[])], |out| {
            put_masked(out, MASK, &[]);
        }),
        vector("a client's close", Role::Server, vec![Event::Close(1000)], |out| {
            put_close(out, Some(MASK), 1000, "bye");
        }),
        vector("a close without a code", Role::Server, vec![Event::Close(1005)], |out| {
            put_close(out, Some(MASK), 1005, "");
        }),
        vector("the server's message", Role::Client, vec![message(&long)], |out| {
            let (header, used) = server_header(long.len());
            out.extend_from_slice(&header[..used]);
            out.extend_from_slice(&long);
        }),
        vector(
            "the server's pong and close",
            Role::Client,
            vec![Event::Pong, Event::Close(1012)],
            |out| {
                put_pong(out, None, b"hi");
                put_close(out, None, 1012, "restart");
            },
        ),
    ]
}

fn vector(
    name: &str,
    reader: Role,
    expected: Vec<Event>,
    write: impl FnOnce(&mut Vec<u8>),
) -> Value {
    let mut bytes = Vec::new();
    write(&mut bytes);
    for step in [usize::MAX, 1, 3] {
        assert_eq!(events(reader, &bytes, |_| step), (expected.clone(), None), "{name}");
    }
    let expected: Vec<Value> = expected.iter().map(event_json).collect();
    json!({ "name": name, "reader": role_name(reader), "hex": hex(&bytes), "events": expected })
}

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Server => "server",
        Role::Client => "client",
    }
}

fn event_json(event: &Event) -> Value {
    match event {
        Event::Message(bytes) => json!({ "message": hex(bytes) }),
        Event::Ping(bytes) => json!({ "ping": hex(bytes) }),
        Event::Pong => json!({ "pong": null }),
        Event::Close(code) => json!({ "close": code }),
    }
}
