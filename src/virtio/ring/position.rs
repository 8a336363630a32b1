//! Places in a packed ring.

/// A descriptor of a packed ring and the wrap counter of the round that is meant (VIRTIO 2.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Index of the descriptor.
    pub index: u16,
    /// The wrap counter, which changes with every round.
    pub wrap: bool,
}

impl Position {
    /// Where a ring starts.
    pub const START: Position = Position { index: 0, wrap: true };

    /// From bits 0-14 and bit 15, as event suppression structures and vhost-user have it.
    #[inline]
    pub const fn from_bits(bits: u16) -> Position {
        Position { index: bits & 0x7fff, wrap: bits & 0x8000 != 0 }
    }

    /// As bits 0-14 and bit 15.
    #[inline]
    pub const fn bits(self) -> u16 {
        self.index | (self.wrap as u16) << 15
    }

    /// The position `count` descriptors on, a round at most, in a ring of `size`.
    #[inline(always)]
    #[must_use]
    pub const fn advanced(self, count: u16, size: u16) -> Position {
        let index = self.index as u32 + count as u32;
        if index >= size as u32 {
            Position { index: (index - size as u32) as u16, wrap: !self.wrap }
        } else {
            Position { index: index as u16, wrap: self.wrap }
        }
    }

    /// How many descriptors this is ahead of `other`, if it is at most a round.
    #[inline]
    pub const fn ahead_of(self, other: Position, size: u16) -> Option<u16> {
        match (self.wrap == other.wrap, self.index >= other.index) {
            (true, true) => Some(self.index - other.index),
            (false, false) => Some(self.index + (size - other.index)),
            (false, true) if self.index == other.index => Some(size),
            _ => None,
        }
    }
}
