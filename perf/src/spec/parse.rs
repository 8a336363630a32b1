//! The parser of specs.

use weft::base::parse_size;

use super::error::SpecError;
use super::kinds::{KINDS, Kind, OptionKind, ValueKind};

/// Deepest nesting: a stack of ours that is deeper is a mistake.
const DEPTH_MAX: usize = 32;

/// The value of an option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`ValueKind::Size`], in bytes.
    Size(u64),
    /// Of [`ValueKind::Number`].
    Number(u64),
    /// Of [`ValueKind::Text`].
    Text(String),
    /// Of [`ValueKind::Flag`].
    Flag(bool),
}

/// One device of a spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: &'static Kind,
    /// Its options, each key once.
    pub options: Vec<(&'static str, Value)>,
    /// What it stands on.
    pub children: Vec<Node>,
}

impl Node {
    /// Whether it, or what it stands on, is in another process, which has to reach our memory.
    pub fn shares_memory(&self) -> bool {
        let elsewhere = self.kind.name == "virtio" || self.get("vfiouser").is_some();
        elsewhere || self.children.iter().any(Node::shares_memory)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.options.iter().find(|(given, _)| *given == key).map(|(_, value)| value)
    }

    /// The bytes given for `key`.
    pub fn size(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Size(bytes)) => Some(*bytes),
            _ => None,
        }
    }

    /// The number given for `key`.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    /// The text given for `key`.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether the flag `key` is set, if it was given.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Value::Flag(set)) => Some(*set),
            _ => None,
        }
    }
}

