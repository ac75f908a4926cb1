#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cptr_tests::fuzz::run("rings", data));
