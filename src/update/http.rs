//! How does an image come from an HTTP server? In ranges of it, none of which is believed: a server that lies, breaks off or
//! changes its file meanwhile costs time, and never a wrong byte.

mod client;
mod proxy;
mod rate;
mod tls;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::header::{IF_RANGE, RANGE};
use ureq::http::{StatusCode, Uri};

use self::client::{Answer, Client};
use super::failed::Failed;
use super::fetch::pause;
use super::origin::{Origin, Trouble};
use crate::format::field::{u64_from_usize, usize_from_u64};
use crate::format::superblock;
use crate::trust::SIGNATURE_SUFFIX;

/// Bytes that are fetched to learn what there is: those of the superblock, which are needed anyway.
const HEAD_LEN: u64 = superblock::LEN_ON_DISK;
/// Longest range, so that not much is lost with it.
const RANGE_LEN_MAX: u64 = 4 << 20;
/// Longest range where bytes come slowly: two blocks of the usual length.
const RANGE_LEN_SLOW: u64 = 256 << 10;
/// A question and the head of its answer are 500 to 800 bytes, and a trip to the server besides.
const GAP_MAX: u64 = 1 << 10;
/// Most bytes of a signature file.
const SIGNATURE_LEN_MAX: u64 = 16 << 10;
/// So often the first question is asked.
const ATTEMPTS: u32 = 4;

/// How a server is asked.
#[derive(Clone)]
pub struct HttpOptions {
    /// How many ranges are asked for at the same time.
    pub connections: usize,
    /// Most bytes in a second, on all connections together.
    pub limit_rate: Option<u64>,
    /// The authorities that may vouch for the server, a PEM file, instead of those that the system believes.
    pub tls_ca: Option<PathBuf>,
    /// What vouches for this machine, a PEM file.
    pub tls_cert: Option<PathBuf>,
    /// The key of that certificate, a PEM file, if it is not in the same one.
    pub tls_key: Option<PathBuf>,
    /// Further headers of every question. When a server leads to another host, that one gets them too, but for
    /// `Authorization` and `Cookie`.
    pub headers: Vec<(String, String)>,
    /// How long nothing may come.
    pub timeout: Duration,
    /// How long to wait before something is tried again; each further time it is twice as long.
    pub pause: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        HttpOptions {
            connections: 4,
            limit_rate: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            headers: Vec::new(),
            timeout: Duration::from_mins(1),
            pause: super::origin::PAUSE,
        }
    }
}

impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers may be secret.
        f.debug_struct("HttpOptions")
            .field("connections", &self.connections)
            .field("limit_rate", &self.limit_rate)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// An image on an HTTP server.
pub struct Http {
    client: Client,
    first: First,
    connections: usize,
    timeout: Duration,
    pause: Duration,
    /// Where the address led, if it led elsewhere: asked there, each range costs one question instead of two.
    landed: Mutex<Option<Uri>>,
    /// Whether the server gives a range on condition that the file is still the same.
    knows_conditions: AtomicBool,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Http").field(&self.shown()).finish()
    }
}

/// What the first answer says.
struct First {
    len: u64,
    head: Vec<u8>,
    has_ranges: bool,
    /// What tells that it is still the same file.
    version: Option<String>,
    landed: Option<Uri>,
}

impl Http {
    /// The first bytes of what is there, 4096 at most.
    pub fn beginning(&self) -> &[u8] {
        &self.first.head
    }

    /// Asks what there is. One question, if the server answers it.
    pub fn open(url: &str, options: &HttpOptions) -> Result<Http, Failed> {
        let client = Client::new(url, options)?;
        let first = again(options.timeout, options.pause, || First::ask(&client))?;
        Ok(Http {
            landed: Mutex::new(first.landed.clone()),
            client,
            first,
            connections: options.connections.max(1),
            timeout: options.timeout,
            pause: options.pause,
            knows_conditions: AtomicBool::new(true),
        })
    }

    /// Whether the file is another one than at first.
    fn is_changed(&self, answer: &Answer) -> bool {
        let (then, now) = (&self.first.version, answer.version());
        then.is_some() && now.is_some() && *then != now
    }

    fn changed(&self) -> Trouble {
        let failed = self.client.failed("the file changed on the server meanwhile");
        Trouble::Final(failed.hint("run it again: it begins anew with what is there now"))
    }

    fn passing(&self, what: impl fmt::Display) -> Trouble {
        Trouble::Passing(self.client.failed(what))
    }

