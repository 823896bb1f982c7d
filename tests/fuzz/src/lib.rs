//! What `tests/fuzz/fuzz_targets` and `tests/hostile.rs` feed. The targets are in `targets`; this is their house under libFuzzer.
#![allow(dead_code, reason = "shared with tests, each of which uses a part")]

#[path = "../../support/image.rs"]
mod image;
#[path = "../../support/seal.rs"]
mod seal;
mod targets;

/// Feeds the target of this name; what it cannot stand ends the process.
pub fn feed(name: &str, input: &[u8]) {
    targets::Target::find(name).feed(input);
}
