//! What the first and last bytes of a drive say about what is on it.
//!
//! The question is whether somebody would miss the data, so a match of the format's magic number is enough: no checksum
//! is verified and nothing is followed. What is read is anybody's bytes; nothing here can fail on them.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::isolated;

/// Bytes that are read from the start: the first label of ZFS is the longest that starts there.
pub const HEAD_BYTES: usize = 256 << 10;
/// Bytes that are read from the end: the last two labels of ZFS, which begin on a multiple of 256 KiB.
pub const TAIL_BYTES: usize = 768 << 10;

/// The first and last bytes of a drive.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// From the start: [`HEAD_BYTES`], or all.
    pub head: Vec<u8>,
    /// To the end: [`TAIL_BYTES`], or all.
    pub tail: Vec<u8>,
}

impl Image {
    /// Reads those of the file or device at `path`, which has `size` bytes.
    ///
    /// # Errors
    /// Of the system; `TimedOut` when it does not come back.
    pub fn read(path: &Path, size: u64, timeout: Duration) -> io::Result<Image> {
        let length = |most: usize| usize::try_from(size).unwrap_or(usize::MAX).min(most);
        let tail = length(TAIL_BYTES);
        let ranges = [(0, length(HEAD_BYTES)), (size - tail as u64, tail)];
        let mut contents = isolated::read(path, false, &ranges, timeout)?;
        let tail = contents.pop().unwrap_or_default();
        Ok(Image { head: contents.pop().unwrap_or_default(), tail })
    }

    /// What is on the drive, as far as it can be told; each kind once.
    pub fn signatures(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        for magic in MAGICS {
            if magic.places.iter().any(|place| self.has(*place, magic.bytes)) {
                found.push(magic.what);
            }
        }
        found.dedup();
        // A GPT has a table of the old kind before it, for protection.
        if self.has_partition_table() && !found.contains(&GPT) {
            found.push("MBR partition table");
        }
        if self.has_zfs() {
            found.push("ZFS");
        }
        found
    }

    fn has(&self, place: Place, bytes: &[u8]) -> bool {
        let at = match place {
            Start(offset) => self.head.get(offset..),
            End(offset) => self.tail.len().checked_sub(offset).and_then(|at| self.tail.get(at..)),
        };
        at.is_some_and(|at| at.starts_with(bytes))
    }

    /// A boot sector's mark alone is not enough, since file systems have it, too: one entry must be a partition, and
    /// all must be possible.
    fn has_partition_table(&self) -> bool {
        let Some(sector) = self.head.get(..512) else { return false };
        let entries = sector[446..510].chunks_exact(16);
        let possible = entries.clone().all(|entry| matches!(entry[0], 0 | 0x80));
        let used = |entry: &[u8]| entry[4] != 0 && entry[12..16] != [0; 4];
        sector.ends_with(&[0x55, 0xaa]) && possible && entries.clone().any(used)
    }

    /// The uberblocks of a ZFS label: an array from 128 KiB to 256 KiB into the label, on any multiple of 1 KiB,
    /// in the byte order of whoever wrote it. At the end, labels begin where the size is rounded down to 256 KiB, so
    /// the multiple counts from there; all sizes are multiples of 512.
    fn has_zfs(&self) -> bool {
        const MAGIC: u64 = 0x00ba_b10c;
        let is_magic = |at: &[u8]| {
            at.starts_with(&MAGIC.to_le_bytes()) || at.starts_with(&MAGIC.to_be_bytes())
        };
        let head = self.head.get(128 << 10..).unwrap_or_default().chunks(1024);
        let tail = self.tail.chunks(512);
        head.chain(tail).filter(|at| is_magic(at)).count() >= ZFS_UBERBLOCKS_MIN
    }
}

/// A label has at least this many uberblocks soon after its pool was made; one alone may be data of somebody else.
const ZFS_UBERBLOCKS_MIN: usize = 4;

