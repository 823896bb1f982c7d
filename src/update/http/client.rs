//! How is a server asked? With TLS, a proxy and limits of time; and what is made of what goes wrong.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::http::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, COOKIE, ETAG, LAST_MODIFIED,
};
use ureq::http::{HeaderName, HeaderValue, Response, StatusCode, Uri};
use ureq::{Agent, Body, ResponseExt, config::RedirectAuthHeaders};

use super::rate::{self, Pace, Rate};
use super::{HttpOptions, proxy, tls};
use crate::format::field::u64_from_usize;
use crate::update::failed::Failed;
use crate::update::origin::Trouble;

/// Longest time until a connection stands, if nothing shorter is wanted.
const CONNECT_TIME: Duration = Duration::from_secs(30);

/// The address of a file.
#[derive(Debug, Clone)]
pub(super) struct Address {
    pub(super) url: Uri,
    /// For people: without password, and without a query, which may be as good as one.
    pub(super) shown: String,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Address, Failed> {
        let parsed: Result<Uri, _> = url.parse();
        let failed = |what: &str| Failed::new(format_args!("{what} is no http or https address"));
        let Ok(url) = parsed else { return Err(failed("what was given")) };
        let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
            return Err(failed(url.path()));
        };
        let place =
            authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host);
        let query = if url.query().is_some() { "?…" } else { "" };
        let shown = format!("{scheme}://{place}{}{query}", url.path());
        if !matches!(scheme, "http" | "https") || authority.host().is_empty() {
            return Err(failed(&shown));
        }
        Ok(Address { url, shown })
    }

    /// The address of the file beside it whose name is longer by `suffix`.
    pub(super) fn beside(&self, suffix: &str) -> Option<Address> {
        let query = self.url.query().map_or(String::new(), |query| format!("?{query}"));
        let mut parts = self.url.clone().into_parts();
        parts.path_and_query = format!("{}{suffix}{query}", self.url.path()).parse().ok();
        Some(Address {
            url: Uri::from_parts(parts).ok()?,
            shown: format!("{}{suffix}", self.shown.trim_end_matches("?…")),
        })
    }
}

/// Asks one server.
pub(super) struct Client {
    agent: Agent,
    pub(super) address: Address,
    headers: Vec<(HeaderName, HeaderValue)>,
    has_certificate: bool,
    timeout: Duration,
    pub(super) rate: Option<Rate>,
}

impl Client {
    pub(super) fn new(url: &str, options: &HttpOptions) -> Result<Client, Failed> {
        let address = Address::parse(url)?;
        let header = |(name, value): &(String, String)| {
            let name: Option<HeaderName> = name.parse().ok();
            let value: Option<HeaderValue> = value.parse().ok();
            name.zip(value)
        };
        let headers: Option<Vec<_>> = options.headers.iter().map(header).collect();
        let headers = headers.ok_or_else(|| {
            Failed::new("a header has characters that no header may have").hint("NAME: VALUE")
        })?;
        let connect_time = options.timeout.min(CONNECT_TIME);
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // What was asked for safely is not had from elsewhere unsafely.
            .https_only(address.url.scheme_str() == Some("https"))
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .tls_config(tls::config(options)?)
            .proxy(proxy::from_environment(&address.url)?)
            .user_agent(concat!("ashlar/", env!("CARGO_PKG_VERSION")))
            // Ranges of what is compressed on the way are ranges of something else.
            .accept_encoding("identity")
            .timeout_resolve(Some(connect_time))
            .timeout_connect(Some(connect_time))
            .timeout_send_request(Some(options.timeout))
            .timeout_recv_response(Some(options.timeout))
            .timeout_per_read(Some(options.timeout))
            .max_idle_connections(options.connections)
            .max_idle_connections_per_host(options.connections)
            .build();
        Ok(Client {
            agent: config.new_agent(),
            address,
            headers,
            has_certificate: options.tls_cert.is_some(),
            timeout: options.timeout,
            rate: options.limit_rate.map(Rate::new),
        })
    }

