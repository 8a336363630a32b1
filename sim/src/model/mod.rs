//! dev
mod check; mod history; mod picture; mod properties; mod rules; mod scope; mod state; mod step; mod story;
use scope::*; use check::*;
pub fn run() {
    let a: Vec<String> = std::env::args().collect();
    let n: Vec<u8> = a[2].split(',').map(|x| x.parse().unwrap()).collect();
    let scope = Scope { replicas: n[0], entries: n[1], writes: n[2], evictions: n[3], begins: n[4], attaches: n[5], restarts: n[6], switches: n[7], fast: n[8] == 1 };
    let secs: u64 = a[3].parse().unwrap();
    for (name, _, m) in std::iter::once(("none", "", Mutations::default())).chain(Mutations::each()) {
        if a[1] != "all" && !a[1].split(',').any(|x| x == name) { continue; }
        let o = check(scope, m, Limits { states: 200_000_000, time: std::time::Duration::from_secs(secs), shortest: a.get(4).is_none() });
        println!("{name}: states {} unique {} depth {} complete {} reached {:?} {:.1}s", o.states, o.unique, o.depth, o.complete, o.reached, o.seconds);
        if let Some(v) = o.violation { println!("  VIOLATION {} in {}", v.property, v.trace.len()); if name == "none" || a.get(5).is_some() { for l in v.trace { println!("    {l}"); } } }
    }
}
