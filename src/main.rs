//! The `ashlar` command.
fn main() {}
