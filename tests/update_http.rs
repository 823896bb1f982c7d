//! Does an update over HTTP end well, or say why not, whatever the server does?
#![cfg(feature = "net")]

#[path = "support/machine.rs"]
mod machine;
#[path = "support/server.rs"]
mod server;

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ashlarfs::Anchor;
use ashlarfs::update::failed::Failed;
use ashlarfs::update::http::{Http, HttpOptions, get_text};
use ashlarfs::update::install::Installed;
use ashlarfs::update::origin::{Origin, Trouble};
use machine::{Image, Machine, NEW, OLD, good, hasty, options, work};
use server::{Answer, End, Question, Server};

/// A server that answers well, but for what `spoil` does to each answer but the first.
fn spoiled(spoil: impl Fn(&Question, &mut Answer) + Send + Sync + 'static) -> Server {
    Server::start(move |question| {
        let mut answer = good(question);
        if question.number > 0 {
            spoil(question, &mut answer);
        }
        answer
    })
}

/// The new image comes whatever `spoil` does.
fn succeeds(
    options: &HttpOptions,
    spoil: impl Fn(&Question, &mut Answer) + Send + Sync + 'static,
) -> (Server, Installed) {
    let server = spoiled(spoil);
    let installed = Machine::with_old().update(&server, options).unwrap();
    (server, installed)
}

/// It does not, and what is said has `what` in it.
fn fails(
    options: &HttpOptions,
    what: &str,
    spoil: impl Fn(&Question, &mut Answer) + Send + Sync + 'static,
) {
    let server = spoiled(spoil);
    let failed = Machine::new().update(&server, options).unwrap_err();
    assert!(failed.message.contains(what), "{failed}");
}