    /// Bytes that the first answer had, and that need not be asked for.
    fn kept(&self, range: &Range<u64>) -> Option<&[u8]> {
        self.first.head.get(usize_from_u64(range.start)..usize_from_u64(range.end))
    }

    /// Asks for a range.
    fn ask(&self, range: &Range<u64>) -> Result<Answer, Trouble> {
        let landed = self.landed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let last = range.end.saturating_sub(1);
        let mut headers = vec![(RANGE, format!("bytes={}-{last}", range.start))];
        if self.knows_conditions.load(Ordering::Relaxed) {
            headers.extend(self.first.version.clone().map(|version| (IF_RANGE, version)));
        }
        let answer =
            self.client.get(landed.as_ref().unwrap_or(&self.client.address.url), &headers)?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT | StatusCode::OK if self.is_changed(&answer) => {
                Err(self.changed())
            }
            StatusCode::PARTIAL_CONTENT => Ok(answer),
            StatusCode::OK => {
                // Apache does so for a file that was changed within the last minute, others always.
                let is_same =
                    answer.version().is_some() && answer.content_length() == Some(self.len());
                if headers.len() > 1 && !is_same {
                    return Err(self.changed());
                }
                self.knows_conditions.store(false, Ordering::Relaxed);
                Err(self.passing("the server gives the whole where a part was asked for"))
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(self.changed()),
            // An address that is good for some minutes, as clouds make them: the first one leads to the next of these.
            status if status.is_client_error() && landed.is_some() => {
                *self.landed.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Err(self.passing(format_args!("where it led, the server answers {status}")))
            }
            status => Err(self.client.refused(status)),
        }
    }

    fn read_range(&self, range: &Range<u64>, take: Take<'_>) -> Result<(), Trouble> {
        let answer = self.ask(range)?;
        match answer.content_range() {
            Some((came, total)) if came.start == range.start && total == self.len() => {}
            Some((came, total)) => {
                return Err(self.passing(format_args!(
                    "bytes {}..{} of {} were asked for, bytes {}..{} of {total} came",
                    range.start,
                    range.end,
                    self.len(),
                    came.start,
                    came.end
                )));
            }
            None => return Err(self.passing("the server does not say which part this is")),
        }
        let mut landed = self.landed.lock().unwrap_or_else(PoisonError::into_inner);
        *landed = landed.take().or_else(|| landing(&self.client, &answer));
        drop(landed);
        self.pour(answer, range, take)
    }

    /// Reads the beginning, as far as it is wanted, from a server that knows no ranges.
    fn read_beginning(&self, range: &Range<u64>, take: Take<'_>) -> Result<(), Trouble> {
        if range.start != 0 {
            let failed = self.client.failed("the server knows no ranges");
            return Err(Trouble::Final(failed));
        }
        let answer = self.client.get(&self.client.address.url, &[])?;
        if answer.status() != StatusCode::OK {
            return Err(self.client.refused(answer.status()));
        }
        let is_same_len = answer.content_length().is_none_or(|len| len == self.len());
        if self.is_changed(&answer) || !is_same_len {
            return Err(self.changed());
        }
        self.pour(answer, range, take)
    }

    fn pour(&self, answer: Answer, range: &Range<u64>, take: Take<'_>) -> Result<(), Trouble> {
        let len = range.end.saturating_sub(range.start);
        let came = self.client.pour(answer, len, take)?;
        if came < len {
            return Err(self.passing(format_args!("{came} bytes came of {len}")));
        }
        Ok(())
    }
}

type Take<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Failed>;

impl First {
    fn ask(client: &Client) -> Result<First, Trouble> {
        let last = HEAD_LEN.saturating_sub(1);
        let answer = client.get(&client.address.url, &[(RANGE, format!("bytes=0-{last}"))])?;
        let (len, has_ranges) = match answer.status() {
            StatusCode::PARTIAL_CONTENT => match answer.content_range() {
                Some((range, total)) if range.start == 0 => (total, true),
                _ => {
                    return Err(Trouble::Passing(
                        client.failed("another part came than was asked for"),
                    ));
                }
            },
            StatusCode::OK => (length(client, &answer)?, false),
            StatusCode::RANGE_NOT_SATISFIABLE => (0, false),
            status => return Err(client.refused(status)),
        };
        if len == 0 {
            return Err(Trouble::Final(client.failed("the file is empty")));
        }
        let (version, landed) = (answer.version(), landing(client, &answer));
        let (mut head, head_len) = (Vec::new(), HEAD_LEN.min(len));
        client.pour(answer, head_len, &mut |piece| {
            head.extend_from_slice(piece);
            Ok(())
        })?;
        if u64_from_usize(head.len()) < head_len {
            let what = format_args!("{} bytes came of {head_len}", head.len());
            return Err(Trouble::Passing(client.failed(what)));
        }
        Ok(First { len, head, has_ranges, version, landed })
    }
}

