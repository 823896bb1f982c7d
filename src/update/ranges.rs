//! How is an image read that is on a server? As any other: each piece by a range, asked for once more when it does not come.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::failed::Failed;
use super::http::{self, Http, HttpOptions};
use super::origin::{Origin, Trouble};
use crate::format::field::u64_from_usize;
use crate::heal::distant::Distant;
use crate::image::Source;

/// How long nothing may come. Somebody waits for it who asked for a file.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before it is asked for once more.
const PAUSE: Duration = Duration::from_millis(100);

/// An image on a server.
#[derive(Debug)]
struct Ranges(Http);

/// An image on a server, to heal from. Nothing is asked before it is needed.
pub fn distant(url: &str) -> Result<Distant, Failed> {
    let (shown, url) = (http::shown(url)?, url.to_owned());
    Ok(Distant::new(shown, Box::new(move || open(&url))))
}

/// Opens an image on a server.
pub fn open(url: &str) -> io::Result<Arc<dyn Source>> {
    let options =
        HttpOptions { connections: 1, timeout: TIMEOUT, pause: PAUSE, ..HttpOptions::default() };
    let http = Http::open(url, &options).map_err(io::Error::other)?;
    Ok(Arc::new(Ranges(http)))
}

impl Ranges {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Trouble> {
        let end = offset.saturating_add(u64_from_usize(buf.len()));
        let mut filled = 0_usize;
        self.0.read(offset..end, &mut |piece| {
            let next = filled.saturating_add(piece.len());
            let into = buf.get_mut(filled..next);
            into.ok_or_else(|| Failed::new("more came than was asked for"))?.copy_from_slice(piece);
            filled = next;
            Ok(())
        })?;
        if filled < buf.len() {
            let what = format_args!("{filled} bytes came of {}", buf.len());
            return Err(Trouble::Passing(Failed::new(what)));
        }
        Ok(())
    }
}

impl Source for Ranges {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let read = match self.read(buf, offset) {
            Err(Trouble::Passing(failed)) => {
                tracing::debug!("{failed}: asking once more");
                thread::sleep(PAUSE);
                self.read(buf, offset)
            }
            read => read,
        };
        read.map_err(|trouble| io::Error::other(trouble.into_failed()))
    }
}
