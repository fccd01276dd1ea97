//! The cryptography of Matrix server-side key backup (client-server API, "Server-side key backups";
//! MSC1219), for whoever holds the key. The server does not depend on it.
//!
//! Nothing here does I/O, waits, or asks for the time; randomness comes in as an argument. Whatever
//! comes in is bounded and becomes a type, or an error that says what is wrong and never quotes a
//! secret. Secrets are wiped when they are dropped.

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
