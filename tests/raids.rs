//! Devices that wait for their bases, and the table of raids.

#[path = "support/bench.rs"]
mod bench;

use bench::{Bench, spec};
use serde_json::json;
use weft::base::{ErrorKind, Uuid};
use weft::bdev::vbdev::raid::{RaidLevel, RaidState};
use weft::bdev::vbdev::split::SplitSpec;
use weft::bdev::vbdev::{Raids, VirtualSpec, WaitingList, linear, stripe};
use weft::bdev::{Claim, Opcode};

/// Lets everything that was spawned come to rest.
fn settle(bench: &Bench) {
    bench.cx.block_on(bench.registry.wait_for_examine());
}

#[test]
fn devices_wait_for_their_base() {
    let bench = Bench::new();
    let waiting = WaitingList::new(&bench.registry);
    let passthru = VirtualSpec::Passthru {
        name: "p".into(),
        base: "EE_m".into(),
        uuid: Some(Uuid::from_u128(1)),
    };
    let error = VirtualSpec::Error { base: "m".into(), uuid: None };
    let split = VirtualSpec::Split(SplitSpec { base: "p".into(), count: 2, size_mib: 0 });
    let unused = VirtualSpec::Delay {
        name: "l".into(),
        base: "never".into(),
        uuid: None,
        latencies: [1, 2, 3, 4],
    };
    // From the top down, as a configuration of SPDK's may have it.
    for spec in [&split, &passthru, &error, &unused] {
        assert!(waiting.create(spec.clone()).unwrap().is_empty());
    }
    assert_eq!(waiting.create(passthru).unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(waiting.config().len(), 4);
    bench.malloc("m", 4096);
    for _ in 0..4 {
        settle(&bench);
    }
    assert_eq!(bench.names(), ["m", "EE_m", "p", "pp0", "pp1"]);
    assert_eq!(bench.registry.get("p").unwrap().info().uuid, Uuid::from_u128(1));
    let config = waiting.config();
    assert_eq!(config.len(), 1);
    assert_eq!(
        config[0].params,
        json!({"name": "l", "base_bdev_name": "never", "avg_read_latency": 1,
            "p99_read_latency": 2, "avg_write_latency": 3, "p99_write_latency": 4})
    );
    assert!(waiting.forget("l"));
    assert!(!waiting.forget("l"));
    // Everything goes with the lowest base.
    bench.unregister("m");
    assert!(bench.names().is_empty());
}

fn raids(bench: &Bench) -> Raids {
    let raids = Raids::new(&bench.registry);
    raids.add_kind(stripe::kind());
    raids.add_kind(linear::kind());
    raids
}

#[test]
fn a_raid_waits_for_its_bases_serves_and_goes_offline() {
    let bench = Bench::new();
    let raids = raids(&bench);
    bench.malloc("a", 4096);
    let state = || {
        let list = raids.list(None);
        let info = &list[0].info;
        (info.state, info.num_base_bdevs_discovered)
    };
    let create = |name: &str, bases: &[&str]| {
        bench.cx.block_on(raids.create(spec(name, RaidLevel::Raid0, 4, bases)))
    };
    create("s", &["a", "b"]).unwrap();
    assert_eq!(state(), (RaidState::Configuring, 1));
    assert!(bench.registry.find("s").is_none());
    assert_eq!(raids.config().len(), 1);
    // What it found is its own already; and its name is taken.
    assert_eq!(bench.registry.claimed_by("a"), Some("raid"));
    assert_eq!(create("s", &["c"]).unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(create("t", &["a"]).unwrap_err().kind(), ErrorKind::NotPermitted);
    assert_eq!(raids.list(None).len(), 1);
    // A base that goes while the raid waits is let go, and may come again.
    bench.unregister("a");
    assert_eq!(state(), (RaidState::Configuring, 0));
    bench.malloc("b", 4096);
    settle(&bench);
    assert_eq!(state(), (RaidState::Configuring, 1));
    bench.malloc("a", 4096);
    settle(&bench);
    assert_eq!(state(), (RaidState::Online, 2));
    assert!(raids.config().is_empty());
    assert!(raids.list(Some(RaidState::Offline)).is_empty());
    let mut data = [9; 8192];
    assert!(bench.open("s").run(Opcode::Write, 0, &mut data).is_success());
    // It cannot do without a base.
    bench.unregister("b");
    assert_eq!(state(), (RaidState::Offline, 0));
    assert!(bench.registry.find("s").is_none());
    assert_eq!(bench.registry.claimed_by("a"), None);
    bench.cx.block_on(raids.delete("s", false)).unwrap();
    assert!(raids.list(None).is_empty());
    let error = bench.cx.block_on(raids.delete("s", false)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoDevice);
}

#[test]
fn base_bdevs_are_removed_and_added_by_name() {
    let bench = Bench::new();
    let raids = raids(&bench);
    for name in ["a", "b", "c"] {
        bench.malloc(name, 4096);
    }
    let create = raids.create(spec("n", RaidLevel::Concat, 0, &["a", "b"]));
    bench.cx.block_on(create).unwrap();
    let error = bench.cx.block_on(raids.add_base("n", "c")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = bench.cx.block_on(raids.remove_base("c")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoDevice);
    bench.cx.block_on(raids.remove_base("a")).unwrap();
    assert_eq!(raids.list(Some(RaidState::Offline)).len(), 1);
    bench.cx.block_on(raids.delete("n", false)).unwrap();
    // While a raid waits, a slot can be emptied and filled with another base.
    let create = raids.create(spec("n", RaidLevel::Concat, 0, &["a", "nowhere"]));
    bench.cx.block_on(create).unwrap();
    bench.cx.block_on(raids.remove_base("nowhere")).unwrap();
    bench.cx.block_on(raids.add_base("n", "c")).unwrap();
    assert_eq!(raids.list(Some(RaidState::Online)).len(), 1);
    let device = bench.registry.get("n").unwrap();
    assert_eq!(device.bdev().config()[0].params["base_bdevs"], json!(["a", "c"]));
    // Deleting one that serves frees its bases.
    bench.cx.block_on(raids.delete("n", false)).unwrap();
    assert_eq!(bench.names(), ["a", "b", "c"]);
    assert_eq!(bench.registry.claimed_by("a"), None);
}

#[test]
fn a_raid_that_cannot_be_is_refused() {
    let bench = Bench::new();
    let raids = raids(&bench);
    bench.malloc("a", 4096);
    let many: Vec<String> = (0..65).map(|i| i.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (level, strip, bases, kind) in [
        (RaidLevel::Raid0, 3, &["a"][..], ErrorKind::Invalid),
        (RaidLevel::Raid0, 0, &["a"], ErrorKind::Invalid),
        (RaidLevel::Concat, 3, &["a"], ErrorKind::Invalid),
        (RaidLevel::Raid0, 4, &[], ErrorKind::Invalid),
        (RaidLevel::Raid0, 4, &["a", "a"], ErrorKind::Invalid),
        (RaidLevel::Raid0, 4, &["a", ""], ErrorKind::Invalid),
        (RaidLevel::Raid0, 4, &many, ErrorKind::Invalid),
        (RaidLevel::Raid0, 4096, &["a"], ErrorKind::Invalid),
        (RaidLevel::Raid1, 0, &["a"], ErrorKind::Unsupported),
    ] {
        let error = bench.cx.block_on(raids.create(spec("s", level, strip, bases))).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(raids.list(None).is_empty());
        assert_eq!(bench.registry.claimed_by("a"), None);
    }
    let open = bench.registry.open("a", Claim::Write, |_| ()).unwrap();
    let create = raids.create(spec("s", RaidLevel::Raid0, 4, &["a"]));
    assert_eq!(bench.cx.block_on(create).unwrap_err().kind(), ErrorKind::NotPermitted);
    drop(open);
    let create = raids.create(spec("a", RaidLevel::Raid0, 4, &["a"]));
    assert_eq!(bench.cx.block_on(create).unwrap_err().kind(), ErrorKind::Exists);
}
