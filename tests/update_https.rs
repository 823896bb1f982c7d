//! Is it the right server that is asked? Certificates, proxies, credentials, and where a server leads.
#![cfg(feature = "net")]

#[path = "support/machine.rs"]
mod machine;
#[path = "support/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use ashlarfs::update::failed::Failed;
use ashlarfs::update::http::{Http, HttpOptions};
use ashlarfs::update::origin::Origin;
use machine::{Machine, NEW, good, options, work};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use server::{Answer, Question, Server};
use tempfile::TempDir;

#[test]
fn it_is_followed_where_it_leads_and_asked_there() {
    let leads = |question: &Question| match question.path.as_str() {
        "/new.img" => {
            let mut answer = Answer::status(302);
            answer.header("Location", "/there/new.img?token=1");
            answer
        }
        _ => good(question),
    };
    let server = Server::start(leads);
    Machine::new().update(&server, &options()).unwrap();
    let asked = |path: &str| {
        server.questions().iter().filter(|question| question.path.starts_with(path)).count()
    };
    assert_eq!(asked("/new.img"), 1);
    assert!(asked("/there/new.img?token=1") > 3);

    // Where it leads is another place each time, and good for two questions.
    let uses = Mutex::new(BTreeMap::new());
    let server = Server::start(move |question| {
        let mut uses = uses.lock().unwrap();
        if question.path == "/new.img" {
            let (mut answer, place) = (Answer::status(302), format!("/there/{}", uses.len()));
            answer.header("Location", &place);
            uses.insert(place, 0);
            return answer;
        }
        let uses = uses.get_mut(&question.path).unwrap();
        *uses += 1;
        if *uses > 2 { Answer::status(403) } else { good(question) }
    });
    Machine::new().update(&server, &options()).unwrap();
    assert!(server.questions().iter().any(|question| question.path == "/there/1"));

    let server = Server::start(|_| {
        let mut answer = Answer::status(302);
        answer.header("Location", "/new.img");
        answer
    });
    let failed = Machine::new().update(&server, &options()).unwrap_err();
    assert!(failed.message.contains("redirects"), "{failed}");
}

#[test]
fn credentials_stay_with_the_server_that_they_are_for() {
    let there = Server::good(NEW.bytes.clone());
    let elsewhere = there.url("/new.img").replace("127.0.0.1", "localhost");
    let server = Server::start(move |_| {
        let mut answer = Answer::status(302);
        answer.header("Location", &elsewhere);
        answer
    });
    let headers = [("Authorization", "Bearer secret"), ("X-Machine", "seven")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let options = HttpOptions { headers, ..options() };
    Machine::new().update(&server, &options).unwrap();
    assert!(server.questions().iter().all(|it| it.headers["authorization"] == "Bearer secret"));
    assert!(there.questions().len() > 3);
    assert!(there.questions().iter().all(|it| !it.headers.contains_key("authorization")));
    assert!(there.questions().iter().all(|it| it.headers["x-machine"] == "seven"));

    let server = Server::good(NEW.bytes.clone());
    let url = server.url("/new.img").replace("//", "//me:word@");
    let http = Http::open(&url, &self::options()).unwrap();
    assert!(!http.shown().contains("word") && !format!("{http:?}").contains("word"));
    assert_eq!(server.questions()[0].headers["authorization"], "Basic bWU6d29yZA==");
    let secret = HttpOptions { headers: vec![("A\nB".into(), "secret".into())], ..self::options() };
    let failed = Http::open(&url, &secret).unwrap_err();
    assert!(!failed.message.contains("secret") && !format!("{secret:?}").contains("secret"));
}

/// An authority, and what it vouches for.
struct Authority {
    work: TempDir,
}

impl Authority {
    /// Made with openssl; none where there is no openssl.
    fn new(test: &str) -> Option<Authority> {
        if Command::new("openssl").arg("version").output().is_err() {
            eprintln!("skipped: {test}: there is no openssl");
            return None;
        }
        let authority = Authority { work: work() };
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
            -keyout ca.key -out ca.pem -subj /CN=Authority",
        );
        Some(authority)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn openssl(&self, args: &str) {
        let mut command = Command::new("openssl");
        command.args(args.split_whitespace()).current_dir(&self.work).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "openssl {args}: {output:?}");
    }

    /// Vouches for `name`.
    fn vouch(&self, name: &str, extensions: &str) {
        std::fs::write(self.path("extensions"), extensions).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile extensions"
        ));
    }

    /// A server that it vouches for. With `wants_certificate` the client must have one too.
    fn server(&self, wants_certificate: bool) -> Server {
        self.vouch("server", "subjectAltName=IP:127.0.0.1,DNS:image.invalid\n");
        let read = |name| CertificateDer::pem_file_iter(self.path(name)).unwrap();
        let chain: Vec<_> = read("server.pem").map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(self.path("server.key")).unwrap();
        let provider = Arc::new(default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = if wants_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(read("ca.pem").next().unwrap().unwrap()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.unwrap())
        } else {
            config.with_no_client_auth()
        };
        let config = Arc::new(config.with_single_cert(chain, key).unwrap());
        Server::start_with(Some(config), good)
    }

    fn options(&self) -> HttpOptions {
        HttpOptions { tls_ca: Some(self.path("ca.pem")), ..options() }
    }
}

