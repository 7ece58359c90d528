//! The text of a manifest, in any form.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::yaml(input));
