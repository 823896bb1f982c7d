//! Where do machines get their images from? A real web server, as it is set up for files: nginx, which ends with the case.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::disk;
use crate::outcome::{Doing, Result, failed, skipped};

/// How long it may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server of the files of one directory.
#[derive(Debug)]
pub(crate) struct Web {
    server: Child,
    port: u16,
    /// What is served.
    pub files: PathBuf,
    requests: PathBuf,
}

impl Web {
    /// Starts it in a directory of its own.
    pub(crate) fn start(place: &Path) -> Result<Web> {
        if Command::new("nginx").arg("-v").env("PATH", disk::path()).output().is_err() {
            return skipped("no nginx: install nginx-light");
        }
        let files = place.join("files");
        disk::directories(place, &["files", "scratch"])?;
        // Free a moment ago: nobody else takes it meanwhile, or the case fails.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .doing("cannot find a port")?
            .port();
        let config = place.join("nginx.conf");
        fs::write(&config, configuration(place, port)).doing("cannot write a file")?;
        // It must not outlive this process, however that ends.
        let server = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nginx", "-e", "stderr", "-p"])
            .args([place.as_os_str(), "-c".as_ref(), config.as_os_str()])
            .env("PATH", disk::path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .doing("cannot start nginx")?;
        let mut web = Web { server, port, files, requests: place.join("requests.log") };
        web.wait()?;
        Ok(web)
    }

    /// Its address for a machine with [`crate::qemu::Machine::network`].
    pub(crate) fn address(&self) -> String {
        format!("http://10.0.2.2:{}", self.port)
    }

    /// How often it was asked for a path, and answered with `status`.
    pub(crate) fn answers(&self, path: &str, status: u16) -> Result<usize> {
        let text = fs::read_to_string(&self.requests).doing("cannot read what was asked for")?;
        let wanted = format!("{status} {path}");
        Ok(text.lines().filter(|line| *line == wanted).count())
    }

    fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.server.try_wait().doing("cannot wait for nginx")? {
                return failed(format!("nginx: {status}"));
            }
            if start.elapsed() > PATIENCE {
                return failed("nginx does not answer");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// One process, which writes nowhere else than in `place`.
fn configuration(place: &Path, port: u16) -> String {
    let root = place.display();
    format!(
        "\
daemon off;
master_process off;
pid nginx.pid;
error_log stderr warn;
events {{}}
http {{
    client_body_temp_path scratch/client_body;
    proxy_temp_path scratch/proxy;
    fastcgi_temp_path scratch/fastcgi;
    uwsgi_temp_path scratch/uwsgi;
    scgi_temp_path scratch/scgi;
    log_format plain '$status $uri';
    access_log requests.log plain;
    server {{
        listen 127.0.0.1:{port};
        root {root}/files;
    }}
}}
"
    )
}
