//! How much is too much. An honest client meets none of these.

/// Bytes of a user, room, session or device id (appendices, "Common identifier format": 255).
pub const ID_BYTES_MAX: usize = 255;

/// How deep objects and arrays nest in `session_data` and `auth_data`. Honest ones need three; with
/// this, a whole restore stays far below the 64 and 128 at which common JSON readers give up.
pub const OBJECT_DEPTH_MAX: usize = 32;

/// Bytes of an `auth_data`: some four hundred signatures. Every poll of a version carries it.
pub const AUTH_DATA_BYTES_MAX: usize = 64 * 1024;

/// The limits that an operator may set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of one request's body. Some clients upload everything in one request: 20,000 keys are
    /// 17 MB.
    pub body_bytes_max: usize,
    /// Bytes of one key's `session_data`. A megolm session makes about 800.
    pub session_data_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes_max: 64 * 1024 * 1024, session_data_bytes_max: 64 * 1024 }
    }
}
