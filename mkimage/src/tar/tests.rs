//! Archives go in.
