#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| thalweg_fuzz::plan(text));
