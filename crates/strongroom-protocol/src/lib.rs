//! The vocabulary of Matrix server-side key backup (client-server API, "Server-side key backups";
//! MSC1219; MSC2526): which copy of a room key is kept, what a request may say, and what an answer
//! looks like.
//!
//! Nothing here does I/O. Bytes from the network become types that can't be wrong, or an error that
//! names the room, the session and the field:
//!
//! ```
//! use strongroom_protocol::{Limits, Rank, RoomKeys};
//!
//! let body = br#"{"rooms": {"!room:example.org": {"sessions": {"c2Vzc2lvbg": {
//!     "first_message_index": 0, "forwarded_count": 0, "is_verified": false,
//!     "session_data": {"ephemeral": "e", "ciphertext": "c", "mac": "m"}}}}}}"#;
//! let keys = RoomKeys::parse(body, &Limits::default()).unwrap();
//! let (_room, _session, key) = keys.iter().next().unwrap();
//! assert_eq!(key.rank, Rank::new(false, 0, 0));
//!
//! let error = RoomKeys::parse(br#"{"rooms": {"!r:x": {"sessions": {"s": {}}}}}"#, &Limits::default());
//! let error = error.unwrap_err().to_string();
//! assert_eq!(error, r#"room "!r:x", session "s": first_message_index is missing"#);
//! ```

mod body;
mod error;
mod ids;
mod json;
mod limits;
mod rank;
mod render;

pub use body::{ALGORITHM_V1, BodyError, NewVersion, Place, RoomKey, RoomKeys, VersionUpdate};
pub use error::MatrixError;
pub use ids::{BadId, DeviceId, Etag, NotAVersion, RoomId, SessionId, UserId, Version};
pub use json::{BadObject, Object};
pub use limits::{AUTH_DATA_BYTES_MAX, ID_BYTES_MAX, Limits, OBJECT_DEPTH_MAX};
pub use rank::Rank;
pub use render::{KeyRef, KeysShape, KeysWriter, StoredAnswer, VersionAnswer, write_key};
