//! The reference page and the help of the command line, out of the method table.

use std::fmt::Write;

use super::method::{Method, States};
use super::methods;

fn doc_text(lines: &[&str]) -> String {
    let lines: Vec<&str> =
        lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    lines.join("\n")
}

fn states_text(states: States) -> &'static str {
    match states {
        States::Startup => "before initialization",
        States::Runtime => "after initialization",
        States::Any => "at any time",
    }
}

/// The whole page, in Markdown. Methods of cargo features have no place on it.
pub fn page() -> String {
    let mut page = String::from(
        "# JSON-RPC reference\n\n\
         <!-- Made from the method table; `WEFT_UPDATE_DOCS=1 cargo test --test rpc_reference` \
         writes it. -->\n\n\
         `weftd` speaks JSON-RPC 2.0 over a unix socket, framed as SPDK does it: requests, or \
         batches of requests, follow one another with no delimiter. Methods without the prefix \
         `weft_` have SPDK's names, parameters and result fields, so `spdk-rpc -s SOCKET …` works.\n\n\
         An error has a code and a text. Codes: -32700 no JSON (the connection closes, since \
         nothing tells where the next request starts), -32600 no request, -32601 no such method, \
         -32602 parameters that do not fit (SPDK says -32603 for some methods), -1 not callable \
         in the present state; any other negative number is an errno, as in SPDK.\n\n",
    );
    for method in methods::always() {
        writeln!(page, "- [`{0}`](#{0})", method.name).expect("a string grows");
    }
    for method in methods::always() {
        page.push('\n');
        page.push_str(&section(method));
    }
    page
}

fn section(method: &Method) -> String {
    let mut text = format!("## `{}`\n\n{}\n\n", method.name, doc_text(method.doc));
    writeln!(text, "Callable {}.\n", states_text(method.states)).expect("a string grows");
    if method.fields.is_empty() {
        text.push_str("No parameters.\n\n");
    } else {
        text.push_str("| parameter | type | | meaning |\n| --- | --- | --- | --- |\n");
        for field in method.fields {
            let presence = match (field.required, field.default) {
                (true, _) => "required".to_owned(),
                (false, Some(default)) => format!("default {}", default_text(default)),
                (false, None) => "optional".to_owned(),
            };
            let doc = doc_text(field.doc).replace('\n', " ");
            writeln!(text, "| `{}` | {} | {presence} | {doc} |", field.name, field.kind.text())
                .expect("a string grows");
        }
        text.push('\n');
    }
    writeln!(text, "Result: {}", method.result).expect("a string grows");
    text
}

/// A default in JSON words rather than Rust's.
fn default_text(source: &str) -> String {
    match source {
        "Vec::new()" => "`[]`".to_owned(),
        source => format!("`{}`", source.rsplit("::").next().unwrap_or(source)),
    }
}

/// Help on one method, as plain text.
pub fn help(method: &Method) -> String {
    let mut text = format!("{}: {}\n", method.name, doc_text(method.doc));
    writeln!(text, "Callable {}.", states_text(method.states)).expect("a string grows");
    for field in method.fields {
        let presence = match (field.required, field.default) {
            (true, _) => ", required".to_owned(),
            (false, Some(default)) => format!(", default {}", default_text(default)),
            (false, None) => String::new(),
        };
        let doc = doc_text(field.doc).replace('\n', " ");
        writeln!(text, "  {} ({}{presence}): {doc}", field.name, field.kind.text())
            .expect("a string grows");
    }
    writeln!(text, "Result: {}", method.result).expect("a string grows");
    text
}
