//! The binary as scripts and people run it: what it prints, and how it exits.

use std::io::{Read, Seek, SeekFrom, Write};
use std::process::{Command, Output};

use serde_json::Value;

fn perf(arguments: &[&str]) -> Output {
    // One core, ordinary memory and no wait, unless the test says otherwise.
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-perf"));
    command.args(["--quiet", "--huge-pages", "never"]).args(arguments);
    command.output().expect("weft-perf starts")
}

fn json_of(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("not one JSON object: {error}\n{text}\n{}", String::from_utf8_lossy(&output.stderr))
    })
}

/// Runs, and expects the exit code.
fn json(arguments: &[&str], code: i32) -> Value {
    let output = perf(&[arguments, &["--json"]].concat());
    let report = json_of(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {report:#}");
    report
}

fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("no number at {pointer} in {report:#}"))
}

#[test]
fn the_object_for_scripts_has_its_fixed_fields() {
    for bdev in ["malloc:size=16M,block=4096", "null"] {
        // A number of requests, and more time than any machine needs.
        let ios = 20_000.0;
        let line = ["--bdev", bdev, "-q", "32", "-o", "4096", "-w", "randread", "-t", "600"];
        let report = json(&[&line[..], &["-n", "20000"]].concat(), 0);
        let iops = number(&report, "/iops");
        assert_eq!(number(&report, "/ios"), ios);
        assert!((number(&report, "/seconds") * iops - ios).abs() < ios * 1e-6);
        assert!((number(&report, "/mib_per_s") - iops / 256.0).abs() < iops * 1e-6);
        let quantiles = ["p50", "p90", "p99", "p99_9", "p99_99", "max"];
        let values = quantiles.map(|name| number(&report, &format!("/latency_us/{name}")));
        assert!(values[0] > 0.0 && values.is_sorted(), "{values:?}");
        assert!(number(&report, "/latency_us/mean") <= values[5]);
        assert!(number(&report, "/cycles_per_io") > 0.0);
        assert_eq!(report["errors"], 0);
        assert!(number(&report, "/tool_ns_per_io") > 0.0);
        // What is beside them adds up.
        for list in ["devices", "cores", "jobs"] {
            let sum: u64 = report[list]
                .as_array()
                .unwrap()
                .iter()
                .map(|each| each["ios"].as_u64().unwrap())
                .sum();
            assert_eq!(Some(sum), report["ios"].as_u64(), "{list}");
        }
        let samples = report["timeline"]["ios_and_bytes"].as_array().unwrap();
        let sum: u64 = samples.iter().map(|sample| sample[0].as_u64().unwrap()).sum();
        assert_eq!(Some(sum), report["ios"].as_u64());
    }
}

#[test]
fn a_count_is_kept_exactly_over_jobs_and_devices() {
    let line = [
        "--bdev",
        "null:size=1M,block=512",
        "--bdev",
        "null:size=2M",
        "-t",
        "60",
        "-n",
        "1001",
        "--job",
        "a: -w randrw -M 30 -o 4K:3,8K:1",
        "--job",
        "b: -w unmap -q 4 -o 64K --device 1",
    ];
    let report = json(&line, 0);
    let jobs = report["jobs"].as_array().unwrap();
    assert_eq!((&jobs[0]["ios"], &jobs[1]["ios"]), (&1001.into(), &1001.into()));
    assert_eq!(report["devices"][0]["ios"], 501);
    assert_eq!(report["other"]["ios"], 1001);
    let reads = jobs[0]["read"]["ios"].as_u64().unwrap();
    let writes = jobs[0]["write"]["ios"].as_u64().unwrap();
    assert_eq!(reads + writes, 1001);
    assert!((200..400).contains(&reads), "{reads} of 1001 are reads");
}

#[test]
fn every_workload_runs() {
    for workload in [
        "read",
        "write",
        "randread",
        "randwrite",
        "rw",
        "randrw",
        "verify",
        "reset",
        "flush",
        "unmap",
        "write_zeroes",
    ] {
        let report = json(&["--bdev", "malloc:size=4M", "-w", workload, "-t", "0.05"], 0);
        assert!(number(&report, "/ios") > 0.0, "{workload}");
    }
    let large = ["--bdev", "malloc:size=64M", "-o", "5M", "-q", "2", "-w", "verify"];
    assert_eq!(json(&large, 0)["jobs"][0]["verify"]["bad"], 0);
}

