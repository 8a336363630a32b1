//! The kinds of bdev that a spec can name: one row each.

use weft::base::limits;

use super::build::{self, Build};

/// How an option's value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Bytes: `64K`.
    Size,
    /// A number.
    Number,
    /// Any text.
    Text,
    /// Set by its name alone, or `=true`, `=false`.
    Flag,
}

/// An option of a kind.
#[derive(Clone, Copy, Debug)]
pub struct OptionKind {
    /// Its key.
    pub key: &'static str,
    /// How its value is read.
    pub value: ValueKind,
    /// For the help: what it is when left out.
    pub default: &'static str,
}

/// How many devices a kind stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Children {
    /// At least.
    pub min: usize,
    /// At most.
    pub max: usize,
}

/// A kind of bdev.
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// For the help.
    pub summary: &'static str,
    /// What it stands on.
    pub children: Children,
    /// The option that a bare value stands for.
    pub bare: Option<&'static str>,
    /// Its options.
    pub options: &'static [OptionKind],
    /// Makes the device.
    pub build: Build,
}

impl Kind {
    /// The kind of this name.
    pub fn find(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// The option with this key.
    pub fn option(&self, key: &str) -> Option<&'static OptionKind> {
        self.options.iter().find(|option| option.key == key)
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Kind) -> bool {
        self.name == other.name
    }
}

const fn option(key: &'static str, value: ValueKind, default: &'static str) -> OptionKind {
    OptionKind { key, value, default }
}

const fn children(min: usize, max: usize) -> Children {
    Children { min, max }
}

use ValueKind::*;

const NAME: OptionKind = option("name", Text, "kind and a number");

/// All kinds.
pub static KINDS: &[Kind] = &[
    Kind {
        name: "malloc",
        summary: "memory",
        children: children(0, 0),
        bare: None,
        options: &[option("size", Size, "1G"), option("block", Size, "4096"), NAME],
        build: build::malloc,
    },
    Kind {
        name: "null",
        summary: "does nothing: what the layers above cost",
        children: children(0, 0),
        bare: None,
        options: &[option("size", Size, "1G"), option("block", Size, "4096"), NAME],
        build: build::null,
    },
    Kind {
        name: "uring",
        summary: "a file or block device through io_uring, past the page cache unless direct=false",
        children: children(0, 0),
        bare: Some("path"),
        options: &[
            option("path", Text, ""),
            option("block", Size, "what the medium has"),
            option("direct", Flag, "true"),
            option("iopoll", Flag, "false"),
            option("sqpoll", Flag, "false"),
            option("readonly", Flag, "false"),
            option("fixed", Flag, "true"),
            NAME,
        ],
        build: build::uring,
    },
    Kind {
        name: "nvme",
        summary: "a namespace of an NVMe controller on PCIe (bound to vfio-pci) or behind a vfio-user socket",
        children: children(0, 0),
        bare: None,
        options: &[
            option("pcie", Text, "ADDRESS"),
            option("vfiouser", Text, "PATH"),
            option("ns", Number, "1"),
            option("entries", Number, "1024"),
        ],
        build: build::nvme,
    },
    Kind {
        name: "virtio",
        summary: "a block device that a vhost-user back end serves, with a virtqueue for each core",
        children: children(0, 0),
        bare: Some("socket"),
        options: &[
            option("socket", Text, ""),
            option("queues", Number, "as many as cores"),
            option("entries", Number, "512"),
            option("ring", Text, "split or packed"),
            option("indirect", Flag, "if the device can"),
            option("event-idx", Flag, "if the device can"),
            option("reconnect", Number, "seconds, 0"),
            NAME,
        ],
        build: build::virtio,
    },
    Kind {
        name: "stripe",
        summary: "raid0: striped over all",
        children: children(1, limits::CHILDREN_MAX),
        bare: None,
        options: &[option("unit", Size, "64K"), NAME],
        build: build::stripe,
    },
    Kind {
        name: "mirror",
        summary: "raid1: the same on each",
        children: children(limits::MIRROR_LEGS_MIN, limits::MIRROR_LEGS_MAX),
        bare: None,
        options: &[NAME],
        build: build::mirror,
    },
    Kind {
        name: "linear",
        summary: "concat: one after the other",
        children: children(1, limits::CHILDREN_MAX),
        bare: None,
        options: &[NAME],
        build: build::linear,
    },
    Kind {
        name: "passthru",
        summary: "passes everything on",
        children: children(1, 1),
        bare: None,
        options: &[NAME],
        build: build::passthru,
    },
    Kind {
        name: "split",
        summary: "one of several equal parts; the others lie idle",
        children: children(1, 1),
        bare: None,
        options: &[option("count", Number, "2"), option("part", Number, "0")],
        build: build::split,
    },
    Kind {
        name: "delay",
        summary: "holds requests up, in microseconds; p99: every hundredth",
        children: children(1, 1),
        bare: None,
        options: &[
            option("read", Number, "0"),
            option("p99_read", Number, "as read"),
            option("write", Number, "0"),
            option("p99_write", Number, "as write"),
            NAME,
        ],
        build: build::delay,
    },
    Kind {
        name: "error",
        summary: "fails, or corrupts a byte of, the first so many requests of a type",
        children: children(1, 1),
        bare: None,
        options: &[
            option("io", Text, "all"),
            option("type", Text, "failure"),
            option("count", Number, "1"),
            option("offset", Number, "0"),
            option("value", Number, "255"),
        ],
        build: build::error,
    },
];

/// The kinds with their options, for `--help`.
pub fn help() -> String {
    let mut text = String::from("Kinds of bdev for --bdev (they nest, sizes take K, M, G, T):\n");
    for kind in KINDS {
        let on = match kind.children {
            Children { max: 0, .. } => "",
            Children { max: 1, .. } => "(A)",
            _ => "(A,B,…)",
        };
        let mut options = Vec::new();
        for option in kind.options {
            let bare = kind.bare == Some(option.key);
            options.push(match option.value {
                _ if bare => option.key.to_uppercase(),
                Flag => option.key.into(),
                _ => format!("{}={}", option.key, option.default),
            });
        }
        let form = format!("{}:{}{on}", kind.name, options.join(","));
        text.push_str(&format!("  {form}\n      {}\n", kind.summary));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert!(KINDS[..index].iter().all(|other| other.name != kind.name), "{kind:?} twice");
            if let Some(bare) = kind.bare {
                assert_eq!(kind.option(bare).map(|option| option.value), Some(Text), "{kind:?}");
            }
            for option in kind.options {
                let flag_is_kind = option.value == Flag && Kind::find(option.key).is_some();
                assert!(!flag_is_kind, "{kind:?}: the flag '{}' names a kind", option.key);
            }
            assert!(kind.children.min <= kind.children.max);
        }
    }
}
