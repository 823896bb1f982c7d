//! How does `/` come to be? From the kernel's command line to a mounted root, one step a line.
