//! An HTTP server for tests: it gives ranges as a good one does, and whatever a test makes of them.
#![allow(dead_code, unreachable_pub, reason = "each test binary includes it and uses a part")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What a client asks.
#[derive(Debug, Clone)]
pub struct Question {
    /// How many were asked before it.
    pub number: usize,
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub range: Option<Range<usize>>,
}

/// What it is answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub end: End,
}

/// What comes of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All of it, and the connection stays.
    Whole,
    /// So many bytes, then the connection is closed.
    Cut(usize),
    /// So many bytes, then nothing more.
    Stall(usize),
    /// So many bytes, then one now and then.
    Trickle(usize),
    /// Not even an answer.
    Silence,
}

impl Answer {
    pub fn status(status: u16) -> Answer {
        let headers = BTreeMap::from([("Content-Length".to_owned(), "0".to_owned())]);
        Answer { status, headers, body: Vec::new(), end: End::Whole }
    }

    /// As a good server answers about a file.
    pub fn good(question: &Question, file: &[u8], etag: &str) -> Answer {
        let condition = question.headers.get("if-range");
        let range = question.range.clone().filter(|_| condition.is_none_or(|it| it == etag));
        let mut headers = BTreeMap::from([("ETag".to_owned(), etag.to_owned())]);
        let (status, body) = match range {
            Some(range) if range.start >= file.len() => {
                headers.insert("Content-Range".to_owned(), format!("bytes */{}", file.len()));
                (416, Vec::new())
            }
            Some(range) => {
                let range = range.start..range.end.min(file.len());
                let (first, last) = (range.start, range.end - 1);
                let value = format!("bytes {first}-{last}/{}", file.len());
                headers.insert("Content-Range".to_owned(), value);
                (206, file[range].to_vec())
            }
            None => (200, file.to_vec()),
        };
        headers.insert("Content-Length".to_owned(), body.len().to_string());
        Answer { status, headers, body, end: End::Whole }
    }

    #[expect(clippy::needless_pass_by_value, reason = "it takes numbers and texts as they are")]
    pub fn header(&mut self, name: &str, value: impl ToString) {
        self.headers.insert(name.to_owned(), value.to_string());
    }
}

type Handler = dyn Fn(&Question) -> Answer + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    tls: Option<Arc<rustls::ServerConfig>>,
    is_over: AtomicBool,
    questions: Mutex<Vec<Question>>,
    connections: AtomicU64,
    sent: AtomicU64,
    body_sent: AtomicU64,
}

/// A server on this machine.
pub struct Server {
    pub at: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Question) -> Answer + Send + Sync + 'static) -> Server {
        Server::start_with(None, handler)
    }

    pub fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: impl Fn(&Question) -> Answer + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            tls,
            is_over: AtomicBool::new(false),
            questions: Mutex::new(Vec::new()),
            connections: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            body_sent: AtomicU64::new(0),
        });
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming() {
                    if shared.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    let shared = Arc::clone(&shared);
                    // Who went away in between is no fault of the server's.
                    thread::spawn(move || shared.serve(stream.unwrap()).ok());
                }
            }
        });
        Server { at, shared, accepting: Some(accepting) }
    }

    /// A server with one file that is always the same.
    pub fn good(file: Vec<u8>) -> Server {
        Server::start(move |question| Answer::good(question, &file, "\"one\""))
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.at)
    }

    pub fn questions(&self) -> Vec<Question> {
        self.shared.questions.lock().unwrap().clone()
    }

    /// How it speaks TLS, if it does.
    pub fn tls(&self) -> Option<Arc<rustls::ServerConfig>> {
        self.shared.tls.clone()
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes of answers.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Bytes of bodies.
    pub fn body_sent(&self) -> u64 {
        self.shared.body_sent.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        TcpStream::connect(self.at).ok();
        self.accepting.take().map(JoinHandle::join);
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Shared {
    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let connection = rustls::ServerConnection::new(Arc::clone(config));
                Box::new(rustls::StreamOwned::new(connection.unwrap(), stream))
            }
        };
        let mut stream = BufReader::new(stream);
        while let Some(question) = self.question(&mut stream)? {
            let answer = (self.handler)(&question);
            if !self.answer(stream.get_mut(), &answer)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn question(&self, stream: &mut impl BufRead) -> io::Result<Option<Question>> {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let path = line.split(' ').nth(1).unwrap().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let range = headers.get("range").map(|value| {
            let (first, last) = value.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            first.parse().unwrap()..last.parse::<usize>().unwrap() + 1
        });
        let mut questions = self.questions.lock().unwrap();
        let question = Question { number: questions.len(), path, headers, range };
        questions.push(question.clone());
        Ok(Some(question))
    }

    /// Returns whether the connection stays.
    fn answer(&self, stream: &mut dyn Stream, answer: &Answer) -> io::Result<bool> {
        if answer.end == End::Silence {
            self.wait();
            return Ok(false);
        }
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(stream, head.as_bytes(), false)?;
        let len = match answer.end {
            End::Cut(len) | End::Stall(len) | End::Trickle(len) => len.min(answer.body.len()),
            End::Whole | End::Silence => answer.body.len(),
        };
        let (now, rest) = answer.body.split_at(len);
        self.send(stream, now, true)?;
        match answer.end {
            End::Whole => return Ok(answer.headers.contains_key("Content-Length")),
            End::Trickle(_) => {
                for byte in rest.chunks(1) {
                    thread::sleep(Duration::from_millis(20));
                    self.send(stream, byte, true)?;
                }
            }
            End::Stall(_) => self.wait(),
            End::Cut(_) | End::Silence => {}
        }
        Ok(false)
    }

    /// As long as the server is there, but not for ever.
    fn wait(&self) {
        for _ in 0..1000 {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn send(&self, stream: &mut dyn Stream, bytes: &[u8], is_body: bool) -> io::Result<()> {
        for piece in bytes.chunks(64 << 10) {
            stream.write_all(piece)?;
            let len = u64::try_from(piece.len()).unwrap();
            self.sent.fetch_add(len, Ordering::Relaxed);
            self.body_sent.fetch_add(if is_body { len } else { 0 }, Ordering::Relaxed);
        }
        stream.flush()
    }
}
