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
    pub fn client(self, app: u32, token: &str) -> Result<u64, Refusal> {
        let Self::Open = self;
        check_app(app)?;
        token.strip_prefix("open:").and_then(user).ok_or_else(|| {
            Refusal::new(
                CloseReason::Token,
                "this gateway is in open development mode: the token is `open:<user id>`, with a \
                 user id above 0 in plain decimal",
            )
        })
    }

    /// Whether an upstream may speak for the app.
    pub fn upstream(self, app: u32, token: &str) -> Result<(), Refusal> {
        let Self::Open = self;
        check_app(app)?;
        if token == "open" {
            return Ok(());
        }
        Err(Refusal::new(
            CloseReason::Token,
            "this gateway is in open development mode: an upstream's token is `open`",
        ))
    }
}

/// No token is good for app 0: an app that was not said is not to be one of its own.
fn check_app(app: u32) -> Result<(), Refusal> {
    if app == 0 {
        return Err(Refusal::new(CloseReason::Token, "apps have numbers above 0"));
    }
    Ok(())
}

/// A user has one spelling, which has no sign and does not begin with 0.
fn user(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.starts_with(|first: char| matches!(first, '1'..='9')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_tokens_name_a_user() {
        let user = |token| Auth::Open.client(1, token).ok();
        assert_eq!(user("open:17"), Some(17));
        for bad in [
            "", "open", "open:", "open:0", "open:-1", "open:x", "17", "open:1 ", "open:+5",
            "open:05",
        ] {
            assert_eq!(user(bad), None, "{bad:?}");
        }
        assert!(Auth::Open.upstream(1, "open").is_ok());
        assert!(Auth::Open.upstream(1, "open:1").is_err());
        assert!(Auth::Open.client(0, "open:17").is_err());
        assert!(Auth::Open.upstream(0, "open").is_err());
    }
}
