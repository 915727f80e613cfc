//! One TCP connection between a leader and an agent: words behind their lengths.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::agent::words::Word;
use crate::clock::now_ns;

/// Bytes of a word from somebody who has proved nothing yet.
pub const STRANGER_BYTES_MAX: usize = 4096;
/// Bytes of a word: the last numbers of a million rooms, or the histograms of a second.
pub const WORD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The length in front of a word.
const LENGTH_BYTES: usize = 4;
/// How long one read waits.
const POLL: Duration = Duration::from_millis(100);
/// How long the other side may leave no room for what is said to it.
pub const WRITE_MAX: Duration = Duration::from_secs(4);
/// How long one who expects an answer stays awake for it. To wake up takes longer than the way over
/// a quick network, and would make a clock's error look larger than it is.
const AWAKE_NS: u64 = 100_000;
const READ_BYTES: usize = 64 * 1024;

/// Both ends of a connection.
pub fn open(stream: TcpStream) -> Result<(Reader, Writer)> {
    stream.set_nodelay(true).context("cannot send at once")?;
    stream.set_read_timeout(Some(POLL))?;
    stream.set_write_timeout(Some(WRITE_MAX))?;
    let reading = stream.try_clone().context("cannot share the connection")?;
    let now_ns = now_ns();
    let reader = Reader {
        stream: reading,
        read: vec![0; READ_BYTES],
        buffer: Vec::new(),
        taken: 0,
        bytes_max: STRANGER_BYTES_MAX,
        heard_ns: now_ns,
    };
    Ok((reader, Writer(Arc::new(Mutex::new(stream)))))
}

/// What comes.
pub struct Reader {
    stream: TcpStream,
    /// Where one read goes; nothing is to be done between hearing and knowing when.
    read: Vec<u8>,
    buffer: Vec<u8>,
    /// Bytes of the buffer that belong to words that were told already.
    taken: usize,
    bytes_max: usize,
    heard_ns: u64,
}

impl Reader {
    /// The other side is known now, and may say long words.
    pub fn trust(&mut self) {
        self.bytes_max = WORD_BYTES_MAX;
    }

    /// When anything has come last.
    pub fn heard_ns(&self) -> u64 {
        self.heard_ns
    }

    /// The next word; none when nothing came for a moment.
    pub fn hear(&mut self) -> Result<Option<Word>> {
        if let Some(word) = self.take()? {
            return Ok(Some(word));
        }
        self.buffer.drain(..std::mem::take(&mut self.taken));
        match self.stream.read(&mut self.read) {
            Ok(0) => bail!("the connection was closed"),
            Ok(length) => {
                self.heard_ns = now_ns();
                self.buffer.extend_from_slice(&self.read[..length]);
            }
            Err(error) if is_nothing(&error) => {}
            Err(error) => return Err(error).context("the connection has failed"),
        }
        self.take()
    }

    /// The same when something is expected at once.
    pub fn hear_awake(&mut self) -> Result<Option<Word>> {
        if let Some(word) = self.take()? {
            return Ok(Some(word));
        }
        let until_ns = now_ns() + AWAKE_NS;
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        // Whatever else is to be said of the connection, reading from it says.
        while recv(&self.stream, &mut byte, flags) == Err(Errno::AGAIN) && now_ns() < until_ns {
            // The other side may be on the same core.
            rustix::thread::sched_yield();
        }
        self.hear()
    }

    /// The next word, which must come within `within`.
    pub fn expect(&mut self, within: Duration) -> Result<Word> {
        let until_ns = now_ns() + within.as_nanos() as u64;
        let mut heard = self.hear_awake()?;
        loop {
            if let Some(word) = heard {
                return Ok(word);
            }
            if now_ns() > until_ns {
                bail!("nothing was heard for {} s", within.as_secs());
            }
            heard = self.hear()?;
        }
    }

    fn take(&mut self) -> Result<Option<Word>> {
        let bytes = &self.buffer[self.taken..];
        let Some((head, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > self.bytes_max {
            bail!("a word of {length} bytes was announced, and at most {} fit", self.bytes_max);
        }
        let Some(text) = rest.get(..length) else { return Ok(None) };
        let word = serde_json::from_slice(text).context("what was said is no word")?;
        self.taken += LENGTH_BYTES + length;
        Ok(Some(word))
    }
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// What is said. Several threads may say something.
#[derive(Clone)]
pub struct Writer(Arc<Mutex<TcpStream>>);

impl Writer {
    /// Says a word. After an error nothing more can be said.
    pub fn say(&self, word: &Word) -> Result<()> {
        let mut bytes = vec![0; LENGTH_BYTES];
        serde_json::to_writer(&mut bytes, word).context("a word cannot be written")?;
        let length = bytes.len() - LENGTH_BYTES;
        if length > WORD_BYTES_MAX {
            bail!("a word of {length} bytes is longer than {WORD_BYTES_MAX}");
        }
        bytes[..LENGTH_BYTES].copy_from_slice(&(length as u32).to_le_bytes());
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = stream.write_all(&bytes);
        if written.is_err() {
            // A part of a word may have gone out; whatever followed it would be misread.
            let _ = stream.shutdown(Shutdown::Both);
        }
        written.context("the connection has failed")
    }

    /// This side's address.
    pub fn local_address(&self) -> Result<SocketAddr> {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.local_addr().context("the connection has no address")
    }

    /// Ends the connection in both directions.
    pub fn close(&self) {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, Reader, Writer) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let raw = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (reader, writer) = open(listener.accept().unwrap().0).unwrap();
        (raw, reader, writer)
    }

    #[test]
    fn words_arrive_whole_however_the_bytes_do() {
        let (mut raw, mut reader, _writer) = pair();
        let mut bytes = Vec::new();
        for text in [&br#"{"ping":{"sent_ns":7}}"#[..], &br#""ramped""#[..]] {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            bytes.extend_from_slice(text);
        }
        raw.write_all(&bytes[..10]).unwrap();
        assert!(reader.hear().unwrap().is_none(), "half a word is none");
        raw.write_all(&bytes[10..]).unwrap();
        let first = reader.expect(Duration::from_secs(5)).unwrap();
        assert!(matches!(first, Word::Ping { sent_ns: 7 }), "{first:?}");
        let second = reader.expect(Duration::from_secs(5)).unwrap();
        assert!(matches!(second, Word::Ramped), "{second:?}");
        drop(raw);
        let error = reader.expect(Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("closed"), "{error}");
    }

    #[test]
    fn a_stranger_can_neither_announce_a_long_word_nor_say_nonsense() {
        let (mut raw, mut reader, _writer) = pair();
        raw.write_all(&u32::MAX.to_le_bytes()).unwrap();
        let error = reader.expect(Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("at most 4096 fit"), "{error}");

        let (mut raw, mut reader, _writer) = pair();
        raw.write_all(b"\x02\0\0\0{]").unwrap();
        let error = reader.expect(Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("no word"), "{error}");
    }
}
