//! Where paths lead in trees of mounts that containers made themselves: their configured mounts do not say it.

use std::collections::{HashMap, VecDeque};

use dogwatch_schemas::Text;

use crate::mounts::Mounts;

/// Trees that are remembered, by mount namespace; what was told longest ago goes first.
const TREES_MAX: usize = 32;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Trees {
    by_mnt_ns: HashMap<u32, Mounts>,
    order: VecDeque<u32>,
}

impl Trees {
    /// A tree is this one now.
    pub fn insert(&mut self, mnt_ns: u32, mounts: Mounts) {
        if self.by_mnt_ns.insert(mnt_ns, mounts).is_some() {
            self.order.retain(|other| *other != mnt_ns);
        }
        self.order.push_back(mnt_ns);
        if self.order.len() > TREES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_mnt_ns.remove(&oldest);
        }
    }

    /// Where the host has what this path leads to in this tree.
    pub fn on_host(&self, mnt_ns: Option<u32>, path: &str, host: &Mounts) -> Option<Text> {
        let (dev, place) = self.by_mnt_ns.get(&mnt_ns?)?.place_of(path)?;
        host.path_of(dev, &place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_tree_goes_first() {
        let host = Mounts::parse("21 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        let tree = Mounts::parse_all(
            "30 1 8:1 /srv /mnt rw - ext4 /dev/sda1 rw\n\
             31 30 8:1 / / rw - ext4 /dev/sda1 rw\n",
        )
        .unwrap();
        let mut trees = Trees::default();
        for mnt_ns in 0..TREES_MAX as u32 + 1 {
            trees.insert(mnt_ns, tree.clone());
            trees.insert(mnt_ns, tree.clone());
        }
        assert_eq!(trees.by_mnt_ns.len(), TREES_MAX);
        assert_eq!(trees.on_host(Some(0), "/mnt/x", &host), None);
        assert_eq!(trees.on_host(None, "/mnt/x", &host), None);
        assert_eq!(
            trees.on_host(Some(1), "/mnt/x", &host).as_deref(),
            Some("/srv/x")
        );
        assert_eq!(trees.on_host(Some(1), "/mn", &host).as_deref(), Some("/mn"));
    }

    #[test]
    fn a_tree_that_is_told_again_is_the_newest() {
        let tree = Mounts::parse_all("30 1 8:1 / / rw - ext4 /dev/sda1 rw\n").unwrap();
        let mut trees = Trees::default();
        for mnt_ns in 0..TREES_MAX as u32 {
            trees.insert(mnt_ns, tree.clone());
        }
        trees.insert(0, tree.clone());
        trees.insert(TREES_MAX as u32, tree);
        assert!(trees.by_mnt_ns.contains_key(&0));
        assert!(!trees.by_mnt_ns.contains_key(&1));
        assert_eq!(trees.order.len(), TREES_MAX);
    }
}
