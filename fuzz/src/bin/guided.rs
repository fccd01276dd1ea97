//! One target under libFuzzer, which looks for inputs that reach new code: `cargo xtask fuzz TARGET`.

#![no_main]

use std::{env, sync::LazyLock};

use strongroom_fuzz::{Target, target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = env::var("STRONGROOM_FUZZ_TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("STRONGROOM_FUZZ_TARGET={name} is no target"))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
