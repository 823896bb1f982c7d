//! What is changed on the way from the source into the image? All of it here, after the scan and before the plan.

use crate::tree::SourceTree;

/// Attributes that are set whatever the source says, the root directory's included.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    /// Every time, in seconds since 1970.
    pub(crate) time: Option<i64>,
    /// Times later than this one become this one: what was made by the build itself shall not tell when it ran.
    pub(crate) time_max: Option<i64>,
    pub(crate) no_xattrs: bool,
}

impl Overrides {
    /// Applies them to every node.
    pub(crate) fn apply(&self, tree: &mut SourceTree) {
        for node in &mut tree.nodes {
            node.uid = self.uid.unwrap_or(node.uid);
            node.gid = self.gid.unwrap_or(node.gid);
            if let Some(time) = self.time {
                (node.mtime_sec, node.mtime_nsec) = (time, 0);
            } else if let Some(max) = self.time_max
                && (node.mtime_sec, node.mtime_nsec) > (max, 0)
            {
                (node.mtime_sec, node.mtime_nsec) = (max, 0);
            }
            if self.no_xattrs {
                node.xattrs = None;
            }
        }
        if self.no_xattrs {
            tree.xattr_sets.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use ashlarfs::format::inode::Kind;

    use super::*;
    use crate::tree::{Body, Node};

    fn tree() -> SourceTree {
        let node = |mtime_sec, mtime_nsec| Node {
            kind: Kind::Dir,
            permissions: 0o755,
            uid: 7,
            gid: 8,
            mtime_sec,
            mtime_nsec,
            xattrs: Some(0),
            body: Body::Dir(Vec::new()),
        };
        SourceTree {
            nodes: vec![node(100, 0), node(100, 1), node(-5, 9)],
            xattr_sets: vec![vec![(b"user.a".to_vec(), Vec::new())]],
        }
    }

    #[test]
    fn nothing_changes_unasked() {
        let mut changed = tree();
        Overrides::default().apply(&mut changed);
        assert_eq!(format!("{changed:?}"), format!("{:?}", tree()));
    }

    #[test]
    fn later_times_are_clamped_and_earlier_ones_stay() {
        let mut tree = tree();
        Overrides { time_max: Some(100), ..Overrides::default() }.apply(&mut tree);
        let times: Vec<_> = tree.nodes.iter().map(|n| (n.mtime_sec, n.mtime_nsec)).collect();
        assert_eq!(times, [(100, 0), (100, 0), (-5, 9)]);
    }

    #[test]
    fn all_attributes_can_be_set() {
        let mut tree = tree();
        let overrides = Overrides {
            uid: Some(0),
            gid: Some(1),
            time: Some(3),
            time_max: Some(2),
            no_xattrs: true,
        };
        overrides.apply(&mut tree);
        assert!(tree.xattr_sets.is_empty());
        for node in &tree.nodes {
            assert_eq!((node.uid, node.gid, node.mtime_sec, node.mtime_nsec), (0, 1, 3, 0));
            assert_eq!(node.xattrs, None);
        }
    }
}
