//! Who asks.

/// Part of every access token that this crate hands out, so that a token is recognised wherever
/// it turns up.
pub const SECRET: &str = "PLANTED-SECRET";

/// Somebody with an access token.
#[derive(Clone, Debug)]
pub struct User {
    /// `@alice:example.org`
    pub user_id: String,
    /// What stands behind `Authorization: Bearer`.
    pub token: String,
    /// The device that the token belongs to; an application service has none of its own.
    pub device_id: Option<String>,
}