/// Where a magic number stands.
#[derive(Clone, Copy)]
enum Place {
    /// So many bytes from the start.
    Start(usize),
    /// So many bytes before the end.
    End(usize),
}

struct Magic {
    what: &'static str,
    places: &'static [Place],
    bytes: &'static [u8],
}

const fn magic(what: &'static str, places: &'static [Place], bytes: &'static [u8]) -> Magic {
    Magic { what, places, bytes }
}

use Place::{End, Start};

const GPT: &str = "GPT partition table";

/// Magic numbers of all that is likely to be on a drive. Equal kinds stand together.
const MAGICS: &[Magic] = &[
    // The header is in the second block, the backup in the last: of 512 or 4096 bytes.
    magic(GPT, &[Start(512), Start(4096), End(512), End(4096)], b"EFI PART"),
    magic("ext2/3/4", &[Start(1024 + 0x38)], &[0x53, 0xef]),
    magic("XFS", &[Start(0)], b"XFSB"),
    magic("Btrfs", &[Start(0x1_0040)], b"_BHRfS_M"),
    magic("LUKS", &[Start(0), Start(0x4000), Start(0x8000)], b"LUKS\xba\xbe"),
    // The second header of version 2.
    magic("LUKS", &[Start(0x4000), Start(0x8000), Start(0x1_0000)], b"SKUL\xba\xbe"),
    // The label is in one of the first four sectors.
    magic("LVM physical volume", &[Start(0), Start(512), Start(1024), Start(1536)], b"LABELONE"),
    // Versions 1.1, 1.2; 1.0 is 8 KiB to 12 KiB before the end, on a multiple of 4 KiB.
    magic("Linux RAID", &[Start(0), Start(4096), End(8192)], &[0xfc, 0x4e, 0x2b, 0xa9]),
    magic("Linux RAID", &[End(8704), End(9216), End(9728)], &[0xfc, 0x4e, 0x2b, 0xa9]),
    magic(
        "Linux RAID",
        &[End(10_240), End(10_752), End(11_264), End(11_776)],
        &[0xfc, 0x4e, 0x2b, 0xa9],
    ),
    // Version 0.90: 64 KiB before the end that is rounded down to 64 KiB.
    magic("Linux RAID", &[End(65_536)], &[0xfc, 0x4e, 0x2b, 0xa9]),
    magic("Intel RAID", &[End(1024), End(8192)], b"Intel Raid ISM Cfg Sig."),
    magic("DDF RAID", &[End(512), End(4096)], &[0xde, 0x11, 0xde, 0x11]),
    // In the last ten bytes of the first page.
    magic("swap", &[Start(4096 - 10), Start(16_384 - 10), Start(65_536 - 10)], b"SWAPSPACE2"),
    magic("swap", &[Start(4096 - 10), Start(16_384 - 10), Start(65_536 - 10)], b"SWAP-SPACE"),
    magic("F2FS", &[Start(1024)], &[0x10, 0x20, 0xf5, 0xf2]),
    magic(
        "bcache",
        &[Start(4096 + 24)],
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba,
            0x6d, 0x81,
        ],
    ),
    magic(
        "bcachefs",
        &[Start(4096 + 24)],
        &[
            0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d,
            0xf7, 0xef,
        ],
    ),
    magic("Ceph BlueStore", &[Start(0)], b"bluestore block device"),
    magic("NTFS", &[Start(3)], b"NTFS    "),
    magic("exFAT", &[Start(3)], b"EXFAT   "),
    magic("FAT", &[Start(54), Start(82)], b"FAT"),
    magic("BitLocker", &[Start(3)], b"-FVE-FS-"),
    magic("APFS", &[Start(32)], b"NXSB"),
    magic("ISO 9660", &[Start(32_769)], b"CD001"),
    magic("JFS", &[Start(32_768)], b"JFS1"),
    magic("ReiserFS", &[Start(65_536 + 52)], b"ReIsEr"),
    magic("NILFS2", &[Start(1024 + 6)], &[0x34, 0x34]),
    magic("GFS2", &[Start(65_536)], &[0x01, 0x16, 0x19, 0x70]),
    magic("OCFS2", &[Start(1024), Start(2048), Start(4096), Start(8192)], b"OCFSV2"),
    magic("EROFS", &[Start(1024)], &[0xe2, 0xe1, 0xf5, 0xe0]),
    magic("SquashFS", &[Start(0)], b"hsqs"),
    magic("VDO", &[Start(0)], b"dmvdo001"),
    magic("SPDK blobstore", &[Start(0)], b"SPDKBLOB"),
    magic("SPDK RAID", &[Start(0)], b"SPDKRAID"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 4 << 20;

    fn found(write: &[(usize, &[u8])]) -> Vec<&'static str> {
        let mut disk = vec![0; SIZE];
        for (at, bytes) in write {
            disk[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, disk).unwrap();
        Image::read(&path, SIZE as u64, Duration::from_secs(60)).unwrap().signatures()
    }

    #[test]
    fn an_empty_drive_has_none() {
        assert!(found(&[]).is_empty());
    }

    #[test]
    fn each_kind_is_seen() {
        for (what, at, bytes) in [
            ("GPT partition table", 512, b"EFI PART".as_slice()),
            ("GPT partition table", 4096, b"EFI PART"),
            ("GPT partition table", SIZE - 512, b"EFI PART"),
            ("ext2/3/4", 1080, &[0x53, 0xef]),
            ("XFS", 0, b"XFSB"),
            ("Btrfs", 65_600, b"_BHRfS_M"),
            ("LUKS", 0, b"LUKS\xba\xbe\x00\x02"),
            ("LVM physical volume", 512, b"LABELONE"),
            ("Linux RAID", 4096, &[0xfc, 0x4e, 0x2b, 0xa9]),
            ("Linux RAID", SIZE - 8192, &[0xfc, 0x4e, 0x2b, 0xa9]),
            ("Linux RAID", SIZE - 65_536, &[0xfc, 0x4e, 0x2b, 0xa9]),
            ("swap", 4086, b"SWAPSPACE2"),
        ] {
            assert_eq!(found(&[(at, bytes)]), [what], "at {at}");
        }
    }

    #[test]
    fn a_boot_sector_needs_a_partition_to_be_a_table() {
        let mark: (usize, &[u8]) = (510, &[0x55, 0xaa]);
        assert!(found(&[mark]).is_empty());
        let mut entry = [0; 16];
        entry[4] = 0x83;
        entry[12] = 1;
        assert_eq!(found(&[mark, (446 + 16, &entry)]), ["MBR partition table"]);
        entry[0] = 0x12;
        assert!(found(&[mark, (446 + 16, &entry)]).is_empty());
    }

    #[test]
    fn zfs_is_seen_at_either_end() {
        let magic = 0x00ba_b10c_u64.to_le_bytes();
        let blocks =
            |from: usize| [0, 1, 2, 3].map(|index| (from + index * 1024, magic.as_slice()));
        assert_eq!(found(&blocks(128 << 10)), ["ZFS"]);
        assert_eq!(found(&blocks(SIZE - (128 << 10))), ["ZFS"]);
        assert!(found(&blocks(128 << 10)[..1]).is_empty());
    }

    #[test]
    fn the_end_of_a_drive_of_any_size_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        for size in [0, 1, 511, 512, 4096, TAIL_BYTES + 512] {
            std::fs::write(&path, vec![7; size]).unwrap();
            let image = Image::read(&path, size as u64, Duration::from_secs(60)).unwrap();
            assert_eq!(image.head.len(), size.min(HEAD_BYTES));
            assert_eq!(image.tail.len(), size.min(TAIL_BYTES));
            assert!(image.signatures().is_empty());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(head: Vec<u8>, tail: Vec<u8>) {
            Image { head, tail }.signatures();
        }
    }
}
