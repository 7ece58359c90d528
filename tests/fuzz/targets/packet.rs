//! Frames at both hooks of any pod, one after the other.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::packet(input));
