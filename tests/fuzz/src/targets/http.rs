//! What does a web server make of us that says anything? A real one, on the loopback device, whose answers are the input.
//!
//! The answers stand one behind the other, each behind its length (two bytes). After each the connection is closed, so that
//! nobody waits for what never comes. What would lead to another machine is made harmless first: nobody else is asked.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use ashlarfs::update::http::{Http, HttpOptions, get_text};
use ashlarfs::update::origin::Origin;

/// Answers that are still to be given.
#[derive(Debug, Default)]
struct Answers(Mutex<VecDeque<Vec<u8>>>);

impl Answers {
    fn next(&self) -> Option<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn set(&self, answers: VecDeque<Vec<u8>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answers;
    }
}

static ANSWERS: LazyLock<Arc<Answers>> = LazyLock::new(Arc::default);

/// Where the server is.
static PORT: LazyLock<u16> = LazyLock::new(|| {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // A client keeps connections for its next question, and breaks off as it likes.
            std::thread::spawn(move || answer(connection).ok());
        }
    });
    port
});

fn answer(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (mut question, mut buf) = (Vec::new(), [0; 4096]);
    while !question.windows(4).any(|window| window == b"\r\n\r\n") {
        match connection.read(&mut buf)? {
            0 => return Ok(()),
            came => question.extend_from_slice(&buf[..came]),
        }
    }
    connection.write_all(&ANSWERS.next().unwrap_or_default())?;
    connection.shutdown(Shutdown::Write)?;
    // Closed with something unread, the connection would be reset, and the answer lost.
    while connection.read(&mut buf)? > 0 {}
    Ok(())
}

/// Takes away where an answer leads, unless it is a plain path on this server.
fn harmless(answer: &mut [u8]) {
    const WORD: &[u8] = b"location";
    for at in 0..answer.len().saturating_sub(WORD.len() - 1) {
        if !answer[at..at + WORD.len()].eq_ignore_ascii_case(WORD) {
            continue;
        }
        let rest = &answer[at + WORD.len()..];
        let path =
            rest.strip_prefix(b": /").and_then(|rest| rest.split(|byte| *byte == b'\r').next());
        let is_plain = |path: &[u8]| path.iter().all(u8::is_ascii_alphanumeric);
        if !path.is_some_and(is_plain) {
            answer[at] = b'-';
        }
    }
}

fn answers(input: &[u8]) -> VecDeque<Vec<u8>> {
    let mut answers = VecDeque::new();
    let mut rest = input;
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes(*len)).min(after.len());
        let (answer, after) = after.split_at(len);
        let mut answer = answer.to_vec();
        harmless(&mut answer);
        answers.push_back(answer);
        rest = after;
    }
    answers
}

static OPTIONS: LazyLock<HttpOptions> = LazyLock::new(|| HttpOptions {
    connections: 1,
    timeout: Duration::from_secs(2),
    pause: Duration::ZERO,
    tls_ca: one_authority(),
    ..HttpOptions::default()
});

/// Of all authorities that the system believes one, which is not asked: reading all takes longer than all else here.
fn one_authority() -> Option<PathBuf> {
    let all = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").ok()?;
    let end = all.find("-----END CERTIFICATE-----\n")? + "-----END CERTIFICATE-----\n".len();
    let path = super::updates::scratch().join("authority.pem");
    std::fs::write(&path, &all[..end]).ok()?;
    Some(path)
}

pub(crate) fn http(input: &[u8]) {
    let url = format!("http://127.0.0.1:{}/root.img", *PORT);
    ANSWERS.set(answers(input));
    match Http::open(&url, &OPTIONS) {
        Ok(http) => read(&http),
        Err(failed) => assert!(!failed.message.is_empty()),
    }
    ANSWERS.set(answers(input));
    if let Ok(text) = get_text(&url, &OPTIONS, 100) {
        assert!(text.len() <= 100);
    }
}

fn read(http: &Http) {
    let len = http.len();
    assert!(len > 0);
    assert_eq!(http.beginning().len() as u64, len.min(4096));
    for range in [0..len.min(4096), 4096..4096 + 500, 0..len.min(9000), len - 1..len] {
        let (mut came, Range { start, end }) = (0_u64, range.clone());
        let read = http.read(range, &mut |piece| {
            came += piece.len() as u64;
            Ok(())
        });
        assert!(came <= end - start, "more came than was asked for");
        assert!(read.is_err() || came == end - start, "less came than was asked for");
    }
    if let Some(signature) = http.signature() {
        assert!(signature.len() <= 16 << 10);
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let body = [b'b'; 4096];
    let part = |range: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {range}\r\nContent-Length: {}\r\nETag: \"e\"\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let whole = [b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\nLast-Modified: x\r\n\r\n", &body[..]]
        .concat();
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec();
    let leads = b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".to_vec();
    let refused =
        b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */0\r\n\r\n".to_vec();
    let encoded =
        b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx".to_vec();
    let short = [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &b"short"[..]].concat();
    let framed = |answers: &[&[u8]]| {
        let frame = |answer: &&[u8]| {
            [&u16::try_from(answer.len()).unwrap().to_le_bytes()[..], answer].concat()
        };
        answers.iter().flat_map(frame).collect::<Vec<u8>>()
    };
    vec![
        framed(&[&part("0-4095/10000", &body), &part("4096-4595/10000", &body[..500])]),
        framed(&[&leads, &part("0-4095/5000", &body), &short]),
        framed(&[&whole, &whole]),
        framed(&[&chunked, &chunked]),
        framed(&[&refused, &encoded, &short, &short]),
        framed(&[&part("0-9/10", b"0123456789"), &part("9-9/10", b"9"), &short]),
        framed(&[
            b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\n\r\n",
            &short,
            b"HTTP/1.1 100 Continue\r\n\r\n",
        ]),
    ]
}
