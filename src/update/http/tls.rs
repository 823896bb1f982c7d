//! Whom is believed to be the server, and what shows the server who we are?

use std::path::Path;

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::HttpOptions;
use crate::update::failed::Failed;

/// Where systems keep the authorities that they believe: Debian and Arch, Fedora and its kin, Alpine and the BSDs.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

pub(super) fn config(options: &HttpOptions) -> Result<TlsConfig, Failed> {
    let system = || SYSTEM.map(Path::new).into_iter().find(|path| path.exists());
    let roots = match (&options.tls_ca, system()) {
        (Some(path), _) => RootCerts::new_with_certs(&read(path)?.0),
        // A bundle that cannot be read is no reason to fail where there is another one in this program.
        (None, Some(path)) => read(path).map_or_else(
            |failed| {
                tracing::warn!("{failed}");
                RootCerts::WebPki
            },
            |(certificates, _)| RootCerts::new_with_certs(&certificates),
        ),
        (None, None) => RootCerts::WebPki,
    };
    let client = match (&options.tls_cert, &options.tls_key) {
        (None, None) => None,
        (None, Some(_)) => {
            return Err(Failed::new("there is a key, and no certificate that it belongs to")
                .hint("--tls-cert names it"));
        }
        (Some(cert), key) => {
            let (chain, beside) = read(cert)?;
            let key = match key {
                // A key alone is a file without a certificate.
                Some(path) => items(path)?.1,
                None => beside,
            };
            let key = key.ok_or_else(|| {
                Failed::new("there is a certificate, and no key that belongs to it")
                    .hint("--tls-key names a PEM file with a key that has no passphrase")
            })?;
            Some(ClientCert::new_with_certs(&chain, key))
        }
    };
    Ok(TlsConfig::builder().root_certs(roots).client_cert(client).build())
}

type Items = (Vec<Certificate<'static>>, Option<PrivateKey<'static>>);

/// The certificates of a file, of which there must be some, and its key.
fn read(path: &Path) -> Result<Items, Failed> {
    let items = items(path)?;
    if items.0.is_empty() {
        return Err(Failed::new(format_args!("there is no certificate in {}", path.display()))
            .hint("a PEM file is wanted: -----BEGIN CERTIFICATE-----"));
    }
    Ok(items)
}

fn items(path: &Path) -> Result<Items, Failed> {
    let text = std::fs::read(path)
        .map_err(|err| Failed::io(format_args!("cannot read {}", path.display()), err))?;
    let (mut certificates, mut key) = (Vec::new(), None);
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(PemItem::PrivateKey(found)) => key = key.or(Some(found)),
            Ok(_) => {}
            Err(err) => {
                return Err(Failed::new(format_args!("cannot use {}: {err}", path.display())));
            }
        }
    }
    Ok((certificates, key))
}
