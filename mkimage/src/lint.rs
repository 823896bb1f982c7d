//! Would the tree boot? It is asked after the scan, when all that will be in the image is known, and before anything takes
//! long.

use std::cell::RefCell;
use std::io;

use ashlarfs::Error;
use ashlarfs::format::inode::Kind;
use ashlarfs::lint::{self, Finding, Found, Look, Severity};
use serde_json::{Value, json};

use crate::Failure;
use crate::text::{counted, shown};
use crate::tree::{Body, Contents, Node, NodeId, SourceTree};

/// A tree on its way into an image: what is excluded or overridden is so here, too.
struct Source<'a> {
    tree: &'a SourceTree,
    contents: &'a dyn Contents,
    /// Why content could not be read. It would stop the build, and says more than a finding.
    failure: RefCell<Option<Failure>>,
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

/// Looks the tree over; lints named in `allowed` are left out. The worst findings come first.
pub(crate) fn lint(
    tree: &mut SourceTree,
    contents: &dyn Contents,
    allowed: &[&str],
) -> Result<Vec<Finding>, Failure> {
    for node in &mut tree.nodes {
        if let Body::Dir(children) = &mut node.body {
            children.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        }
    }
    let source = Source { tree, contents, failure: RefCell::default() };
    let findings = lint::lint(&source, |name| allowed.contains(&name));
    match source.failure.into_inner() {
        Some(failure) => Err(failure),
        None => Ok(findings),
    }
}

/// The lint of this name, for the command line.
pub(crate) fn lint_name(text: &str) -> Result<&'static str, String> {
    let lint = lint::find(text).map(|lint| lint.name);
    lint.ok_or_else(|| "there is no such lint; `ashlar lint --list` names them".into())
}

/// Why a tree with these findings is refused, if it is.
pub(crate) fn refusal(findings: &[Finding]) -> Option<Failure> {
    let mut fatal = findings.iter().filter(|finding| finding.severity == Severity::Fatal);
    let first = fatal.next()?;
    let count = counted(1 + fatal.count() as u64, "fatal finding", "fatal findings");
    Some(Failure::new(format!("the tree would not do as a root: {count}")).hint(format!(
        "mend the tree; what is meant to be so is let pass by its name: --allow {}",
        first.lint
    )))
}

/// A finding for a person.
pub(crate) fn line(finding: &Finding) -> String {
    let Finding { lint, severity, path, why, remedy } = finding;
    format!("{severity}: /{} {why} [{lint}]: {remedy}", shown(path))
}

/// A finding for a machine: as `ashlar lint --json` has it.
pub(crate) fn json(finding: &Finding) -> Value {
    let Finding { lint, severity, path, why, remedy } = finding;
    json!({
        "lint": lint,
        "severity": severity.name(),
        "path": format!("/{}", shown(path)),
        "why": why,
        "remedy": remedy,
    })
}

impl Source<'_> {
    fn node(&self, id: NodeId) -> Option<&Node> {
        self.tree.nodes.get(id as usize)
    }

    /// The node at a path, and its number.
    fn at(&self, path: &[u8]) -> Option<(NodeId, &Node)> {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let id = names.into_iter().try_fold(0, |id, name| {
            let Body::Dir(children) = &self.node(id)?.body else { return None };
            let nth = children.binary_search_by(|(child, _)| child.as_ref().cmp(name)).ok()?;
            children.get(nth).map(|(_, id)| *id)
        })?;
        Some((id, self.node(id)?))
    }

    fn content(&self, id: NodeId, offset: u64, buf: &mut [u8]) -> Result<(), Failure> {
        let mut content = self.contents.open(id)?;
        content.read_exact_at(buf, offset).map_err(Failure::new)
    }
}

impl Look for Source<'_> {
    fn lstat(&self, path: &[u8]) -> Result<Option<Found>, Error> {
        Ok(self.at(path).map(|(_, node)| Found {
            kind: node.kind,
            permissions: node.permissions,
            size: match node.body {
                Body::File { size } => size,
                _ => 0,
            },
            mtime_sec: node.mtime_sec,
        }))
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        match self.at(path).map(|(_, node)| &node.body) {
            Some(Body::Link(target)) => Ok(target.to_vec()),
            Some(_) => Err(Error::Invalid),
            None => Err(Error::NotFound),
        }
    }

    fn list(&self, path: &[u8]) -> Result<Vec<(Vec<u8>, Kind)>, Error> {
        let Some(Body::Dir(children)) = self.at(path).map(|(_, node)| &node.body) else {
            return Err(Error::NotADirectory);
        };
        let entry = |(name, id): &(Box<[u8]>, NodeId)| Some((name.to_vec(), self.node(*id)?.kind));
        Ok(children.iter().filter_map(entry).collect())
    }

    fn read(&self, path: &[u8], offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let (id, node) = self.at(path).ok_or(Error::NotFound)?;
        let Body::File { size } = node.body else { return Err(Error::Invalid) };
        let left = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; len.min(left)];
        self.content(id, offset, &mut bytes).map_err(|failure| {
            let told = io::Error::other(failure.message.clone());
            self.failure.borrow_mut().get_or_insert(failure);
            Error::io("cannot read", told)
        })?;
        Ok(bytes)
    }

    fn entries_max(&self) -> u64 {
        let count = |node: &Node| match &node.body {
            Body::Dir(children) => children.len() as u64,
            _ => 0,
        };
        self.tree.nodes.iter().map(count).sum()
    }
}