#[test]
fn stacks_run() {
    let stack = "stripe:unit=64K(linear(malloc:size=4M,malloc:size=4M),passthru(malloc:size=8M),\
                 split:count=2,part=1(malloc:size=16M),delay:read=1(malloc:size=8M))";
    let report = json(&["--bdev", stack, "-w", "verify", "-o", "96K"], 0);
    assert_eq!(report["jobs"][0]["verify"]["checked"], 8192);
    let mirror = "mirror(stripe(malloc:size=4M,malloc:size=4M),malloc:size=8M)";
    let report = json(&["--bdev", mirror, "-w", "verify", "-o", "12K", "--passes", "2"], 0);
    assert_eq!(report["jobs"][0]["verify"]["checked"], 2 * 2048);
}

#[test]
fn a_configuration_gives_the_devices() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let config = r#"{"subsystems": [{"subsystem": "bdev", "config": [
        {"method": "bdev_malloc_create",
         "params": {"name": "m0", "num_blocks": 4096, "block_size": 512}},
        {"method": "bdev_malloc_create",
         "params": {"name": "m1", "num_blocks": 4096, "block_size": 512}},
        {"method": "bdev_raid_create", "params": {"name": "r0", "raid_level": "raid0",
         "strip_size_kb": 4, "base_bdevs": ["m0", "m1"]}}]}]}"#;
    std::fs::write(file.path(), config).unwrap();
    let path = file.path().to_str().unwrap();
    let report = json(&["--config", path, "-w", "verify", "--bdev", "malloc:size=1M"], 0);
    let devices = report["devices"].as_array().unwrap();
    let names: Vec<&str> = devices.iter().map(|device| device["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["r0", "Malloc0"]);
    assert_eq!(report["jobs"][0]["verify"]["checked"], 8192 + 256);
    std::fs::write(file.path(), "{\"subsystems\": [{\"subsystem\": \"bdev\"}]}").unwrap();
    let refused = perf(&["--config", path]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("makes no device"));
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    for (line, why) in [
        (&["-t", "1"][..], "no device to drive"),
        (&["--bdev", "nul"], "'nul' is no kind of bdev"),
        (&["--bdev", "null", "-o", "512"], "not a multiple of the block size of 'Null0', 4096"),
        (&["--bdev", "null", "-q", "0"], "-q 0: 1 to 4096"),
        (&["--bdev", "null:size=1M", "--range", "2M"], "beyond the end of 'Null0'"),
        (&["--bdev", "null:size=1M", "-o", "2M"], "larger than the range"),
        (&["--bdev", "null:size=1000"], "no whole number of blocks"),
        (&["--bdev", "null:block=1000"], "block size 1000"),
        (&["--bdev", "null", "--device", "7"], "--device 7: there are Null0"),
        (&["--bdev", "null", "-m", "[9999]"], "core"),
        (&["--bdev", "uring:/nowhere/file"], "/nowhere/file"),
        (&["--bdev", "null:name=a", "--bdev", "null:name=a"], "'a'"),
    ] {
        let output = perf(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line:?}: {said}");
        assert!(said.contains(why), "{line:?}: {said}");
        assert!(output.stdout.is_empty(), "{line:?}");
    }
}

#[test]
fn failed_io_is_counted_and_makes_the_exit_code() {
    let line = ["--bdev", "error:io=read,count=3(null)", "-n", "100", "-w", "randread"];
    let report = json(&line, 1);
    assert_eq!(report["errors"], 3);
    assert_eq!(report["ios"], 97);
    assert_eq!(report["error_statuses"][0]["count"], 3);
    json(&[&line[..], &["--allow-errors"]].concat(), 0);
}

#[test]
fn verify_names_a_block_that_was_corrupted_on_its_way() {
    let bdev = "error:io=write,type=corrupt_data,count=1,offset=5000(malloc:size=4M)";
    let line = ["--bdev", bdev, "-w", "verify", "-o", "16K", "--offsets", "sequential"];
    let report = json(&line, 1);
    let verify = &report["jobs"][0]["verify"];
    assert_eq!((&verify["checked"], &verify["bad"]), (&1024.into(), &1.into()));
    let first = &verify["first_bad"];
    assert_eq!((&first["lba"], &first["byte"]), (&1.into(), &(5000 - 4096).into()));
    assert_eq!(first["field"], "CRC");
    let text = String::from_utf8_lossy(&perf(&line).stdout).into_owned();
    assert!(text.contains("1 BAD; first bad block: LBA 1: CRC expected 0x"), "{text}");
}

#[test]
fn verify_works_across_runs() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(8 << 20).unwrap();
    let bdev = format!("uring:{},block=4096,direct=false", file.path().display());
    let with = |more: &[&str]| {
        let fixed = ["--bdev", &bdev, "-w", "verify", "--range", "1M-7M", "-o", "12K", "-q", "7"];
        [&fixed[..], more].concat().into_iter().map(String::from).collect::<Vec<_>>()
    };
    let run = |more: &[&str], code| {
        json(&with(more).iter().map(String::as_str).collect::<Vec<_>>(), code)
    };
    run(&["--seed", "77", "--passes", "3"], 0);
    let only = ["--seed", "77", "--verify-only", "--generation"];
    let again = run(&[&only[..], &["3"]].concat(), 0);
    assert_eq!(again["jobs"][0]["verify"]["checked"], 1536);
    assert!(again.get("write").is_none(), "--verify-only has written");
    let first_bad = |report: &Value| report["jobs"][0]["verify"]["first_bad"].clone();
    let stale = run(&[&only[..], &["2"]].concat(), 1);
    let first = first_bad(&stale);
    assert_eq!((&first["field"], &first["found"]), (&"generation".into(), &3.into()));
    let other = run(&["--seed", "78", "--verify-only", "--generation", "3"], 1);
    assert_eq!(
        (&first_bad(&other)["field"], &first_bad(&other)["lba"]),
        (&"seed".into(), &256.into())
    );
    // Two blocks change places, one bit flips, one block is lost.
    let mut blocks = [[0; 4096], [0; 4096]];
    for (index, lba) in [300, 301].into_iter().enumerate() {
        file.seek(SeekFrom::Start(lba * 4096)).unwrap();
        file.read_exact(&mut blocks[index]).unwrap();
    }
    for (lba, block) in [(300, blocks[1]), (301, blocks[0])] {
        file.seek(SeekFrom::Start(lba * 4096)).unwrap();
        file.write_all(&block).unwrap();
    }
    let swapped = run(&[&only[..], &["3"]].concat(), 1);
    assert_eq!(swapped["jobs"][0]["verify"]["bad"], 2);
    let first = first_bad(&swapped);
    assert_eq!((&first["lba"], &first["field"]), (&300.into(), &"LBA".into()));
    assert_eq!((&first["expected"], &first["found"]), (&300.into(), &301.into()));
    file.seek(SeekFrom::Start(290 * 4096)).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    let lost = run(&[&only[..], &["3"]].concat(), 1);
    assert_eq!((&first_bad(&lost)["lba"], &first_bad(&lost)["zeros"]), (&290.into(), &true.into()));
}

