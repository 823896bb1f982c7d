//! Where else is an image? On a server, if this program can ask one.

use std::io;
use std::sync::Arc;

use super::Failure;
use crate::heal::distant::Distant;
use crate::image::Source;

/// Opens an image on a server.
#[cfg(feature = "net")]
pub(super) fn open(url: &str) -> io::Result<Arc<dyn Source>> {
    crate::update::ranges::open(url)
}

/// This program cannot.
#[cfg(not(feature = "net"))]
pub(super) fn open(_: &str) -> io::Result<Arc<dyn Source>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// An image on a server, to heal from. Nothing is asked before it is needed.
#[cfg(feature = "net")]
pub(super) fn distant(url: &str) -> Result<Distant, Failure> {
    crate::update::ranges::distant(url).map_err(|failed| {
        Failure::new(failed)
            .hint("name an image on a web server: http://\u{2026} or https://\u{2026}")
    })
}

/// This program cannot.
#[cfg(not(feature = "net"))]
pub(super) fn distant(url: &str) -> Result<Distant, Failure> {
    Err(Failure::new(format!("{url}: this program was built without a network client"))
        .hint("fetch the image, and name the file; or build with the feature `net`"))
}