fn fails(url: &str, options: &HttpOptions) -> Failed {
    let failed = Http::open(url, options).unwrap_err();
    println!("{failed} (hint: {:?})", failed.hint);
    failed
}

#[test]
fn only_a_server_that_somebody_vouches_for_is_believed() {
    let Some(authority) = Authority::new("certificates") else { return };
    let server = authority.server(false);
    let url = server.url("/new.img");
    Machine::new().install(&Http::open(&url, &authority.options()).unwrap(), &NEW).unwrap();
    assert!(server.connections() <= 4, "{} connections", server.connections());

    let failed = fails(&url, &options());
    assert!(failed.message.contains("UnknownIssuer"), "{failed}");
    assert!(failed.hint.unwrap().contains("--tls-ca"));
    // The name is another one.
    let failed = fails(&url.replace("127.0.0.1", "localhost"), &authority.options());
    assert!(failed.message.contains("certificate"), "{failed}");
    // TLS is spoken to who does not know it.
    let plain = Server::start(good);
    fails(&plain.url("/").replace("http:", "https:"), &authority.options());
    fails(&url.replace("https:", "http:"), &options());

    // What was asked for by https is not had by http.
    let target = plain.url("/new.img");
    let leads = move |_: &Question| {
        let mut answer = Answer::status(302);
        answer.header("Location", &target);
        answer
    };
    let server = Server::start_with(server.tls(), leads);
    let failed = fails(&server.url("/new.img"), &authority.options());
    assert!(failed.message.contains("leads from https to http"), "{failed}");
}

#[test]
fn a_client_shows_its_certificate() {
    let Some(authority) = Authority::new("client certificates") else { return };
    let server = authority.server(true);
    let url = server.url("/new.img");
    authority.vouch("client", "extendedKeyUsage=clientAuth\n");
    authority.vouch("other", "extendedKeyUsage=clientAuth\n");
    let with = |cert: &str, key: Option<&str>| HttpOptions {
        tls_cert: Some(authority.path(cert)),
        tls_key: key.map(|key| authority.path(key)),
        ..authority.options()
    };
    let pair = with("client.pem", Some("client.key"));
    Machine::new().install(&Http::open(&url, &pair).unwrap(), &NEW).unwrap();
    // Both in one file.
    let read = |name| std::fs::read(authority.path(name)).unwrap();
    std::fs::write(authority.path("both.pem"), [read("client.key"), read("client.pem")].concat())
        .unwrap();
    Http::open(&url, &with("both.pem", None)).unwrap();

    assert!(fails(&url, &authority.options()).message.to_lowercase().contains("certificate"));
    assert!(fails(&url, &with("client.pem", Some("other.key"))).hint.unwrap().contains("pair"));
    assert!(fails(&url, &with("client.pem", None)).hint.unwrap().contains("--tls-key"));
    assert!(fails(&url, &with("client.key", None)).hint.unwrap().contains("PEM"));
    assert!(fails(&url, &with("missing.pem", None)).message.contains("missing.pem"));
    let key_alone = HttpOptions { tls_key: Some(authority.path("client.key")), ..options() };
    assert!(fails(&url, &key_alone).hint.unwrap().contains("--tls-cert"));
}

/// A proxy that leads everybody to one place, and remembers what it was asked.
struct Proxy {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(target: SocketAddr, answer: &'static str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        // It ends with the process: each test has its own, and few of them.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (heard, stream) = (Arc::clone(&heard), stream.unwrap());
                thread::spawn(move || lead(stream, target, answer, &heard).ok());
            }
        });
        Proxy { at, asked }
    }

    fn asked(&self) -> String {
        self.asked.lock().unwrap().concat()
    }
}