/// How long the whole is.
fn length(client: &Client, answer: &Answer) -> Result<u64, Trouble> {
    answer.content_length().ok_or_else(|| {
        let failed = client.failed("the server does not say how long the file is");
        Trouble::Final(failed.hint("it must know ranges, or send Content-Length"))
    })
}

/// Where an answer came from, if not from where it was asked for. With a password in the address it is always asked for there.
fn landing(client: &Client, answer: &Answer) -> Option<Uri> {
    let asked = &client.address.url;
    let is_open = asked.authority().is_some_and(|place| !place.as_str().contains('@'));
    (is_open && answer.url() != asked).then(|| answer.url().clone())
}

/// Asks until there is an answer, but not for ever.
fn again<T>(
    timeout: Duration,
    first_pause: Duration,
    mut ask: impl FnMut() -> Result<T, Trouble>,
) -> Result<T, Failed> {
    let (start, mut attempt) = (Instant::now(), 0_u32);
    loop {
        attempt = match ask() {
            Ok(answer) => return Ok(answer),
            Err(Trouble::Passing(failed))
                if attempt.saturating_add(1) < ATTEMPTS && start.elapsed() < timeout =>
            {
                tracing::info!("{failed}: asking again");
                std::thread::sleep(pause(first_pause, attempt));
                attempt.saturating_add(1)
            }
            Err(trouble) => return Err(trouble.into_failed()),
        };
    }
}

/// The whole of a small file.
fn whole(client: &Client, url: &Uri, len_max: u64) -> Result<Vec<u8>, Trouble> {
    let answer = client.get(url, &[])?;
    if answer.status() != StatusCode::OK {
        return Err(client.refused(answer.status()));
    }
    let (mut raw, said) = (Vec::new(), answer.content_length());
    let came = client.pour(answer, len_max.saturating_add(1), &mut |piece| {
        raw.extend_from_slice(piece);
        Ok(())
    })?;
    if came > len_max || said.is_some_and(|len| len > len_max) {
        let failed = client.failed(format_args!("it has more than {len_max} bytes"));
        return Err(Trouble::Final(failed));
    }
    Ok(raw)
}

/// An address as it is shown to people; an error when it is none.
pub fn shown(url: &str) -> Result<String, Failed> {
    Ok(client::Address::parse(url)?.shown)
}

/// Fetches a file of at most `len_max` bytes.
pub fn get_text(url: &str, options: &HttpOptions, len_max: u64) -> Result<Vec<u8>, Failed> {
    let client = Client::new(url, options)?;
    again(options.timeout, options.pause, || whole(&client, &client.address.url, len_max))
}

impl Origin for Http {
    fn len(&self) -> u64 {
        self.first.len
    }

    fn read(&self, range: Range<u64>, take: Take<'_>) -> Result<(), Trouble> {
        if range.start >= range.end {
            return Ok(());
        }
        if let Some(kept) = self.kept(&range) {
            return Ok(take(kept)?);
        }
        if self.first.has_ranges {
            self.read_range(&range, take)
        } else {
            self.read_beginning(&range, take)
        }
    }

    fn has_ranges(&self) -> bool {
        self.first.has_ranges
    }

    fn connections(&self) -> usize {
        self.connections
    }

    fn range_len_max(&self) -> u64 {
        let slow = |rate: &rate::Rate| rate.range_len().clamp(RANGE_LEN_SLOW, RANGE_LEN_MAX);
        self.client.rate.as_ref().map_or(RANGE_LEN_MAX, slow)
    }

    fn gap_max(&self) -> u64 {
        GAP_MAX
    }

    fn pause(&self) -> Duration {
        self.pause
    }

    fn signature(&self) -> Option<Vec<u8>> {
        let beside = self.client.address.beside(SIGNATURE_SUFFIX)?;
        let ask = || whole(&self.client, &beside.url, SIGNATURE_LEN_MAX);
        again(self.timeout, self.pause, ask)
            .inspect_err(|failed| tracing::info!("no {}: {failed}", beside.shown))
            .ok()
    }

    fn shown(&self) -> String {
        self.client.address.shown.clone()
    }
}
