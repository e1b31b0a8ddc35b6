//! The fuzzer's program: runs the target that the variable PHILOTE_FUZZ_TARGET names.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use philote::fuzz::{TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("PHILOTE_FUZZ_TARGET").unwrap_or_default();
        let found = TARGETS.iter().find(|(known, _)| *known == name);
        let (_, target) = found.unwrap_or_else(|| panic!("no target is called {name:?}"));
        let _ = TARGET.set(*target);
    },
    |data: &[u8]| TARGET.get().unwrap()(data)
);
