//! What the mesh reads from other nodes and from its own store: packets, commands of the log, snapshots. An error or a value that makes
//! sense, and no panic; what is read can be written and read again; a picture stays sound whatever commands it is given.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft::consensus::Index;
use weft::mesh::picture::{Command, Picture};
use weft::mesh::wire;

fn fuzz_packets(mut input: &[u8]) {
    while let Ok((packet, blocks, end)) = wire::decode::<()>(input) {
        let mut again = Vec::new();
        wire::encode(&packet, blocks, &mut again).expect("what was read is short enough");
        let (same, count, _) = wire::decode::<()>(&again).expect("what was written can be read");
        assert_eq!((format!("{packet:?}"), blocks), (format!("{same:?}"), count));
        input = &input[end..];
    }
}

fn fuzz_commands(mut input: &[u8]) {
    let mut picture = Picture::default();
    let mut changes = Vec::new();
    let mut index = 0;
    while let Ok((command, rest)) = postcard::take_from_bytes::<Command>(input) {
        index += 1;
        changes.clear();
        let before = picture.digest();
        if picture.apply(Index(index), &command, &mut changes).is_err() {
            assert!(changes.is_empty(), "{command:?} was refused and changed something: {changes:?}");
        }
        let _ = before;
        picture.check_sound().unwrap_or_else(|wrong| panic!("{command:?}: {wrong}"));
        if rest.len() == input.len() || index > 200 {
            break;
        }
        input = rest;
    }
    let again = Picture::restore(&picture.snapshot()).expect("what was written can be read");
    assert_eq!(again.digest(), picture.digest());
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, input)) = input.split_first() else { return };
    match kind % 3 {
        0 => fuzz_packets(input),
        1 => fuzz_commands(input),
        _ => drop(Picture::restore(input)),
    }
});