    /// Asks for `url`, with headers for this question alone.
    pub(super) fn get(&self, url: &Uri, own: &[(HeaderName, String)]) -> Result<Answer, Trouble> {
        let home = &self.address.url;
        let is_home = (url.scheme(), url.host()) == (home.scheme(), home.host());
        let mut request = self.agent.get(url);
        for (name, value) in &self.headers {
            // Credentials are for the server that they were given for.
            if is_home || (name != AUTHORIZATION && name != COOKIE) {
                request = request.header(name, value);
            }
        }
        for (name, value) in own {
            request = request.header(name, value);
        }
        let called = if self.has_certificate {
            // ureq 3.5 takes a certificate and a key that do not belong together for impossible.
            catch_unwind(AssertUnwindSafe(|| request.call())).map_err(|_| {
                let failed = Failed::new("the certificate cannot be used with the key");
                failed.hint("--tls-cert and --tls-key name a pair")
            })?
        } else {
            request.call()
        };
        let answer = Answer { response: called.map_err(|err| self.trouble(err))? };
        match answer.header(&CONTENT_ENCODING) {
            Some(encoding) if answer.is_success() && encoding != "identity" => {
                let failed = self.failed(format_args!("it comes encoded ({encoding})"));
                Err(Trouble::Final(failed.hint("have the server give the file as it is")))
            }
            _ => Ok(answer),
        }
    }

    /// Hands on what comes, up to `len` bytes. Returns how many came.
    pub(super) fn pour(
        &self,
        answer: Answer,
        len: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Failed>,
    ) -> Result<u64, Trouble> {
        let body = answer.response.into_body();
        let is_exact = body.content_length() == Some(len);
        let mut body = body.into_reader();
        let mut pace = Pace::new(self.timeout);
        let mut piece = vec![0; rate::piece_len(self.rate.as_ref())];
        let mut came = 0;
        while came < len {
            let room = usize::try_from(len.saturating_sub(came)).unwrap_or(usize::MAX);
            let room = room.min(piece.len());
            let buf = piece.get_mut(..room).unwrap_or_default();
            let asked = Instant::now();
            let now = match body.read(buf) {
                Ok(0) => return Ok(came),
                Ok(now) => now,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(self.trouble(err.into())),
            };
            if pace.is_stalled(asked.elapsed(), now) {
                return Err(Trouble::Passing(self.failed("hardly anything comes any more")));
            }
            if let Some(rate) = &self.rate {
                rate.pay(now);
            }
            take(buf.get(..now).unwrap_or_default())?;
            came = came.saturating_add(u64_from_usize(now));
        }
        if is_exact {
            // Only who read the end leaves the connection free for the next question.
            let end = body.read(&mut [0]);
            tracing::trace!("behind the last byte: {end:?}");
        }
        Ok(came)
    }

    /// A failure that names the address.
    pub(super) fn failed(&self, what: impl std::fmt::Display) -> Failed {
        Failed::new(format_args!("{}: {what}", self.address.shown))
    }

    /// What an answer means that is neither the whole nor a part.
    pub(super) fn refused(&self, status: StatusCode) -> Trouble {
        let failed = self.failed(format_args!("the server answers {status}"));
        match status.as_u16() {
            401 => Trouble::Final(failed.hint(
                "it wants credentials: user:password@ before the host, or an Authorization header",
            )),
            403 => {
                Trouble::Final(failed.hint("are credentials missing, or has the address run out?"))
            }
            404 | 410 => Trouble::Final(failed.hint("is the address right, and the file there?")),
            408 | 425 | 429 | 500..=599 => Trouble::Passing(failed),
            _ => Trouble::Final(failed),
        }
    }

    fn unknown(&self) -> Trouble {
        let failed = self.failed("the host is not found");
        Trouble::Passing(failed.hint("is its name right, and is there a network?"))
    }

