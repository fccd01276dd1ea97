//! X25519, by the fastest way that this machine has.
//!
//! Three ways lead to the same 32 bytes, and property tests hold them to each other:
//!
//! - dalek's ladder runs everywhere;
//! - graviola's is formally verified assembly for x86-64 and aarch64, and takes half the time, but
//!   refuses to run (by a panic) on processors older than about 2013;
//! - a table of multiples of the *other* public key takes a third of the time, if that key is used
//!   often enough to pay for it (40 multiplications' time, 30 KiB): the key of a backup, whenever
//!   more than one room key is encrypted.

use curve25519_dalek::{
    edwards::{EdwardsBasepointTable, EdwardsPoint},
    montgomery::MontgomeryPoint,
    traits::BasepointTable as _,
};
use zeroize::Zeroizing;

/// Any secret will do to find out whether a point is of low order: clamping makes it a multiple of
/// eight, which takes every such point to zero, and no other.
const ANY_SECRET: [u8; 32] = [0; 32];

/// The public half of a secret.
pub(crate) fn public_half(secret: &[u8; 32]) -> [u8; 32] {
    verified::public_half(secret)
        .unwrap_or_else(|| EdwardsPoint::mul_base_clamped(*secret).to_montgomery().to_bytes())
}

/// The secret that both sides share; `None` if `public` is of low order, so that anyone knows it.
pub(crate) fn agree(secret: &[u8; 32], public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    match verified::agree(secret, public) {
        Some(shared) => shared,
        None => ladder(secret, public),
    }
}

fn ladder(secret: &[u8; 32], public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let secret = x25519_dalek::StaticSecret::from(*secret);
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*public));
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

/// A public key that many secrets will be agreed with.
pub(crate) struct Recipient {
    public: [u8; 32],
    /// Absent where the point lies on the twist, and so has no Edwards form. No honest key does.
    multiples: Option<Box<EdwardsBasepointTable>>,
}

impl Recipient {
    /// `None` if the key is of low order, so that anyone could read what is encrypted to it.
    pub(crate) fn new(public: [u8; 32]) -> Option<Self> {
        agree(&ANY_SECRET, &public)?;
        // The sign of the Edwards form is lost on the way back to Montgomery's.
        let point = MontgomeryPoint(public).to_edwards(0);
        let multiples = point.map(|point| Box::new(EdwardsBasepointTable::create(&point)));
        Some(Self { public, multiples })
    }

    /// The secret that both sides share.
    pub(crate) fn agree(&self, secret: &[u8; 32]) -> Zeroizing<[u8; 32]> {
        match &self.multiples {
            Some(multiples) => {
                // The clamped secret is taken as it is, not modulo the order of the group, so points
                // with a part of low order come out as on the ladder.
                let point = Zeroizing::new(multiples.mul_base_clamped(*secret));
                Zeroizing::new(point.to_montgomery().to_bytes())
            }
            // A clamped secret is a multiple of eight below 2^255, never one of the order of a point
            // that is not of low order; so there always is a secret to share.
            None => agree(secret, &self.public).unwrap_or_default(),
        }
    }
}

/// graviola, where the processor has all that it asks for.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod verified {
    use graviola::key_agreement::x25519::{PublicKey, StaticPrivateKey};
    use zeroize::Zeroizing;

    /// What graviola checks on each call, and panics about; with BMI2, which comes with ADX.
    #[cfg(target_arch = "x86_64")]
    fn is_supported() -> bool {
        std::is_x86_feature_detected!("adx")
            && std::is_x86_feature_detected!("aes")
            && std::is_x86_feature_detected!("avx")
            && std::is_x86_feature_detected!("avx2")
            && std::is_x86_feature_detected!("bmi1")
            && std::is_x86_feature_detected!("bmi2")
            && std::is_x86_feature_detected!("pclmulqdq")
    }

    /// What graviola checks on each call, and panics about.
    #[cfg(target_arch = "aarch64")]
    fn is_supported() -> bool {
        std::arch::is_aarch64_feature_detected!("neon")
            && std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("pmull")
            && std::arch::is_aarch64_feature_detected!("sha2")
    }

    /// `None` if it does not run here.
    pub(super) fn public_half(secret: &[u8; 32]) -> Option<[u8; 32]> {
        is_supported().then(|| StaticPrivateKey::from_array(secret).public_key().as_bytes())
    }

    /// `None` if it does not run here; `Some(None)` if `public` is of low order.
    #[expect(clippy::option_option, reason = "whether it runs, and what came of it")]
    pub(super) fn agree(
        secret: &[u8; 32],
        public: &[u8; 32],
    ) -> Option<Option<Zeroizing<[u8; 32]>>> {
        is_supported().then(|| {
            let public = PublicKey::from_array(public);
            let shared = StaticPrivateKey::from_array(secret).diffie_hellman(&public).ok()?;
            Some(Zeroizing::new(shared.0))
        })
    }
}

