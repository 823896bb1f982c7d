//! Where else is an image? On a server, if this program can ask one.

use super::Failure;
use crate::heal::distant::Distant;

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
