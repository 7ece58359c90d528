//! One object as JSON, in any form.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::object(input));
