//! The cryptography of Matrix server-side key backup (client-server API, "Server-side key backups";
//! MSC1219), for whoever holds the key. The server does not depend on it.
//!
//! Nothing here does I/O, waits, or asks for the time; randomness comes in as an argument. Whatever
//! comes in is bounded and becomes a type, or an error that says what is wrong and never quotes a
//! secret. Secrets are wiped when they are dropped.
//!
//! - [`DecryptionKey`], [`PublicKey`]: the secret of a backup, and what others encrypt to.
//! - [`Encryptor`], [`DecryptionKey::decrypt`]: `m.megolm_backup.v1.curve25519-aes-sha2`.
//! - [`Plaintext::judge`]: what came out of a backup is hostile until this has looked at it, and
//!   [`UnauthenticatedSession`] after it has. [`Oddity`]: old forms that do no harm.
//! - [`SessionKey`]: which of two keys of one session reaches further back, and whether they agree.
//! - [`AuthData`], [`MasterKey`], [`DeviceKey`]: what a backup says about itself, and who signed it.
//! - [`SecretStorageKey`], [`KeyDescription`], [`StoredSecret`]: where clients keep the key.
//! - [`Typed`]: whether a person typed a key or a passphrase.
//! - [`LockedKeyFile`], [`KeyFileWriter`]: exported keys.
//!
//! ```
//! use rand_core::UnwrapErr;
//! use strongroom_crypto::{DecryptionKey, Encryptor, SessionData, UnauthenticatedSession};
//!
//! let session_key = [
//!     "AQAAAABvWMNZjKFtebYIePKieQguozuoLgzeY6wKcyJjLJcJtQgy1dPqTBD12U+XrYLrRHnlKmxoozlhFqJl456+",
//!     "9hlHCL+yq+6ScFuBHtJepnY1l2bdLb4T0JMDkNsNErkiLiLnD6yp3JDSjIhkdHxmup/huygrmroq6/L5TaThEoqv",
//!     "W4DPIuO14btKudsS34FF82pwjKS4p6Mlch+0efHAblQV",
//! ]
//! .concat();
//! let exported = format!(
//!     r#"{{
//!         "algorithm": "m.megolm.v1.aes-sha2",
//!         "room_id": "!room:example.org",
//!         "session_id": "gM8i47Xhu0q52xLfgUXzanCMpLinoyVyH7R58cBuVBU",
//!         "session_key": "{session_key}",
//!         "sender_key": "DeHIg4gwhClxzFYcmNntPNF9YtsdZbmMy8+3kzCMXHA",
//!         "sender_claimed_keys": {{}},
//!         "forwarding_curve25519_key_chain": []
//!     }}"#
//! );
//! let session = UnauthenticatedSession::from_export(&exported)?;
//!
//! // Whoever knows the public key can add a session to the backup.
//! let mut rng = UnwrapErr(getrandom::SysRng);
//! let key = DecryptionKey::generate(&mut rng);
//! let encryptor = Encryptor::new(&key.public_key())?;
//! let session_data = encryptor.encrypt(session.to_backup_json().as_bytes(), &mut rng).to_json();
//!
//! // Whoever has the decryption key can read it, and judges it first.
//! let plaintext = key.decrypt(&SessionData::parse(&session_data)?)?;
//! let restored = plaintext.judge(session.room_id(), session.session_id())?;
//! assert_eq!(restored.session_key(), session.session_key());
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod auth_data;
mod backup;
mod base64;
mod canonical_json;
#[cfg(test)]
mod counter;
mod decryption_key;
mod hash;
mod json;
mod key_description;
mod key_file;
mod limits;
mod megolm;
mod oddity;
mod passphrase;
mod representation;
mod secret_storage;
mod session;
mod session_data;
mod signature;
mod typed;
mod x25519;

pub use auth_data::{AuthData, AuthDataError, BackupPassphrase};
pub use backup::{DecryptError, Encryptor, Plaintext, Undecryptable, WeakPublicKey};
pub use base64::Base64Error;
pub use canonical_json::NotCanonical;
pub use decryption_key::{DECRYPTION_KEY_SECRET, DecryptionKey, PublicKey, SecretError};
pub use json::FieldError;
pub use key_description::{Checked, KeyDescription, KeyDescriptionError, PassphraseInfo, WrongKey};
pub use key_file::{
    CreateError, KeyFile, KeyFileError, KeyFileLimits, KeyFileWriter, LockedKeyFile,
};
pub use limits::{
    KEY_FILE_BYTES_MAX, ROUNDS_NEW, ROUNDS_READ, ROUNDS_WRITE, SECRET_BYTES_MAX, SESSION_BYTES_MAX,
};
pub use megolm::{Disagreement, SessionKey, SessionKeyError, SessionKeyFormat};
pub use oddity::{Oddities, Oddity};
pub use passphrase::RoundsError;
pub use representation::RepresentationError;
pub use secret_storage::{
    EncryptedSecret, SECRET_STORAGE_V1, SecretStorageKey, StoredSecret, StoredSecretError,
};
pub use session::{MEGOLM_V1, SessionError, UnauthenticatedSession};
pub use session_data::{SessionData, SessionDataError};
pub use signature::{
    DeviceKey, DeviceSigningKey, MASTER_KEY_SECRET, MasterKey, MasterSigningKey, PublishedKeyError,
    SignError, SignatureError,
};
pub use typed::{Typed, TypedKey};