fn read(origin: &dyn Origin, range: Range<u64>) -> Result<Vec<u8>, Trouble> {
    let mut raw = Vec::new();
    origin.read(range, &mut |piece| {
        raw.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(raw)
}

#[test]
fn an_image_comes_in_ranges() {
    let server = Server::good(NEW.bytes.clone());
    let installed = Machine::new().update(&server, &options()).unwrap();
    assert!(!installed.was_here && installed.is_next);
    assert_eq!((installed.bytes_copied, installed.bytes_resumed), (0, 0));
    let questions = server.questions();
    assert!(questions.iter().all(|question| question.range.is_some()));
    assert!(questions[1..].iter().all(|question| question.headers["if-range"] == "\"one\""));
    assert!(questions.iter().all(|question| question.headers["accept-encoding"] == "identity"));
    let agent = format!("ashlar/{}", env!("CARGO_PKG_VERSION"));
    assert!(questions.iter().all(|question| question.headers["user-agent"] == agent));
    // Nothing comes twice but what is between blocks, and connections are used again.
    assert!(server.body_sent() <= NEW.bytes.len() as u64, "{} bytes", server.body_sent());
    assert!(server.connections() <= 4, "{} connections", server.connections());
    assert!(questions.len() < 12, "{} questions", questions.len());
}

#[test]
fn only_what_is_new_comes() {
    let machine = Machine::with_old();
    let server = Server::good(NEW.bytes.clone());
    let installed = machine.update(&server, &options()).unwrap();
    let work = work();
    let open = |name: &str, image: &Image| {
        let path = work.path().join(name);
        fs::write(&path, &image.bytes).unwrap();
        let options = ashlarfs::Options::new(Anchor::RootDigest(image.digest));
        ashlarfs::open(&path, &options).unwrap()
    };
    let (old, new) = (open("old", &OLD), open("new", &NEW));
    let said = ashlarfs::diff::download(old.store(), new.store()).unwrap();
    println!("{said:?}, {} bytes sent, {installed:?}", server.body_sent());
    assert!(said.bytes * 5 < said.total_bytes);
    assert!(server.body_sent() <= said.bytes + said.bytes / 100, "{} sent", server.body_sent());
    assert!(server.body_sent() >= said.bytes);
    let overhead = server.sent() - server.body_sent();
    assert!(overhead < said.bytes / 50, "{overhead} bytes of answers' heads");
    assert!(installed.bytes_copied > NEW.bytes.len() as u64 * 3 / 4);
}

#[test]
fn nothing_comes_of_an_image_that_is_here() {
    let machine = Machine::with_old();
    let server = Server::good(OLD.bytes.clone());
    let http = Http::open(&server.url("/"), &options()).unwrap();
    assert!(machine.install(&http, &OLD).unwrap().was_here);
    assert_eq!(server.questions().len(), 1);
}

#[test]
fn a_broken_update_goes_on_where_it_stopped() {
    let machine = Machine::new();
    let sent = AtomicUsize::new(0);
    let half = NEW.bytes.len() / 2;
    // After half of it the server is gone.
    let server = spoiled(move |_, answer| {
        let before = sent.fetch_add(answer.body.len(), Ordering::Relaxed);
        if before + answer.body.len() > half {
            answer.end = End::Cut(half.saturating_sub(before));
        }
    });
    let failed = machine.update(&server, &options()).unwrap_err();
    assert!(failed.hint.unwrap().contains("goes on from there"));
    let server = Server::good(NEW.bytes.clone());
    let installed = machine.update(&server, &options()).unwrap();
    let rest = server.body_sent();
    println!("{rest} of {} came the second time: {installed:?}", NEW.bytes.len());
    assert!(installed.bytes_resumed > half as u64 * 2 / 3);
    assert!(rest + installed.bytes_resumed <= NEW.bytes.len() as u64 + 8192);
}

#[test]
fn connections_may_break_as_long_as_something_comes() {
    for len in [300_000, 100_000, 20_000] {
        succeeds(&options(), move |_, answer| {
            answer.end = End::Cut(len.min(answer.body.len().saturating_sub(1)).max(20_000));
        });
    }
    // So little that it would be a question for every few bytes.
    fails(&options(), "broke off", |_, answer| answer.end = End::Cut(1000));
}

#[test]
fn who_stalls_is_asked_again() {
    let (server, _) = succeeds(&hasty(), |question, answer| {
        if question.number % 3 == 1 {
            answer.end = End::Stall(5000);
        }
    });
    assert!(server.questions().len() > 2);
    succeeds(&hasty(), |question, answer| {
        if question.number % 3 == 1 {
            answer.end = End::Trickle(5000);
        }
    });
    succeeds(&hasty(), |question, answer| {
        if question.number % 3 == 1 {
            answer.end = End::Silence;
        }
    });
}

#[test]
fn who_never_sends_is_given_up() {
    fails(
        &HttpOptions { timeout: Duration::from_millis(100), ..options() },
        "nothing came",
        |_, answer| {
            answer.end = End::Stall(10);
        },
    );
    let server = Server::start(|_| Answer { end: End::Silence, ..Answer::status(200) });
    let failed = Http::open(&server.url("/"), &hasty()).unwrap_err();
    assert!(failed.message.contains("nothing came for 0.3 s"), "{failed}");
}

#[test]
fn a_server_without_ranges_sends_the_whole() {
    let whole = |question: &Question| Question { range: None, ..question.clone() };
    let server = Server::start(move |question| good(&whole(question)));
    let installed = Machine::with_old().update(&server, &options()).unwrap();
    assert_eq!(installed.bytes_fetched, NEW.bytes.len() as u64);
    assert_eq!(server.questions().len(), 2);

    // Once it breaks: it begins anew.
    let server = Server::start(move |question| {
        let end = if question.number == 1 { End::Cut(1 << 20) } else { End::Whole };
        Answer { end, ..good(&whole(question)) }
    });
    Machine::new().update(&server, &options()).unwrap();

    let spoilers: [(&str, fn(&Question, &mut Answer)); 5] = [
        ("broke off", |_, answer| answer.end = End::Cut(1 << 20)),
        ("is not what was sealed", |_, answer| answer.body[1 << 20] ^= 1),
        ("changed on the server", |question, answer| {
            answer.header("ETag", format!("\"{}\"", question.number));
        }),
        ("changed on the server", |_, answer| {
            answer.headers.remove("ETag");
            answer.body.push(0);
            answer.header("Content-Length", answer.body.len());
        }),
        ("404", |_, answer| *answer = Answer::status(404)),
    ];
    for (what, spoil) in spoilers {
        let server = Server::start(move |question| {
            let mut answer = good(&whole(question));
            if question.number > 0 {
                spoil(question, &mut answer);
            }
            answer
        });
        let machine = Machine::new();
        let failed = machine.update(&server, &options()).unwrap_err();
        assert!(failed.message.contains(what), "{failed}");
        // What cannot be gone on with takes no room.
        assert_eq!(fs::read_dir(machine.data.path().join("images")).unwrap().count(), 0);
    }
}

#[test]
fn a_length_must_be_known_and_may_be_a_lie() {
    let whole = |question: &Question| good(&Question { range: None, ..question.clone() });
    let server = Server::start(move |question| {
        let mut answer = whole(question);
        answer.headers.remove("Content-Length");
        answer
    });
    let failed = Machine::new().update(&server, &options()).unwrap_err();
    assert!(failed.message.contains("how long"), "{failed}");

    // More than any disk has: only as much is made room for as the image says that it has.
    let server = Server::start(move |question| {
        let mut answer = whole(question);
        answer.header("Content-Length", 1_u64 << 60);
        answer.end = End::Cut(usize::MAX);
        answer
    });
    let failed = Machine::new().update(&server, &options()).unwrap_err();
    assert!(failed.message.contains("broke off"), "{failed}");

    let server = Server::start(move |question| {
        let mut answer = good(question);
        let range = question.range.clone().unwrap();
        let last = range.end.min(NEW.bytes.len()) - 1;
        answer.header("Content-Range", format!("bytes {}-{last}/{}", range.start, 1_u64 << 60));
        answer
    });
    Machine::new().update(&server, &options()).unwrap_err();

    // Not even a whole superblock.
    for len in [0, 1, 100, 4095] {
        let server = Server::good(NEW.bytes[..len].to_vec());
        Machine::new().update(&server, &options()).unwrap_err();
    }
    // Half of an image.
    let server = Server::good(NEW.bytes[..NEW.bytes.len() / 2].to_vec());
    Machine::new().update(&server, &options()).unwrap_err();
    let server = Server::start(move |question| {
        let question = Question { range: None, ..question.clone() };
        Answer::good(&question, &NEW.bytes[..NEW.bytes.len() / 2], "\"one\"")
    });
    let failed = Machine::new().update(&server, &options()).unwrap_err();
    assert!(failed.hint.unwrap().contains("not whole"));
}

#[test]
fn another_range_than_was_asked_for_is_not_taken() {
    let shift = |by: usize| {
        move |question: &Question, answer: &mut Answer| {
            let mut other = question.clone();
            other.range = other.range.map(|range| range.start - by..range.end - by);
            *answer = good(&other);
        }
    };
    fails(&options(), "were asked for", shift(1));
    fails(&options(), "were asked for", |question, answer| {
        let range = question.range.clone().unwrap();
        let last = range.end.min(NEW.bytes.len()) - 1;
        answer.header("Content-Range", format!("bytes {}-{last}/{}", range.start, 99_999_999));
    });
    fails(&options(), "which part", |_, answer| {
        answer.headers.remove("Content-Range");
    });
    succeeds(&options(), move |question, answer| {
        if question.number % 3 == 1 {
            shift(4096)(question, answer);
        }
    });
    // It says the right range, and sends another: only the digests know.
    fails(&options(), "", move |question, answer| {
        let headers = answer.headers.clone();
        shift(1)(question, answer);
        answer.headers = headers;
    });
}

#[test]
fn neither_more_nor_less_than_was_asked_for_is_taken() {
    let (server, installed) = succeeds(&options(), |_, answer| {
        answer.body.extend([7; 100_000]);
        answer.header("Content-Length", answer.body.len());
    });
    assert!(installed.bytes_fetched < server.body_sent());
    // Shorter ranges than were asked for, and said to be so.
    succeeds(&options(), |question, answer| {
        let range = question.range.clone().unwrap();
        let last = (range.end.min(NEW.bytes.len()) - 1).min(range.start + 29_999);
        answer.body.truncate(30_000);
        answer.header("Content-Range", format!("bytes {}-{last}/{}", range.start, NEW.bytes.len()));
        answer.header("Content-Length", answer.body.len());
    });
    // And not said.
    succeeds(&options(), |_, answer| {
        answer.body.truncate(30_000);
        answer.header("Content-Length", answer.body.len());
    });
    fails(&options(), "bytes came of", |_, answer| {
        answer.body.truncate(10);
        answer.header("Content-Length", answer.body.len());
    });
}

#[test]
fn a_flipped_bit_is_fetched_again() {
    let flip = |answer: &mut Answer| {
        let middle = answer.body.len() / 2;
        answer.body[middle] ^= 1;
    };
    for every in [2, 3, 5] {
        succeeds(&options(), move |question, answer| {
            if question.number % every == 1 {
                flip(answer);
            }
        });
    }
    fails(&options(), "", move |_, answer| flip(answer));
    // The tables are right, and one block never is.
    let bad = NEW.bytes.len() / 3;
    fails(&options(), "is not what was sealed", move |question, answer| {
        let range = question.range.clone().unwrap();
        if range.contains(&bad) {
            answer.body[bad - range.start] ^= 1;
        }
    });
}

#[test]
fn errors_of_the_server_pass() {
    for status in [500, 502, 503, 429, 408] {
        succeeds(&options(), move |question, answer| {
            if question.number % 2 == 1 {
                *answer = Answer::status(status);
            }
        });
    }
    // At the very first, too.
    let server =
        Server::start(
            |question| {
                if question.number < 3 { Answer::status(503) } else { good(question) }
            },
        );
    Machine::with_old().update(&server, &options()).unwrap();
    fails(&options(), "503", |_, answer| *answer = Answer::status(503));
    fails(&options(), "404", |_, answer| *answer = Answer::status(404));
}

#[test]
fn a_question_that_is_refused_is_not_asked_again() {
    for (status, hint) in
        [(401, "credentials"), (403, "credentials"), (404, "address"), (410, "address"), (400, "")]
    {
        let server = Server::start(move |_| Answer::status(status));
        let failed = Http::open(&server.url("/root.img?key=secret"), &options()).unwrap_err();
        assert!(failed.message.contains(&status.to_string()), "{failed}");
        assert!(failed.message.contains("/root.img?…"), "{failed}");
        assert!(failed.hint.unwrap_or_default().contains(hint));
        assert_eq!(server.questions().len(), 1);
    }
    let dead = { Server::good(Vec::new()).url("/") };
    let failed = Http::open(&dead, &options()).unwrap_err();
    assert!(failed.message.contains("is refused"), "{failed}");
    let failed = Http::open("http://nowhere.invalid/", &options()).unwrap_err();
    assert!(failed.hint.is_some(), "{failed}");
    Http::open("file:///root.img", &options()).unwrap_err();
}

#[test]
fn a_file_that_changes_meanwhile_is_noticed() {
    let other = |question: &Question| question.number > 1;
    let server = Server::start(move |question| {
        if other(question) { Answer::good(question, &OLD.bytes, "\"two\"") } else { good(question) }
    });
    let machine = Machine::new();
    let failed = machine.update(&server, &options()).unwrap_err();
    assert!(failed.message.contains("changed on the server"), "{failed}");
    assert!(failed.hint.unwrap().contains("run it again"));

    // A server that does not tell, and one that ignores the condition.
    for etag in [None, Some("\"two\"")] {
        let server = Server::start(move |question| {
            let mut question = question.clone();
            question.headers.remove("if-range");
            let file = if other(&question) { &OLD } else { &NEW };
            let etag = if other(&question) { etag } else { etag.map(|_| "\"one\"") };
            let mut answer = Answer::good(&question, &file.bytes, etag.unwrap_or_default());
            if etag.is_none() {
                answer.headers.remove("ETag");
            }
            answer
        });
        Machine::new().update(&server, &options()).unwrap_err();
    }
}

#[test]
fn a_server_that_never_believes_the_condition_is_asked_without() {
    let server = Server::start(|question| {
        let mut answer = good(question);
        if question.headers.contains_key("if-range") {
            answer = good(&Question { range: None, ..question.clone() });
        }
        answer.headers.remove("ETag");
        answer.header("Last-Modified", "Sat, 01 Aug 2026 10:00:00 GMT");
        answer
    });
    Machine::with_old().update(&server, &options()).unwrap();
}

#[test]
fn bytes_are_read_as_asked_for() {
    let server = Server::good(NEW.bytes.clone());
    let http = Http::open(&server.url("/new.img"), &options()).unwrap();
    let len = http.len();
    assert_eq!(len, NEW.bytes.len() as u64);
    for range in
        [0..0, 0..1, 0..4096, 10..20, 4095..4096, 0..4097, 4096..4097, len - 1..len, 5..len]
    {
        let (start, end) = (range.start as usize, range.end as usize);
        assert!(read(&http, range.clone()).unwrap() == NEW.bytes[start..end], "{range:?}");
    }
    // What came with the first answer is not asked for again.
    assert_eq!(server.questions().len(), 5);
    assert!(matches!(read(&http, len..len + 1), Err(Trouble::Final(_))));
    // Who takes says when it is enough.
    let mut came = 0;
    let refused = http.read(0..len, &mut |piece| {
        came += piece.len();
        Err(Failed::new("enough"))
    });
    assert!(matches!(refused, Err(Trouble::Final(failed)) if failed.message == "enough"));
    assert!(came <= 64 << 10);
    // And the connection that was left half read harms nobody.
    assert!(read(&http, 5..len).unwrap() == NEW.bytes[5..]);
}

#[test]
fn what_is_encoded_on_the_way_is_refused() {
    let server = Server::start(|question| {
        let mut answer = good(question);
        answer.header("Content-Encoding", "gzip");
        answer
    });
    let failed = Machine::new().update(&server, &options()).unwrap_err();
    assert!(failed.message.contains("encoded"), "{failed}");
}

#[test]
fn small_files_come_whole_or_not_at_all() {
    let server = Server::start(|question| match question.path.as_str() {
        "/a/new.img?token=1" => good(question),
        "/a/new.img.minisig?token=1" => Answer::good(question, b"signature", "\"s\""),
        "/long" => Answer::good(question, &[b'x'; 2000], "\"l\""),
        "/endless" => {
            let mut answer = Answer::good(question, &vec![b'x'; 10 << 20], "\"e\"");
            answer.headers.remove("Content-Length");
            answer
        }
        "/broken" => Answer { end: End::Cut(5), ..Answer::good(question, &[b'x'; 20], "\"b\"") },
        _ => Answer::status(404),
    });
    let http = Http::open(&server.url("/a/new.img?token=1"), &options()).unwrap();
    assert_eq!(http.signature().as_deref(), Some(&b"signature"[..]));
    let get = |path: &str| get_text(&server.url(path), &options(), 1999);
    assert_eq!(get("/a/new.img.minisig?token=1").unwrap(), b"signature");
    assert_eq!(get_text(&server.url("/long"), &options(), 2000).unwrap(), [b'x'; 2000]);
    for path in ["/long", "/endless", "/broken", "/none"] {
        get(path).unwrap_err();
    }
    let server = Server::good(NEW.bytes.clone());
    let http = Http::open(&server.url("/new.img"), &options()).unwrap();
    assert_eq!(http.signature(), None);
}

#[test]
fn the_rate_holds_for_all_connections_together() {
    let server = Server::good(NEW.bytes.clone());
    let options = HttpOptions { limit_rate: Some(2_000_000), ..options() };
    let http = Http::open(&server.url("/new.img"), &options).unwrap();
    assert_eq!(http.range_len_max(), 4 << 20);
    let slow = HttpOptions { limit_rate: Some(10_000), ..options.clone() };
    let slow = Http::open(&server.url("/new.img"), &slow).unwrap();
    assert_eq!(slow.range_len_max(), 256 << 10);
    let came = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (http, came) = (&http, &came);
            scope.spawn(move || {
                let from = 10_000 + number * 500_000;
                let raw = read(http, from..from + 500_000).unwrap();
                came.fetch_add(raw.len() as u64, Ordering::Relaxed);
            });
        }
    });
    let took = start.elapsed();
    assert_eq!(came.into_inner(), 2_000_000);
    assert!(took > Duration::from_millis(950), "{took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn idle_connections_that_the_server_closed_are_no_trouble() {
    let server = Server::start(|question| {
        let mut answer = good(question);
        answer.end = End::Cut(usize::MAX);
        answer
    });
    Machine::new().update(&server, &options()).unwrap();
    assert!(server.connections() > 3);
}

