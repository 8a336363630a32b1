//! Every method that Weft shares with SPDK has SPDK's parameters: the same names and types, required or
//! not. What differs on purpose is listed here.
//!
//! SPDK's schema is read from `$WEFT_SHARED/spdk/schema.yaml`, or from a directory `shared` next to the
//! repository; where it is missing, the test says so and passes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use weft::rpc::{Field, Kind, methods};
use yaml_rust2::{Yaml, YamlLoader};

/// Parameters of ours on methods of SPDK's.
const ADDED: &[(&str, &[&str])] = &[
    ("bdev_uring_create", &["readonly", "direct", "sqpoll", "iopoll"]),
    ("bdev_virtio_attach_controller", &["packed_ring", "reconnect_timeout_sec"]),
];

/// Values of SPDK's enums that we do not take, with the reason.
const VALUES_MISSING: &[(&str, &str, &[&str])] =
    // Parity raid is not built; asking for it gets the list of levels that are.
    &[("bdev_raid_create", "raid_level", &["raid5f", "5f"])];

/// Methods of SPDK's in the subsystems that we have, which we do not serve.
const NOT_SERVED: &[(&str, &str)] = &[
    ("bdev_set_qd_sampling_period", "queue depth is a counter of each channel, not sampled"),
    ("framework_disable_cpumask_locks", "cores are not locked between processes"),
    ("framework_enable_cpumask_locks", "cores are not locked between processes"),
    ("framework_get_governor", "the core frequency is left to the system"),
    ("framework_get_scheduler", "work stays on the reactor where it was opened"),
    ("framework_monitor_context_switch", "the system's own counters show them"),
    ("framework_set_scheduler", "work stays on the reactor where it was opened"),
    ("iobuf_set_options", "pools grow as they are used"),
    ("thread_get_io_channels", "bdev_get_iostat shows the channels of a bdev"),
    ("thread_set_cpumask", "work stays on the reactor where it was opened"),
    ("vhost_create_scsi_controller", "disks are virtio-blk; SCSI commands have no user yet"),
    ("vhost_scsi_controller_add_target", "disks are virtio-blk; SCSI commands have no user yet"),
    ("vhost_scsi_controller_remove_target", "disks are virtio-blk; SCSI commands have no user yet"),
    ("vhost_start_scsi_controller", "disks are virtio-blk; SCSI commands have no user yet"),
];

/// Where the subsystems that we have begin.
const SUBSYSTEMS: &[&str] = &[
    "spdk_",
    "rpc_",
    "framework_",
    "thread_",
    "log_",
    "iobuf_",
    "notify_",
    "bdev_get_",
    "bdev_set_",
    "bdev_examine",
    "bdev_wait_",
    "bdev_reset_",
    "bdev_enable_",
    "bdev_null_",
    "bdev_malloc_",
    "bdev_uring_",
    "bdev_aio_",
    "bdev_raid_",
    "bdev_split_",
    "bdev_passthru_",
    "bdev_error_",
    "bdev_delay_",
    "vhost_",
    "virtio_blk_",
];

struct Schema {
    methods: BTreeMap<String, Vec<Yaml>>,
    enums: BTreeMap<String, BTreeSet<String>>,
    /// Types of the items of arrays.
    arrays: BTreeMap<String, String>,
}

fn text(yaml: &Yaml, key: &str) -> String {
    match &yaml[key] {
        Yaml::String(text) => text.clone(),
        Yaml::Integer(number) => number.to_string(),
        other => panic!("'{key}' of {yaml:?} is {other:?}"),
    }
}

fn path() -> PathBuf {
    let shared = match std::env::var_os("WEFT_SHARED") {
        Some(path) => PathBuf::from(path),
        None => {
            // A worktree stands one level deeper than the repository.
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            let places = ["../shared", "../../shared"].map(|place| root.join(place));
            places.iter().find(|place| place.exists()).unwrap_or(&places[0]).clone()
        }
    };
    shared.join("spdk/schema.yaml")
}

