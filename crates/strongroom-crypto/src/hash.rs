//! HMAC and HKDF over SHA-256, with keys of 32 bytes.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _};
use sha2::Sha256;
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// An HMAC-SHA-256 that is still being fed.
pub(crate) type HmacSha256 = Hmac<Sha256>;

pub(crate) fn hmac(key: &[u8; 32]) -> HmacSha256 {
    // HMAC fills a short key up with zeros to the length of a block, 64 bytes.
    let mut block = Zeroizing::new([0; 64]);
    let (head, _) = block.split_at_mut(key.len());
    head.copy_from_slice(key);
    HmacSha256::new((&*block).into())
}

/// HKDF-SHA-256 with a salt of 32 zero bytes, as every key in Matrix is derived.
#[expect(clippy::expect_used, reason = "only more than 255 hashes of 32 bytes are refused")]
pub(crate) fn hkdf<const N: usize>(key: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32, "HKDF makes no more") };
    let mut okm = Zeroizing::new([0; N]);
    Hkdf::<Sha256>::new(Some(&[0; 32]), key).expand(info, &mut *okm).expect("short enough");
    okm
}

/// The `N` bytes from `START` on; that there are as many is checked when it is compiled.
#[expect(clippy::expect_used, reason = "START + N <= M")]
pub(crate) fn part<const START: usize, const N: usize, const M: usize>(
    bytes: &[u8; M],
) -> &[u8; N] {
    const { assert!(START + N <= M, "there are not as many") };
    let rest = bytes.split_at(START).1;
    rest.first_chunk().expect("there are as many")
}

/// Fails to build if a feature that wipes secrets is off in a dependency. (An HMAC is made of the
/// states of its hash, and is wiped with them.)
const _: () = {
    const fn wipes<T: ZeroizeOnDrop>() {}
    wipes::<aes::Aes256>();
    wipes::<cbc::Decryptor<aes::Aes256>>();
    wipes::<cbc::Encryptor<aes::Aes256>>();
    wipes::<ctr::Ctr128BE<aes::Aes256>>();
    wipes::<ed25519_dalek::SigningKey>();
    wipes::<Sha256>();
    wipes::<sha2::Sha512>();
    wipes::<x25519_dalek::StaticSecret>();
};