/// Reads a spec.
///
/// # Errors
/// Where it goes wrong, and what was expected there.
pub fn parse(text: &str) -> Result<Node, SpecError> {
    let mut parser = Parser { text, at: 0 };
    let node = parser.node(0)?;
    parser.skip_space();
    match parser.peek() {
        None => Ok(node),
        Some(',') => {
            Err(parser.fault("one --bdev makes one device; give --bdev again for another"))
        }
        Some(other) => Err(parser.fault(format!("expected the end, not '{other}'"))),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

impl<'a> Parser<'a> {
    fn fault_at(&self, at: usize, what: impl Into<String>) -> SpecError {
        SpecError { text: self.text.into(), at, what: what.into() }
    }

    fn fault(&self, what: impl Into<String>) -> SpecError {
        self.fault_at(self.at, what)
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, c: char) -> bool {
        self.skip_space();
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn word(&mut self) -> &'a str {
        self.skip_space();
        let rest = self.rest();
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn node(&mut self, depth: usize) -> Result<Node, SpecError> {
        self.skip_space();
        let start = self.at;
        let name = self.word();
        let kind = Kind::find(name).ok_or_else(|| {
            let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
            let said = match name {
                "" => "expected a kind of bdev".into(),
                _ => format!("'{name}' is no kind of bdev"),
            };
            self.fault_at(start, format!("{said} (there are {})", names.join(", ")))
        })?;
        if depth >= DEPTH_MAX {
            return Err(self.fault_at(start, format!("nested deeper than {DEPTH_MAX}")));
        }
        let options = if self.take(':') { self.options(kind, depth > 0)? } else { Vec::new() };
        let mut children = Vec::new();
        self.skip_space();
        let list = self.at;
        if self.take('(') {
            loop {
                children.push(self.node(depth + 1)?);
                if self.take(')') {
                    break;
                }
                if !self.take(',') {
                    return Err(self.fault(format!(
                        "expected ',' or ')' in the list of what '{name}' stands on"
                    )));
                }
            }
        }
        let wanted = kind.children;
        if children.len() < wanted.min || children.len() > wanted.max {
            let count = match (wanted.min, wanted.max) {
                (0, 0) => "no other bdev".into(),
                (1, 1) => format!("one bdev: {name}(A)"),
                (min, max) => format!("{min} to {max} bdevs: {name}(A,B)"),
            };
            return Err(self
                .fault_at(list, format!("'{name}' stands on {count}; {} given", children.len())));
        }
        Ok(Node { kind, options, children })
    }

    fn options(
        &mut self,
        kind: &'static Kind,
        in_list: bool,
    ) -> Result<Vec<(&'static str, Value)>, SpecError> {
        let mut options: Vec<(&'static str, Value)> = Vec::new();
        loop {
            self.skip_space();
            let at = self.at;
            let (key, value) = self.option(kind, options.is_empty())?;
            if options.iter().any(|(given, _)| *given == key) {
                return Err(self.fault_at(at, format!("'{key}' is given twice")));
            }
            options.push((key, value));
            self.skip_space();
            if self.peek() != Some(',') || (in_list && self.kind_follows()) {
                return Ok(options);
            }
            self.at += 1;
        }
    }

    /// Whether another device follows the comma here, and not an option.
    fn kind_follows(&self) -> bool {
        let mut ahead = Parser { text: self.text, at: self.at + 1 };
        let name = ahead.word();
        ahead.skip_space();
        Kind::find(name).is_some() && matches!(ahead.peek(), None | Some(':' | '(' | ',' | ')'))
    }

    fn option(
        &mut self,
        kind: &'static Kind,
        first: bool,
    ) -> Result<(&'static str, Value), SpecError> {
        let start = self.at;
        let key = self.word();
        if self.take('=') {
            if let Some(option) = kind.option(key) {
                return Ok((option.key, self.value(option)?));
            }
            if !(first && kind.bare.is_some()) {
                return Err(self.fault_at(start, unknown_option(kind, key)));
            }
        } else if let Some(option) = kind.option(key)
            && matches!(self.peek(), None | Some(',' | '(' | ')'))
        {
            if option.value == ValueKind::Flag {
                return Ok((option.key, Value::Flag(true)));
            }
            if kind.bare.is_none() || !first {
                return Err(self.fault_at(
                    start,
                    format!("'{key}' of '{}' needs a value: {key}={}", kind.name, option.default),
                ));
            }
        }
        // Not an option by name: what the kind is mostly about, such as a path.
        self.at = start;
        match kind.bare.and_then(|bare| kind.option(bare)) {
            Some(option) if first => Ok((option.key, self.value(option)?)),
            _ => Err(self.fault_at(start, unknown_option(kind, key))),
        }
    }

    fn raw_value(&mut self) -> Result<String, SpecError> {
        self.skip_space();
        if self.peek() != Some('"') {
            let rest = self.rest();
            let end = rest.find([',', '(', ')']).unwrap_or(rest.len());
            self.at += end;
            return Ok(rest[..end].trim_end().into());
        }
        let open = self.at;
        let mut value = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((index, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += index + 1;
                    return Ok(value);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    _ => return Err(self.fault_at(open + index, "expected \\\" or \\\\ here")),
                },
                c => value.push(c),
            }
        }
        Err(self.fault_at(open, "a quote that is not closed"))
    }

    fn value(&mut self, option: &OptionKind) -> Result<Value, SpecError> {
        self.skip_space();
        let start = self.at;
        let raw = self.raw_value()?;
        let wrong = |what: String| self.fault_at(start, format!("{}: {what}", option.key));
        if raw.is_empty() {
            return Err(wrong("expected a value".into()));
        }
        Ok(match option.value {
            ValueKind::Size => {
                Value::Size(parse_size(&raw).map_err(|error| wrong(error.to_string()))?.0)
            }
            ValueKind::Number => Value::Number(
                raw.parse().map_err(|_| wrong(format!("'{raw}' is not a whole number")))?,
            ),
            ValueKind::Text => Value::Text(raw),
            ValueKind::Flag => match raw.as_str() {
                "true" | "on" | "1" => Value::Flag(true),
                "false" | "off" | "0" => Value::Flag(false),
                _ => return Err(wrong(format!("'{raw}' is neither true nor false"))),
            },
        })
    }
}

fn unknown_option(kind: &Kind, key: &str) -> String {
    let keys: Vec<&str> = kind.options.iter().map(|option| option.key).collect();
    match key {
        "" => format!("expected an option of '{}' ({})", kind.name, keys.join(", ")),
        _ => format!("'{}' has no option '{key}' (it has {})", kind.name, keys.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(text: &str) -> (usize, String) {
        let error = parse(text).expect_err(text);
        (error.at, error.what)
    }

    #[test]
    fn a_leaf_with_options_reads() {
        let node = parse(" null : size = 64M , block=512 ").unwrap();
        assert_eq!(node.kind.name, "null");
        assert_eq!((node.size("size"), node.size("block")), (Some(64 << 20), Some(512)));
        assert_eq!(node.size("name"), None);
        assert_eq!(parse("null").unwrap().options, []);
    }

    #[test]
    fn devices_nest_and_commas_find_their_owner() {
        let text = "stripe:unit=64K(malloc:size=1G,block=512,null,mirror(null:size=2M,null))";
        let node = parse(text).unwrap();
        assert_eq!(node.size("unit"), Some(64 << 10));
        let kinds: Vec<&str> = node.children.iter().map(|child| child.kind.name).collect();
        assert_eq!(kinds, ["malloc", "null", "mirror"]);
        assert_eq!(node.children[0].size("block"), Some(512));
        assert_eq!(node.children[2].children[0].size("size"), Some(2 << 20));
    }

    #[test]
    fn bare_values_flags_and_quotes_read() {
        let node = parse("uring:/tmp/a b=c:d,iopoll,direct=false").unwrap();
        assert_eq!(node.text("path"), Some("/tmp/a b=c:d"));
        assert_eq!((node.flag("iopoll"), node.flag("direct")), (Some(true), Some(false)));
        let node = parse(r#"uring:path="/tmp/a,(b)\"\\",block=512"#).unwrap();
        assert_eq!(node.text("path"), Some(r#"/tmp/a,(b)"\"#));
        assert_eq!(parse("uring:null").unwrap().text("path"), Some("null"));
        assert_eq!(parse("linear(uring:a,uring:b)").unwrap().children.len(), 2);
    }

    #[test]
    fn faults_say_where_and_what() {
        for (text, at, what) in [
            ("", 0, "expected a kind of bdev"),
            ("nul", 0, "'nul' is no kind of bdev (there are "),
            ("null:size=12X", 10, "size: '12X' is not a size"),
            ("null:size=", 10, "expected a value"),
            ("null:sise=1M", 5, "'null' has no option 'sise' (it has size, block, name)"),
            ("null:size", 5, "needs a value: size=1G"),
            ("null:", 5, "expected an option of 'null'"),
            ("null:size=1M,size=2M", 13, "'size' is given twice"),
            ("null(null)", 4, "'null' stands on no other bdev; 1 given"),
            ("stripe", 6, "'stripe' stands on"),
            ("linear(null", 11, "expected ',' or ')'"),
            ("linear(null,", 12, "expected a kind of bdev"),
            ("linear(null,foo)", 12, "'foo' is no kind"),
            ("linear(null:size=1M,foo=2)", 20, "'null' has no option 'foo'"),
            ("null,null", 4, "one --bdev makes one device"),
            ("null)", 4, "expected the end"),
            ("uring:\"abc", 6, "not closed"),
            ("uring:a,iopoll=maybe", 15, "neither true nor false"),
            ("passthru(null,null)", 8, "one bdev: passthru(A); 2 given"),
        ] {
            let (found_at, found) = fault(text);
            assert!(found.contains(what), "{text}: {found}");
            assert_eq!(found_at, at, "{text}: {found}");
        }
        let deep = "passthru(".repeat(40);
        assert!(fault(&deep).1.contains("nested deeper"));
    }

    #[test]
    fn an_error_points_at_the_fault() {
        let shown = parse("null:size=12X").unwrap_err().to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1], "  null:size=12X");
        assert_eq!(lines[2], "            ^ at character 11");
    }

    fn print(node: &Node) -> String {
        let value = |value: &Value| match value {
            Value::Size(number) | Value::Number(number) => number.to_string(),
            Value::Text(text) => {
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            }
            Value::Flag(set) => set.to_string(),
        };
        let mut text = node.kind.name.to_string();
        for (index, (key, given)) in node.options.iter().enumerate() {
            text.push_str(if index == 0 { ":" } else { "," });
            text.push_str(&format!("{key}={}", value(given)));
        }
        if !node.children.is_empty() {
            let children: Vec<String> = node.children.iter().map(print).collect();
            text.push_str(&format!("({})", children.join(",")));
        }
        text
    }

    fn options(kind: &'static Kind) -> impl Strategy<Value = Vec<(&'static str, Value)>> {
        let each: Vec<_> = kind
            .options
            .iter()
            .map(|option| {
                let value = match option.value {
                    ValueKind::Size => (0_u64..1 << 50).prop_map(Value::Size).boxed(),
                    ValueKind::Number => any::<u64>().prop_map(Value::Number).boxed(),
                    ValueKind::Text => "[ -~é]{1,12}".prop_map(Value::Text).boxed(),
                    ValueKind::Flag => any::<bool>().prop_map(Value::Flag).boxed(),
                };
                proptest::option::of(value.prop_map(|value| (option.key, value)))
            })
            .collect();
        each.prop_map(|options| options.into_iter().flatten().collect())
    }

    fn nodes() -> impl Strategy<Value = Node> {
        let with = |children: BoxedStrategy<Vec<Node>>, kinds: Vec<&'static Kind>| {
            (proptest::sample::select(kinds), children).prop_flat_map(|(kind, mut children)| {
                children.truncate(kind.children.max);
                options(kind).prop_map(move |options| Node {
                    kind,
                    options,
                    children: children.clone(),
                })
            })
        };
        let leaves: Vec<_> = KINDS.iter().filter(|kind| kind.children.max == 0).collect();
        let others: Vec<_> = KINDS.iter().filter(|kind| kind.children.max > 0).collect();
        with(Just(Vec::new()).boxed(), leaves).prop_recursive(3, 16, 4, move |inner| {
            with(proptest::collection::vec(inner, 2..4).boxed(), others.clone())
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(node in nodes()) {
            prop_assert_eq!(parse(&print(&node)).map_err(|error| error.to_string()), Ok(node));
        }

        #[test]
        fn no_text_panics(text in "[a-z:,()=\"\\\\ é0-9]{0,40}", kind in 0..KINDS.len()) {
            for text in [text.clone(), format!("{}{text}", KINDS[kind].name)] {
                if let Err(error) = parse(&text) {
                    let _ = error.to_string();
                }
            }
        }
    }
}
