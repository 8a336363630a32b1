//! Short forms of bdevs on the command line: `stripe:unit=64K(malloc:size=1G,null)`.
//!
//! ```text
//! spec    = kind [ ":" option { "," option } ] [ "(" spec { "," spec } ")" ]
//! option  = key "=" value | flag | value        (a bare value: what the kind is mostly about)
//! value   = anything but , ( ) or quoted: "…" with \" and \\
//! ```
//!
//! A comma within a list of devices ends the options when a kind follows it that is no `key=`. The kinds
//! are rows of a table ([`kinds::KINDS`]); this module knows none by name.

mod build;
mod error;
mod kinds;
mod parse;

pub use build::Builder;
pub use kinds::help;
pub use parse::{Node, parse};
