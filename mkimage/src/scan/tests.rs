//! Directories of this machine go in.
