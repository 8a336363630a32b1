//! dev
mod check; mod history; mod picture; mod properties; mod rules; mod scope; mod state; mod step; mod story;
use scope::*; use check::*;
pub fn run() {
    let a: Vec<String> = std::env::args().collect();
    let cap: usize = a[2].parse::<usize>().unwrap() * 1_000_000;
    let pr = |name: &str, o: Outcome, full: bool| {
        println!("{name}: states {} unique {} depth {} complete {} reached {:?} {:.1}s", o.states, o.unique, o.depth, o.complete, o.reached, o.seconds);
        if let Some(v) = o.violation { println!("  VIOLATION {} in {}", v.property, v.trace.len()); if full { for l in v.trace { println!("    {l}"); } } }
        else if full { } else { println!("  NOT CAUGHT"); }
    };
    if a[1] == "good" {
        let n: Vec<u8> = a[3].split(',').map(|x| x.parse().unwrap()).collect();
        let mut s = Scope::of(n[..9].try_into().unwrap()); s.fast = n[9] == 1;
        pr(&a[3], check(s, Mutations::default(), Limits { states: cap, shortest: a.get(4).is_some() }), true);
        return;
    }
    for (name, scope, m) in Mutations::each() {
        if a[1] != "all" && !a[1].split(',').any(|x| x == name) { continue; }
        pr(name, check(Scope { fast: m.unconfirmed_fast, ..scope }, m, Limits { states: cap, shortest: true }), a.get(3).is_some());
    }
}