#[test]
fn connections_are_as_many_as_are_wanted() {
    let at_once = AtomicUsize::new(0);
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let server = Server::start(move |question| {
        seen.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(30));
        at_once.fetch_sub(1, Ordering::SeqCst);
        good(question)
    });
    // Slow, so that ranges are short and there are many of them.
    let options = HttpOptions { connections: 3, limit_rate: Some(3_000_000), ..options() };
    let http = Http::open(&server.url("/new.img"), &options).unwrap();
    Machine::new().install(&http, &NEW).unwrap();
    let most = most.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at once");
}

/// An origin that says that it read, and hands on something else than was asked for.
struct Liar<F: Fn(usize, Range<u64>) -> Vec<u8> + Sync> {
    has_ranges: bool,
    asked: AtomicUsize,
    gives: F,
}

impl<F: Fn(usize, Range<u64>) -> Vec<u8> + Sync> Origin for Liar<F> {
    fn len(&self) -> u64 {
        NEW.bytes.len() as u64
    }

    fn read(
        &self,
        range: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> Result<(), Failed>,
    ) -> Result<(), Trouble> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(take(&(self.gives)(number, range))?)
    }

    fn has_ranges(&self) -> bool {
        self.has_ranges
    }

    fn pause(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn shown(&self) -> String {
        "http://liar".to_owned()
    }
}

