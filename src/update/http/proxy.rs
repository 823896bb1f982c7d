//! Does somebody ask in our place? The environment says so, as for curl.
//!
//! ureq reads the environment too, but takes `ALL_PROXY` before all others, `HTTPS_PROXY` for http, and `example.org` in
//! `NO_PROXY` for that host alone.

use std::net::IpAddr;

use ureq::Proxy;
use ureq::http::Uri;

use crate::update::failed::Failed;

/// The proxy for an address.
pub(super) fn from_environment(url: &Uri) -> Result<Option<Proxy>, Failed> {
    let variable = |name: &&'static str| Some((*name, std::env::var(name).ok()?));
    let find = |names: &[&'static str]| names.iter().find_map(variable);
    let Some(host) = url.host().map(|host| host.trim_matches(['[', ']'])) else { return Ok(None) };
    let excepted = find(&["no_proxy", "NO_PROXY"]).map_or(String::new(), |(_, list)| list);
    if is_here(host) || is_excepted(host, &excepted) {
        return Ok(None);
    }
    let own: &[&str] = match url.scheme_str() {
        Some("https") => &["https_proxy", "HTTPS_PROXY"],
        _ => &["http_proxy", "HTTP_PROXY"],
    };
    let found = find(own).or_else(|| find(&["all_proxy", "ALL_PROXY"]));
    let Some((name, value)) = found.filter(|(_, value)| !value.is_empty()) else { return Ok(None) };
    match Proxy::new(&value) {
        Ok(proxy) => Ok(Some(proxy)),
        // Not with its value: there may be a password in it.
        Err(err) => Err(Failed::new(format_args!("cannot use the proxy that {name} names: {err}"))),
    }
}

/// Nobody else knows the way to this machine.
fn is_here(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a list such as `example.org, .lan, 10.0.0.1` has a host, or the domain that it is in.
fn is_excepted(host: &str, list: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let mut names = list.split([',', ' ']).map(str::trim).filter(|name| !name.is_empty());
    names.any(|name| {
        let domain = name.to_ascii_lowercase();
        let domain = domain.trim_start_matches('*').trim_start_matches('.');
        let before = host.strip_suffix(domain);
        name == "*"
            || before.is_some_and(|before| {
                !domain.is_empty() && (before.is_empty() || before.ends_with('.'))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_domains() {
        let list = "example.org, .lan *.corp,10.0.0.1";
        for host in ["example.org", "a.EXAMPLE.org", "b.lan", "lan", "x.y.corp", "10.0.0.1"] {
            assert!(is_excepted(host, list), "{host}");
        }
        for host in ["example.com", "anexample.org", "plan", "110.0.0.1", "org", ""] {
            assert!(!is_excepted(host, list), "{host}");
        }
        assert!(is_excepted("anything", "*"));
        assert!(!is_excepted("anything", ""));
        assert!(!is_excepted("anything", ".,,"));
    }

    #[test]
    fn this_machine_is_here() {
        assert!(["localhost", "127.0.0.1", "127.3.4.5", "::1"].into_iter().all(is_here));
        assert!(!["example.org", "10.0.0.1", "localhost.example.org"].into_iter().any(is_here));
    }
}
