//! Who a token says somebody is. The one place that knows what a token looks like.

use barrage_wire::server::CloseReason;

use crate::refusal::Refusal;

/// How tokens are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Everybody is who they say: `open:<user id>` for clients, `open` for upstreams. For
    /// development, on loopback addresses only.
    Open,
}

impl Auth {
    /// The user that a client's token names.
    pub fn client(self, _app: u32, token: &str) -> Result<u64, Refusal> {
        let Self::Open = self;
        let user = token.strip_prefix("open:").and_then(|user| user.parse().ok());
        user.filter(|user| *user != 0).ok_or_else(|| {
            Refusal::new(
                CloseReason::Token,
                "this gateway is in open development mode: the token is `open:<user id>`, with a \
                 user id above 0",
            )
        })
    }

    /// Whether an upstream may speak for the app.
    pub fn upstream(self, _app: u32, token: &str) -> Result<(), Refusal> {
        let Self::Open = self;
        if token == "open" {
            return Ok(());
        }
        Err(Refusal::new(
            CloseReason::Token,
            "this gateway is in open development mode: an upstream's token is `open`",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_tokens_name_a_user() {
        let user = |token| Auth::Open.client(1, token).ok();
        assert_eq!(user("open:17"), Some(17));
        for bad in ["", "open", "open:", "open:0", "open:-1", "open:x", "17", "open:1 "] {
            assert_eq!(user(bad), None, "{bad:?}");
        }
        assert!(Auth::Open.upstream(1, "open").is_ok());
        assert!(Auth::Open.upstream(1, "open:1").is_err());
    }
}
