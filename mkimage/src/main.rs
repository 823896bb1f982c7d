//! The `mkimage` command.
fn main() {}