#[test]
fn a_rate_shows_what_a_slow_device_holds_up() {
    // Each read takes 10 ms at least and they go one by one, while one is due every millisecond:
    // the twentieth has been waiting for 19 others, less the 19 ms until it was due.
    let bdev = "delay:read=10000(null)";
    let line = ["--bdev", bdev, "-q", "1", "--rate", "1K", "-n", "20", "-w", "randread"];
    let report = json(&line, 0);
    assert!(number(&report, "/latency_us/max") >= 180_000.0, "{report:#}");
    // Their waits overlap, so that the sum is longer than the run, however long the machine makes that.
    let waits = |report: &Value| {
        number(report, "/latency_us/mean") * 20.0 / (number(report, "/seconds") * 1e6)
    };
    assert!(waits(&report) > 1.0, "{report:#}");
    // Without a rate each waits for itself alone.
    let closed = json(&["--bdev", bdev, "-q", "1", "-n", "20", "-w", "randread"], 0);
    assert!(waits(&closed) <= 1.01, "{closed:#}");
    let least = closed["distribution"][0][1].as_f64().unwrap();
    // Three digits are kept of it.
    assert!(least >= 9_990.0, "{least}");
}

#[test]
fn the_page_is_whole_and_well_formed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let page = path.to_str().unwrap();
    let bdev = "malloc:size=4M,name=\"a<b&c\"";
    perf(&["--bdev", bdev, "-w", "randrw", "-t", "0.2", "--html", page]);
    let text = std::fs::read_to_string(&path).unwrap();
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(&text, options)
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    let count = |name| document.descendants().filter(|node| node.has_tag_name(name)).count();
    let svg = "http://www.w3.org/2000/svg";
    assert_eq!(count((svg, "svg")), 3);
    // Reads, writes, and two of throughput.
    assert_eq!(count((svg, "polyline")), 4);
    assert!(text.contains("latency, µs") && text.contains("time, s"));
    for outside in ["src=", "href=", "url(", "<script"] {
        assert!(!text.contains(outside), "{outside}");
    }
    let refused = perf(&["--bdev", "null", "-t", "0.05", "--html", "/nowhere/report.html"]);
    assert_eq!(refused.status.code(), Some(2));
}