fn schema() -> Option<Schema> {
    let path = path();
    let Ok(source) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is missing", path.display());
        return None;
    };
    let document = YamlLoader::load_from_str(&source).expect("YAML").remove(0);
    let list = |key: &str| document[key].as_vec().cloned().unwrap_or_default();
    let names = |it: &Yaml| -> BTreeSet<String> {
        it["fields"].as_vec().into_iter().flatten().map(|field| text(field, "name")).collect()
    };
    let params = |it: &Yaml| it["params"].as_vec().cloned().unwrap_or_default();
    Some(Schema {
        methods: list("methods").iter().map(|it| (text(it, "name"), params(it))).collect(),
        enums: list("enums").iter().map(|it| (text(it, "name"), names(it))).collect(),
        arrays: list("arrays").iter().map(|it| (text(it, "name"), text(it, "item_type"))).collect(),
    })
}

fn added(method: &str) -> &'static [&'static str] {
    ADDED.iter().find(|(name, _)| *name == method).map_or(&[], |(_, fields)| fields)
}

/// How our parameter differs from SPDK's.
fn difference(schema: &Schema, method: &str, ours: &Field, theirs: &Yaml) -> Option<String> {
    let required = theirs["required"].as_bool().unwrap_or(false);
    if ours.required != required {
        return Some(format!("required: {} and not {required}", ours.required));
    }
    let kind = text(theirs, "type");
    if kind == "bitmask" && matches!(ours.kind, Kind::Array(Kind::Plain("string"))) {
        // SPDK's clients send the names of the bits.
        return None;
    }
    if ours.kind.name() != kind {
        return Some(format!("a {} and not a {kind}", ours.kind.name()));
    }
    match ours.kind {
        Kind::Plain(_) => None,
        Kind::Array(of) => {
            let wanted = &schema.arrays[&text(theirs, "class")];
            (of.name() != wanted).then(|| format!("of {} and not of {wanted}", of.name()))
        }
        Kind::Enum(values) => {
            let mut wanted = schema.enums[&text(theirs, "class")].clone();
            for (_, _, missing) in
                VALUES_MISSING.iter().filter(|(m, f, _)| (*m, *f) == (method, ours.name))
            {
                for value in *missing {
                    assert!(wanted.remove(*value), "{method}: SPDK has no {value} any more");
                }
            }
            let values: BTreeSet<String> = values.iter().map(|value| (*value).into()).collect();
            (values != wanted).then(|| format!("one of {values:?} and not of {wanted:?}"))
        }
    }
}

#[test]
fn shared_methods_have_the_same_parameters() {
    let Some(schema) = schema() else { return };
    let mut faults = Vec::new();
    let mut shared = 0;
    for method in methods::all() {
        let Some(params) = schema.methods.get(method.name) else {
            if !method.name.starts_with("weft_") {
                faults.push(format!("{}: not SPDK's, and without the prefix weft_", method.name));
            }
            continue;
        };
        shared += 1;
        let own = added(method.name);
        for theirs in params {
            let name = text(theirs, "name");
            match method.fields.iter().find(|field| field.name == name) {
                None => faults.push(format!("{}: {name} is missing", method.name)),
                Some(ours) => faults.extend(
                    difference(&schema, method.name, ours, theirs)
                        .map(|what| format!("{}: {name} is {what}", method.name)),
                ),
            }
            if own.contains(&name.as_str()) {
                faults.push(format!("{}: {name} is SPDK's by now", method.name));
            }
        }
        let unknown = method.fields.iter().filter(|field| {
            !own.contains(&field.name) && params.iter().all(|it| text(it, "name") != field.name)
        });
        faults.extend(unknown.map(|field| format!("{}: SPDK has no {}", method.name, field.name)));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("{shared} methods have SPDK's parameters");
    assert!(shared >= 65, "{shared} shared methods");
}

#[test]
fn what_is_not_served_is_known() {
    let Some(schema) = schema() else { return };
    let served: BTreeSet<&str> = methods::all().map(|method| method.name).collect();
    let listed: BTreeSet<&str> = NOT_SERVED.iter().map(|(name, _)| *name).collect();
    let missing: BTreeSet<&str> = schema
        .methods
        .keys()
        .map(String::as_str)
        .filter(|name| SUBSYSTEMS.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|name| !served.contains(name))
        .collect();
    assert_eq!(missing, listed, "left: what SPDK has and we do not; right: the list of it");
    assert!(NOT_SERVED.iter().all(|(_, reason)| !reason.is_empty()));
}