/// What an image has of a range.
fn part(image: &Image, range: Range<u64>) -> Vec<u8> {
    let len = image.bytes.len();
    let (start, end) = (range.start as usize, range.end as usize);
    image.bytes[start.min(len)..end.min(len)].to_vec()
}

#[test]
fn whoever_hands_on_less_than_was_asked_for_is_not_asked_for_ever() {
    for has_ranges in [true, false] {
        for honest in 0..if has_ranges { 4 } else { 3 } {
            let gives = |number: usize, range| {
                if number < honest { part(&NEW, range) } else { Vec::new() }
            };
            let liar = Liar { has_ranges, asked: AtomicUsize::new(0), gives };
            let failed = Machine::new().install(&liar, &NEW).unwrap_err();
            assert!(failed.message.contains("came"), "{failed}");
            assert!(liar.asked.into_inner() < 30);
        }
        // Another image than it was at first: never under the first one's name.
        for honest in 0..if has_ranges { 4 } else { 3 } {
            let gives =
                |number: usize, range| part(if number < honest { &NEW } else { &OLD }, range);
            let liar = Liar { has_ranges, asked: AtomicUsize::new(0), gives };
            Machine::new().install(&liar, &NEW).unwrap_err();
        }
    }
}

#[test]
fn an_image_gets_no_name_but_its_own() {
    // Nobody vouches for it, so that nothing but its own digest tells which one it is.
    for has_ranges in [true, false] {
        let gives = |number: usize, range| part(if number == 0 { &NEW } else { &OLD }, range);
        let liar = Liar { has_ranges, asked: AtomicUsize::new(0), gives };
        let machine = Machine::new();
        let failed = machine.install_as(&liar, &NEW, &Anchor::Unauthenticated).unwrap_err();
        println!("{failed}");
        assert!(!machine.path(&OLD).exists());
    }
}
