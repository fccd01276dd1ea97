//! Randomness for tests: the same each time.

use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng, utils};

/// Counts. What is encrypted with it protects nothing.
pub(crate) struct Counter(u64);

impl Counter {
    pub(crate) const fn new() -> Self {
        Self(0)
    }
}

impl TryRng for Counter {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Ok(self.0 ^ self.0 >> 32)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        utils::fill_bytes_via_next_word(bytes, || self.try_next_u64())
    }
}

impl TryCryptoRng for Counter {}
