//! Which image is next? How a new one comes onto the data partition, is tried, is blessed or given up, and how the machine
//! finds one that it can boot whatever failed in between (UPDATE.md).
//!
//! An image is a file that never changes once it has its name, `images/<root digest>.img`. What is switched is a record of
//! 512 bytes. Nothing is ever removed before what replaces it is on the disk.

mod admission;
pub mod book;
mod bring;
pub mod checked;
pub mod delta;
mod disk;
mod download;
pub mod failed;
mod fetch;
mod head;
#[cfg(feature = "net")]
pub mod http;
pub mod install;
pub mod keep;
pub mod latest;
pub mod origin;
mod part;
pub mod place;
#[cfg(feature = "net")]
pub mod ranges;
pub mod record;
pub mod scrub;
mod seeds;
pub mod single;
pub mod state;
mod whole;
pub mod wish;

#[cfg(test)]
mod tests;
