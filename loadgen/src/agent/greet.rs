//! How a leader and an agent know each other: both have the same token, and prove it without
//! saying it. Each signs both nonces with it, and what it is, so that no answer can be given back.
//!
//! ```text
//! agent  -> Hello { nonce a }
//! leader -> Greet { nonce l, proof: HMAC-SHA256(token, "leader" a l) }
//! agent  -> Welcome { proof: HMAC-SHA256(token, "agent" a l) }, or Refused
//! ```
//! What follows is neither secret nor signed: it belongs into a network of one's own.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::agent::link::{Reader, Writer};
use crate::agent::words::{
    Hello, NAME_BYTES_MAX, NONCE_BYTES, Nonce, SOURCE_BYTES_MAX, VERSION, Word,
};

/// How long each word of a greeting may take.
const WORD_MAX: Duration = Duration::from_secs(5);

/// Who proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Leader,
    Agent,
}

impl Role {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Leader => b"barrage leader",
            Self::Agent => b"barrage agent",
        }
    }
}

/// The token that was given: itself, or `@FILE` for the first line of a file.
pub fn token(given: &str) -> Result<String> {
    let Some(path) = given.strip_prefix('@') else { return Ok(given.to_owned()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    match text.lines().next().map(str::trim) {
        Some(token) if !token.is_empty() => Ok(token.to_owned()),
        _ => bail!("{path} has no token in its first line"),
    }
}

/// A fresh nonce.
pub fn nonce() -> Result<Nonce> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
    Ok(nonce)
}

/// The agent's side; an error says why the leader is not let in.
pub fn admit(reader: &mut Reader, writer: &Writer, hello: &Hello, token: &str) -> Result<()> {
    writer.say(&Word::Hello(hello.clone()))?;
    let Word::Greet { version, nonce, proof } = reader.expect(WORD_MAX)? else {
        bail!("it said something before it proved itself");
    };
    if version != VERSION {
        writer.say(&Word::Refused)?;
        bail!("it speaks version {version} of the agents' protocol, and this is {VERSION}");
    }
    if !is_proof(&proof, Role::Leader, token, &hello.nonce, &nonce) {
        writer.say(&Word::Refused)?;
        bail!("its token is another");
    }
    let proof = prove(Role::Agent, token, &hello.nonce, &nonce);
    writer.say(&Word::Welcome { proof })?;
    reader.trust();
    Ok(())
}

/// The leader's side; an error says why that agent cannot be had.
pub fn approach(reader: &mut Reader, writer: &Writer, token: &str) -> Result<Hello> {
    let hello = match reader.expect(WORD_MAX)? {
        Word::Hello(hello) => hello,
        Word::Busy => bail!("it is serving another campaign: wait for its end"),
        _ => bail!("it does not greet as an agent does: is that `barrage-loadgen agent`?"),
    };
    if hello.version != VERSION {
        let theirs = hello.version;
        bail!(
            "it speaks version {theirs} of the agents' protocol, and this is {VERSION}: use the \
             same build on both machines"
        );
    }
    check_name(&hello.name)?;
    if hello.cores == 0 {
        bail!("it says that it has no core");
    }
    let own = nonce()?;
    let proof = prove(Role::Leader, token, &hello.nonce, &own);
    writer.say(&Word::Greet { version: VERSION, nonce: own, proof })?;
    match reader.expect(WORD_MAX)? {
        Word::Welcome { proof } if is_proof(&proof, Role::Agent, token, &hello.nonce, &own) => {}
        Word::Welcome { .. } => bail!("it does not know the token: that is no agent of yours"),
        Word::Refused => bail!("it has another token: give --token as the agent was given"),
        Word::Busy => bail!("it is serving another campaign: wait for its end"),
        _ => bail!("it does not greet as an agent does"),
    }
    reader.trust();
    Ok(hello)
}

/// Names become parts of file names.
pub fn check_name(name: &str) -> Result<()> {
    check_plain(name, NAME_BYTES_MAX)
}

/// The same for the name of a worker, which its agent's name is a part of.
pub fn check_source(source: &str) -> Result<()> {
    check_plain(source, SOURCE_BYTES_MAX)
}

fn check_plain(name: &str, bytes_max: usize) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > bytes_max || !name.chars().all(plain) {
        bail!("{name:?} is no name: 1 to {bytes_max} letters, digits, '.', '_' and '-'");
    }
    Ok(())
}

fn signed(role: Role, token: &str, agent: &Nonce, leader: &Nonce) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(token.as_bytes());
    let mut mac = mac.expect("HMAC takes keys of every length");
    mac.update(role.name());
    mac.update(agent);
    mac.update(leader);
    mac
}

fn prove(role: Role, token: &str, agent: &Nonce, leader: &Nonce) -> Vec<u8> {
    signed(role, token, agent, leader).finalize().into_bytes().to_vec()
}

/// Takes as long for every proof of the right length.
fn is_proof(proof: &[u8], role: Role, token: &str, agent: &Nonce, leader: &Nonce) -> bool {
    signed(role, token, agent, leader).verify_slice(proof).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::link;
    use std::net::{TcpListener, TcpStream};

    /// What the leader and the agent say of each other.
    fn greet(leaders: &str, agents: &str) -> [String; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut reader, writer) = link::open(stream).unwrap();
        let agents = agents.to_owned();
        let agent = std::thread::spawn(move || {
            let (mut reader, writer) = link::open(listener.accept().unwrap().0).unwrap();
            let nonce = nonce().unwrap();
            let hello = Hello { version: VERSION, name: "box".to_owned(), cores: 2, nonce };
            told(admit(&mut reader, &writer, &hello, &agents))
        });
        let leader = told(approach(&mut reader, &writer, leaders).map(|hello| {
            assert_eq!((hello.name.as_str(), hello.cores), ("box", 2));
        }));
        [leader, agent.join().unwrap()]
    }

    fn told(result: Result<()>) -> String {
        result.map_or_else(|error| error.to_string(), |()| "welcome".to_owned())
    }

    #[test]
    fn the_same_token_opens_and_another_does_not() {
        assert_eq!(greet("sesame", "sesame"), ["welcome", "welcome"]);
        let [leader, agent] = greet("sesam", "sesame");
        assert!(leader.contains("another token"), "{leader}");
        assert!(agent.contains("token is another"), "{agent}");
    }

    #[test]
    fn a_proof_is_good_for_one_role_and_one_pair_of_nonces() {
        let (a, l, other) = ([1; NONCE_BYTES], [2; NONCE_BYTES], [3; NONCE_BYTES]);
        let proof = prove(Role::Leader, "t", &a, &l);
        assert!(is_proof(&proof, Role::Leader, "t", &a, &l));
        assert!(!is_proof(&proof, Role::Agent, "t", &a, &l), "it cannot be given back");
        assert!(!is_proof(&proof, Role::Leader, "t", &other, &l), "nor be used again");
        assert!(!is_proof(&proof, Role::Leader, "u", &a, &l));
        assert!(!is_proof(&proof[..31], Role::Leader, "t", &a, &l));
        assert!(!is_proof(&[], Role::Leader, "t", &a, &l));
    }

    #[test]
    fn a_name_is_fit_for_a_file() {
        assert!(check_name("box-2.lan_7").is_ok());
        for bad in ["", "../x", "a/b", "a b", "ü", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