    /// What became of a question that was not answered.
    fn trouble(&self, err: Error) -> Trouble {
        let seconds = self.timeout.as_secs_f32();
        match err {
            Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                let seconds = self.timeout.min(CONNECT_TIME).as_secs_f32();
                let failed = self.failed(format_args!("no connection within {seconds} s"));
                Trouble::Passing(failed.hint("is there a network, and does it let this through?"))
            }
            Error::Timeout(_) => {
                Trouble::Passing(self.failed(format_args!("nothing came for {seconds} s")))
            }
            Error::HostNotFound => self.unknown(),
            // The words of Rust's library; there is no kind for it.
            Error::Io(err) if err.to_string().contains("lookup address") => self.unknown(),
            // What rustls says of the other side, for instance "invalid peer certificate: UnknownIssuer".
            Error::Io(err) if err.to_string().to_lowercase().contains("certificate") => {
                Trouble::Final(self.failed(err).hint(
                    "--tls-ca names the authority that vouches for the server, --tls-cert what vouches for this machine; is the clock right?",
                ))
            }
            Error::Io(err) => Trouble::Passing(match err.kind() {
                // In ureq's words "Peer disconnected", in others' "unexpected end of file".
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => self.failed("the connection broke off"),
                io::ErrorKind::ConnectionRefused => self
                    .failed("the connection is refused")
                    .hint("does a server run there, and is the port right?"),
                _ => self.failed(err),
            }),
            Error::Protocol(err) => {
                Trouble::Passing(self.failed(format_args!("what comes is no HTTP/1.1: {err}")))
            }
            Error::RequireHttpsOnly(_) => Trouble::Final(
                self.failed("it leads from https to http")
                    .hint("give the http address if that is what you want"),
            ),
            Error::ConnectProxyFailed(why) => Trouble::Passing(
                self.failed(format_args!("the proxy does not connect: {why}"))
                    .hint("the proxy must allow CONNECT, to the port of an http address as well"),
            ),
            err @ (Error::TooManyRedirects
            | Error::RedirectFailed
            | Error::BadUri(_)
            | Error::Http(_)
            | Error::Tls(_)) => Trouble::Final(self.failed(err)),
            err => Trouble::Passing(self.failed(err)),
        }
    }
}

/// What a server answered.
pub(super) struct Answer {
    response: Response<Body>,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    fn is_success(&self) -> bool {
        self.status().is_success()
    }

    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// How long the body is, where the server says so.
    pub(super) fn content_length(&self) -> Option<u64> {
        self.response.body().content_length()
    }

    /// Where it came from in the end.
    pub(super) fn url(&self) -> &Uri {
        self.response.get_uri()
    }

    /// What changes when the file does: its strong `ETag`, or the time of its last change.
    pub(super) fn version(&self) -> Option<String> {
        let etag = self.header(&ETAG).filter(|etag| etag.starts_with('"'));
        etag.or_else(|| self.header(&LAST_MODIFIED)).map(str::to_owned)
    }

    /// Which bytes these are, and of how many.
    pub(super) fn content_range(&self) -> Option<(std::ops::Range<u64>, u64)> {
        content_range(self.header(&CONTENT_RANGE)?)
    }
}

/// Reads `bytes 0-4095/100000`.
fn content_range(value: &str) -> Option<(std::ops::Range<u64>, u64)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = total.parse().ok()?;
    (first <= last && last < total).then_some((first..last.checked_add(1)?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(content_range("bytes 0-4095/100000"), Some((0..4096, 100_000)));
        assert_eq!(content_range("bytes 7-7/8"), Some((7..8, 8)));
        for wrong in [
            "",
            "bytes",
            "bytes */100",
            "bytes 0-9/*",
            "bytes 9-0/100",
            "bytes 0-100/100",
            "bytes 0-18446744073709551615/18446744073709551615",
            "bytes -1-5/100",
            "octets 0-9/100",
            "bytes 0-99999999999999999999/100",
        ] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let address = Address::parse("https://me:word@example.org:8443/a/b.img?token=1#x").unwrap();
        assert_eq!(address.shown, "https://example.org:8443/a/b.img?…");
        let beside = address.beside(".minisig").unwrap();
        assert_eq!(beside.shown, "https://example.org:8443/a/b.img.minisig");
        assert_eq!(
            beside.url.to_string(),
            "https://me:word@example.org:8443/a/b.img.minisig?token=1"
        );
        for wrong in
            ["", "root.img", "/root.img", "ftp://a/b", "http://", "http:///a", "http://a b/"]
        {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
