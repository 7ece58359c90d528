//! Labels of a pod and its Namespace, in any form.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::labels(input));