fn lead(
    mut client: TcpStream,
    target: SocketAddr,
    answer: &str,
    heard: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        heard.lock().unwrap().push(std::mem::take(&mut line));
    }
    client.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes())?;
    let mut server = TcpStream::connect(target)?;
    let mut back = server.try_clone()?;
    let mut there = client.try_clone()?;
    thread::spawn(move || io::copy(&mut back, &mut there));
    io::copy(&mut reader, &mut server).map(drop)
}

/// Opens what its environment names: the others run it as a process of its own, with an environment of its own.
#[test]
#[ignore = "run by the tests of proxies"]
fn child() {
    let Ok(url) = std::env::var("ASHLAR_TEST_URL") else { return };
    let tls_ca = std::env::var_os("ASHLAR_TEST_CA").map(PathBuf::from);
    let http = match Http::open(&url, &HttpOptions { tls_ca, ..options() }) {
        Ok(http) => http,
        Err(failed) => return println!("failed: {failed}"),
    };
    let mut came = 0;
    http.read(0..100_000, &mut |piece| {
        came += piece.len();
        Ok(())
    })
    .unwrap();
    println!("came: {came} of {}", http.len());
}

fn run_child(url: &str, authority: Option<&Path>, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--nocapture"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env("ASHLAR_TEST_URL", url).envs(environment.iter().copied());
    command.envs(authority.map(|path| ("ASHLAR_TEST_CA", path)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_environment_names_the_proxy() {
    let server = Server::start(good);
    let url = server.url("/new.img").replace("127.0.0.1", "image.invalid");
    let came = format!("came: 100000 of {}", NEW.bytes.len());
    // Whether it comes by the proxy, and what the proxy was asked.
    let try_with = |environment: &dyn Fn(&str) -> Vec<(&'static str, String)>| {
        let proxy = Proxy::start(server.at, "200 Fine");
        let environment = environment(&proxy.at.to_string());
        let borrowed: Vec<_> = environment.iter().map(|(name, value)| (*name, &**value)).collect();
        let said = run_child(&url, None, &borrowed);
        let has_come = said.contains(&came);
        assert!(has_come || said.contains("failed: "), "{said}");
        (has_come, proxy.asked())
    };
    let connect = format!("CONNECT image.invalid:{} HTTP/1.1", server.at.port());
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"] {
        let (has_come, asked) = try_with(&|at| vec![(name, format!("http://{at}"))]);
        assert!(has_come && asked.contains(&connect), "{name}: {asked}");
    }
    // Without a scheme, with a password.
    let (has_come, asked) = try_with(&|at| vec![("http_proxy", format!("me:word@{at}"))]);
    assert!(has_come && asked.contains("Proxy-Authorization: Basic bWU6d29yZA=="), "{asked}");
    // One is for https alone; one is excepted; one is set to nothing.
    let nobody = (false, String::new());
    assert_eq!(try_with(&|at| vec![("HTTPS_PROXY", at.to_owned())]), nobody);
    let excepted =
        |at: &str| vec![("http_proxy", at.to_owned()), ("NO_PROXY", "invalid".to_owned())];
    assert_eq!(try_with(&excepted), nobody);
    let emptied = |at: &str| vec![("ALL_PROXY", at.to_owned()), ("http_proxy", String::new())];
    assert_eq!(try_with(&emptied), nobody);
    // The way to this machine needs no proxy.
    let said = run_child(&server.url("/new.img"), None, &[("http_proxy", "http://127.0.0.1:1")]);
    assert!(said.contains(&came), "{said}");
}

#[test]
fn https_goes_through_a_proxy_and_the_proxy_may_refuse() {
    let Some(authority) = Authority::new("https through a proxy") else { return };
    let server = authority.server(false);
    let url = server.url("/new.img").replace("127.0.0.1", "image.invalid");
    let ca = authority.path("ca.pem");
    let proxy = Proxy::start(server.at, "200 Fine");
    let at = format!("http://{}", proxy.at);
    let said = run_child(&url, Some(&ca), &[("https_proxy", &at)]);
    assert!(said.contains("came: 100000"), "{said}");
    assert!(proxy.asked().contains("CONNECT image.invalid:"));
    let proxy = Proxy::start(server.at, "403 No");
    let at = format!("http://{}", proxy.at);
    let said = run_child(&url, Some(&ca), &[("https_proxy", &at)]);
    assert!(said.contains("the proxy does not connect"), "{said}");
    let said = run_child(&url, Some(&ca), &[("https_proxy", "gopher://me:word@a:1")]);
    assert!(said.contains("that https_proxy names") && !said.contains("word"), "{said}");
}
