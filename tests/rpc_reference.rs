//! `docs/rpc.md` is what the method table says. `WEFT_UPDATE_DOCS=1` writes it anew.

use std::path::Path;

#[test]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rpc.md");
    let page = weft::rpc::reference_page();
    if std::env::var_os("WEFT_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("write docs/rpc.md");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(page.lines()).position(|(kept, new)| kept != new);
    assert!(
        kept == page,
        "docs/rpc.md is stale (first at line {}): WEFT_UPDATE_DOCS=1 cargo test --test rpc_reference",
        differs.map_or(kept.lines().count().min(page.lines().count()), |line| line) + 1
    );
}

#[test]
fn every_method_is_there_once_and_documented() {
    let mut names = std::collections::BTreeSet::new();
    for method in weft::rpc::methods::all() {
        assert!(names.insert(method.name), "{} stands twice", method.name);
        assert!(!method.doc.is_empty() && !method.result.is_empty(), "{}", method.name);
        for field in method.fields {
            assert!(!field.doc.is_empty(), "{}: {}", method.name, field.name);
        }
    }
}
