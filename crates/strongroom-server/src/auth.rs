//! Who is asking.

mod cache;
mod fixed;
mod gate;
mod homeserver;

use std::{collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;
use strongroom_protocol::{DeviceId, MatrixError, UserId};
use zeroize::Zeroizing;

pub use self::{
    fixed::{FixedTokens, TokensError},
    homeserver::{BadHomeserver, Homeserver, HomeserverOptions},
};
use crate::address::ClientAddress;

/// No token is longer: the whole header is seldom allowed to be.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Whom a token belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Requester {
    /// Whose backups are meant.
    pub user_id: UserId,
    /// For the journal of changes.
    pub device_id: Option<DeviceId>,
}

/// An access token. Wiped when it is dropped, and never printed.
#[derive(Clone)]
pub struct AccessToken(Zeroizing<String>);

impl AccessToken {
    /// Takes the token as it stands after `Bearer `, if anybody can have such a token.
    pub fn parse(token: &str) -> Option<Self> {
        let is_one = (1..=TOKEN_BYTES_MAX).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        is_one.then(|| Self(Zeroizing::new(token.to_owned())))
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(..)")
    }
}

/// What a request says of who sends it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// From the header `Authorization: Bearer …`.
    pub token: AccessToken,
    /// The user that an application service acts for: the query parameter `user_id`.
    pub user_id: Option<String>,
    /// The device that an application service acts for: the query parameter `device_id`.
    pub device_id: Option<String>,
    /// The header `Host`, which tells several homeservers apart.
    pub host: Option<String>,
    /// Where the request comes from, if that is known.
    pub address: Option<ClientAddress>,
    /// Whether a remembered answer will do.
    pub freshness: Freshness,
}

/// How recent the knowledge about a token must be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Freshness {
    /// What was found out a short while ago is good enough.
    Remembered,
    /// The request destroys or redirects a backup: a token that was logged out must not do that.
    AskedNow,
}

/// Finds out whom a token belongs to.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The owner of the token, or the error to answer with.
    ///
    /// # Errors
    ///
    /// A 401 or 403 only when it is certain, since clients log out and forget keys on it:
    /// [`MatrixError::UnknownToken`], [`MatrixError::GuestAccessForbidden`],
    /// [`MatrixError::Homeserver`]. Whenever it can't be found out,
    /// [`MatrixError::HomeserverUnavailable`] or [`MatrixError::Unavailable`].
    async fn requester(&self, credentials: &Credentials) -> Result<Requester, MatrixError>;
}

/// Several homeservers behind one address, told apart by the `Host` of a request.
///
/// Its case does not matter, and its port only where the list has the same host with a port: some
/// proxies hand the port on and some do not.
pub struct PerHost(HashMap<String, Arc<dyn Authenticator>>);

impl PerHost {
    /// Takes pairs of a host and who knows its users.
    pub fn new(hosts: impl IntoIterator<Item = (String, Arc<dyn Authenticator>)>) -> Self {
        Self(hosts.into_iter().map(|(host, auth)| (host.to_ascii_lowercase(), auth)).collect())
    }
}

impl fmt::Debug for PerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[async_trait]
impl Authenticator for PerHost {
    async fn requester(&self, credentials: &Credentials) -> Result<Requester, MatrixError> {
        let host = credentials.host.as_deref().unwrap_or_default().to_ascii_lowercase();
        let known = self.0.get(&host).or_else(|| self.0.get(without_port(&host)));
        known.ok_or(MatrixError::Misdirected)?.requester(credentials).await
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        // None, or the end of an IPv6 address in brackets.
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_visible_characters_and_not_without_measure() {
        let longest = "x".repeat(TOKEN_BYTES_MAX);
        for good in ["x", "syt_YWxpY2U_sEcReT_1a2B3c", "mdl+/.-_~!$==", &longest] {
            assert_eq!(AccessToken::parse(good).unwrap().expose(), good);
        }
        for bad in ["", "a b", "a\tb", "a\nb", "a\0", "é", &(longest + "x")] {
            assert!(AccessToken::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_port_is_digits_behind_the_last_colon() {
        for (host, name) in [
            ("matrix.example.org:8448", "matrix.example.org"),
            ("matrix.example.org", "matrix.example.org"),
            ("[::1]:8448", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
