#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ashlarfs_fuzz::feed("parity", input));