/// Elsewhere it is not built.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod verified {
    use zeroize::Zeroizing;

    pub(super) fn public_half(_: &[u8; 32]) -> Option<[u8; 32]> {
        None
    }

    #[expect(clippy::option_option, reason = "whether it runs, and what came of it")]
    pub(super) fn agree(_: &[u8; 32], _: &[u8; 32]) -> Option<Option<Zeroizing<[u8; 32]>>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All points of low order, on the curve and on its twist, in each of their encodings (RFC 7748,
    /// section 6.1, and "May the Fourth Be With You" by Duong; the top bit does not count).
    const LOW_ORDER: [&str; 7] = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];

    fn low_order() -> Vec<[u8; 32]> {
        let parse = |hex: &str| -> [u8; 32] {
            std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        };
        let mut points: Vec<_> = LOW_ORDER.iter().map(|hex| parse(hex)).collect();
        for mut point in points.clone() {
            point[31] |= 0x80;
            points.push(point);
        }
        points
    }

    /// What RFC 7748 says, by way of dalek alone.
    fn reference(secret: &[u8; 32], public: &[u8; 32]) -> Option<[u8; 32]> {
        let shared = MontgomeryPoint(*public).mul_clamped(*secret).to_bytes();
        (shared != [0; 32]).then_some(shared)
    }

    /// Points of every kind: honest ones, any at all (half of them lie on the twist), honest ones
    /// with a part of low order, and those near the ends of the field.
    fn public() -> impl Strategy<Value = [u8; 32]> {
        let honest = any::<[u8; 32]>().prop_map(|secret| public_half(&secret));
        let mixed = (any::<[u8; 32]>(), 0..8usize).prop_map(|(secret, which)| {
            let torsion = curve25519_dalek::constants::EIGHT_TORSION[which];
            (EdwardsPoint::mul_base_clamped(secret) + torsion).to_montgomery().to_bytes()
        });
        let near_the_ends = (0..40u8, any::<bool>(), any::<bool>()).prop_map(|(low, high, top)| {
            let mut point = if high { [0xff; 32] } else { [0; 32] };
            point[0] = if high { 0xff - low } else { low };
            point[31] = if high { 0x7f } else { 0 } | if top { 0x80 } else { 0 };
            point
        });
        let low_order = proptest::sample::select(low_order());
        prop_oneof![honest, any::<[u8; 32]>(), mixed, near_the_ends, low_order]
    }

    fn secret() -> impl Strategy<Value = [u8; 32]> {
        prop_oneof![4 => any::<[u8; 32]>(), 1 => Just([0; 32]), 1 => Just([0xff; 32])]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_way_leads_to_the_same_secret(secret in secret(), public in public()) {
            let expected = reference(&secret, &public);
            prop_assert_eq!(agree(&secret, &public).map(|shared| *shared), expected);
            prop_assert_eq!(ladder(&secret, &public).map(|shared| *shared), expected);
            if let Some(shared) = verified::agree(&secret, &public) {
                prop_assert_eq!(shared.map(|shared| *shared), expected);
            }
            let recipient = Recipient::new(public);
            prop_assert_eq!(recipient.map(|recipient| *recipient.agree(&secret)), expected);
        }

        #[test]
        fn every_way_leads_to_the_same_public_half(secret in secret()) {
            let expected = MontgomeryPoint::mul_base_clamped(secret).to_bytes();
            prop_assert_eq!(public_half(&secret), expected);
            prop_assert_eq!(verified::public_half(&secret).unwrap_or(expected), expected);
            let dalek = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(secret));
            prop_assert_eq!(dalek.to_bytes(), expected);
        }
    }

    #[test]
    fn points_of_low_order_share_no_secret() {
        for public in low_order() {
            assert_eq!(agree(&[7; 32], &public), None, "{public:x?}");
            assert!(Recipient::new(public).is_none(), "{public:x?}");
        }
    }

    #[test]
    fn a_point_on_the_twist_is_agreed_with_by_the_ladder() {
        let twisted = (2u8..).map(|u| std::array::from_fn(|i| if i == 0 { u } else { 0 }));
        let public = twisted
            .clone()
            .find(|public: &[u8; 32]| MontgomeryPoint(*public).to_edwards(0).is_none())
            .unwrap();
        let recipient = Recipient::new(public).unwrap();
        assert!(recipient.multiples.is_none());
        assert_eq!(Some(*recipient.agree(&[7; 32])), reference(&[7; 32], &public));
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn the_vector_of_the_rfc_holds() {
        let hex = |hex: &str| -> [u8; 32] {
            std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        };
        let alice = hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let bob = hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let shared = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        let (alice_public, bob_public) = (public_half(&alice), public_half(&bob));
        assert_eq!(
            alice_public,
            hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
        );
        assert_eq!(agree(&alice, &bob_public).as_deref(), Some(&shared));
        assert_eq!(agree(&bob, &alice_public).as_deref(), Some(&shared));
        assert_eq!(*Recipient::new(alice_public).unwrap().agree(&bob), shared);
    }
}
