//! Where the blocks of a volume lie.

use crate::mesh::ids::GroupId;
use crate::mesh::message::Run;
use crate::mesh::picture::Volume;

/// The parts of a volume, with its groups numbered from 0 in their order.
#[derive(Default)]
pub struct Layout {
    parts: Vec<Part>,
    blocks: u64,
}

struct Part {
    first: u64,
    blocks: u64,
    strip_blocks: u64,
    groups: u64,
    first_group: u32,
}

/// A run of blocks that lie together in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The group, by its place among the volume's.
    pub group: u32,
    /// The blocks in the group.
    pub run: Run,
}

impl Layout {
    /// The layout of a volume, and its groups in order.
    pub fn of(volume: &Volume) -> (Layout, Vec<GroupId>) {
        let mut layout = Layout::default();
        let mut groups = Vec::new();
        for part in &volume.parts {
            layout.parts.push(Part {
                first: layout.blocks,
                blocks: part.blocks,
                strip_blocks: part.strip_blocks.max(1),
                groups: part.groups.len().max(1) as u64,
                first_group: groups.len() as u32,
            });
            layout.blocks = layout.blocks.saturating_add(part.blocks);
            groups.extend_from_slice(&part.groups);
        }
        (layout, groups)
    }

    /// Whether the blocks are at least one, and all in the volume.
    pub fn contains(&self, run: Run) -> bool {
        run.blocks > 0
            && run.first.checked_add(run.blocks.into()).is_some_and(|end| end <= self.blocks)
    }

    /// The longest beginning of a run of the volume that lies together.
    pub fn first_extent(&self, run: Run) -> Option<Extent> {
        let after = self.parts.partition_point(|part| part.first <= run.first);
        let part = self.parts.get(after.checked_sub(1)?)?;
        let block = run.first - part.first;
        let left = part.blocks.checked_sub(block).filter(|left| *left > 0)?;
        let (strip, offset) = (block / part.strip_blocks, block % part.strip_blocks);
        let together = left.min(part.strip_blocks - offset).min(run.blocks.into());
        Some(Extent {
            group: part.first_group + (strip % part.groups) as u32,
            run: Run {
                first: strip / part.groups * part.strip_blocks + offset,
                blocks: together as u32,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::ids::VolumeId;
    use crate::mesh::picture::{Layout as Shape, Part, Spread, VolumeSpec};

    fn volume(parts: Vec<Part>) -> Volume {
        let spec = VolumeSpec {
            block_shift: 12,
            blocks: parts.iter().map(|part| part.blocks).sum(),
            copies: 2,
            layout: Shape::Concatenated,
            spread: Spread::Host,
            class: String::new(),
            tags: Default::default(),
            region_shift: 20,
            write_back: false,
        };
        Volume { id: VolumeId(1), name: "v".into(), spec, parts, attachments: Vec::new() }
    }

    #[test]
    fn every_block_of_a_striped_volume_that_was_extended_is_found_once() {
        let (layout, groups) = Layout::of(&volume(vec![
            Part { blocks: 24, strip_blocks: 4, groups: vec![GroupId(7), GroupId(3)] },
            Part { blocks: 10, strip_blocks: 10, groups: vec![GroupId(9)] },
        ]));
        assert_eq!(groups, [GroupId(7), GroupId(3), GroupId(9)]);
        let mut seen = std::collections::BTreeSet::new();
        let mut next = 0;
        while next < 34 {
            let run = Run { first: next, blocks: (34 - next) as u32 };
            let extent = layout.first_extent(run).expect("in the volume");
            for block in extent.run.first..extent.run.end() {
                assert!(seen.insert((extent.group, block)));
            }
            next += u64::from(extent.run.blocks);
        }
        let expected =
            (0..12).flat_map(|b| [(0, b), (1, b)]).chain((0..10).map(|b| (2, b))).collect();
        assert_eq!(seen, expected);
        let at_9 = layout.first_extent(Run { first: 9, blocks: 20 });
        assert_eq!(at_9, Some(Extent { group: 0, run: Run { first: 5, blocks: 3 } }));
    }

    #[test]
    fn what_is_outside_of_the_volume_is_seen() {
        let parts = vec![Part { blocks: 10, strip_blocks: 10, groups: vec![GroupId(9)] }];
        let (layout, _) = Layout::of(&volume(parts));
        assert!(layout.contains(Run { first: 9, blocks: 1 }));
        assert!(!layout.contains(Run { first: 9, blocks: 2 }));
        assert!(!layout.contains(Run { first: 9, blocks: 0 }));
        assert!(!layout.contains(Run { first: u64::MAX, blocks: 2 }));
    }
}
