//! Finds where one JSON object or array ends, byte by byte.
//!
//! A pushdown automaton over the grammar of RFC 8259: it reads each byte once and keeps its place
//! between reads, so a request that arrives in a thousand pieces costs no more than one that arrives
//! whole, and a syntax error shows at the first byte that cannot be. It looks neither at the
//! encoding within strings nor at surrogate escapes; who parses the text afterwards does.

use crate::base::limits::RPC_REQUEST_DEPTH_MAX;

// One bit per level says whether it is an object.
const _: () = assert!(RPC_REQUEST_DEPTH_MAX <= u64::BITS as usize);

/// What a byte did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The value goes on.
    More,
    /// The byte was whitespace before the value.
    Blank,
    /// The byte was the value's last.
    End,
    /// The byte cannot stand here.
    Unexpected(&'static str),
    /// The byte opens one level too many.
    TooDeep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the value.
    Start,
    /// A value must follow.
    Value,
    /// A value or `]`.
    FirstElement,
    /// A key or `}`.
    FirstKey,
    /// A key must follow.
    Key,
    Colon,
    /// `,` or the end of the level.
    AfterValue,
    Text {
        key: bool,
    },
    Escape {
        key: bool,
    },
    /// Within `\uXXXX`, with so many digits to come.
    Unicode {
        key: bool,
        left: u8,
    },
    /// Within `true`, `false` or `null`, with this to come.
    Literal(&'static [u8]),
    Number(Number),
}

/// The places within a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

impl Number {
    /// Where `byte` leads, or `None` when the number does not go on with it.
    fn next(self, byte: u8) -> Option<Number> {
        Some(match (self, byte) {
            (Number::Minus, b'0') => Number::Zero,
            (Number::Minus, b'1'..=b'9') | (Number::Integer, b'0'..=b'9') => Number::Integer,
            (Number::Zero | Number::Integer, b'.') => Number::Point,
            (Number::Point | Number::Fraction, b'0'..=b'9') => Number::Fraction,
            (Number::Zero | Number::Integer | Number::Fraction, b'e' | b'E') => Number::Exponent,
            (Number::Exponent, b'+' | b'-') => Number::ExponentSign,
            (Number::Exponent | Number::ExponentSign | Number::ExponentDigits, b'0'..=b'9') => {
                Number::ExponentDigits
            }
            _ => return None,
        })
    }

    fn is_whole(self) -> bool {
        matches!(self, Number::Zero | Number::Integer | Number::Fraction | Number::ExponentDigits)
    }
}

/// The automaton. After [`Step::End`] it is ready for the next value.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    state: State,
    depth: usize,
    objects: u64,
}

impl Scanner {
    pub(super) fn new() -> Scanner {
        Scanner { state: State::Start, depth: 0, objects: 0 }
    }

    fn open(&mut self, object: bool) -> Step {
        if self.depth == RPC_REQUEST_DEPTH_MAX {
            return Step::TooDeep;
        }
        self.objects = self.objects << 1 | u64::from(object);
        self.depth += 1;
        self.state = if object { State::FirstKey } else { State::FirstElement };
        Step::More
    }

    fn close(&mut self, object: bool) -> Step {
        if (self.objects & 1 == 1) != object {
            return Step::Unexpected(if object { "']' expected" } else { "'}' expected" });
        }
        self.objects >>= 1;
        self.depth -= 1;
        if self.depth == 0 {
            self.state = State::Start;
            return Step::End;
        }
        self.state = State::AfterValue;
        Step::More
    }

    fn go(&mut self, state: State) -> Step {
        self.state = state;
        Step::More
    }

    fn value(&mut self, byte: u8) -> Step {
        match byte {
            b'{' => self.open(true),
            b'[' => self.open(false),
            b'"' => self.go(State::Text { key: false }),
            b't' => self.go(State::Literal(b"rue")),
            b'f' => self.go(State::Literal(b"alse")),
            b'n' => self.go(State::Literal(b"ull")),
            b'-' => self.go(State::Number(Number::Minus)),
            b'0' => self.go(State::Number(Number::Zero)),
            b'1'..=b'9' => self.go(State::Number(Number::Integer)),
            _ => Step::Unexpected("a value expected"),
        }
    }

    fn after_value(&mut self, byte: u8) -> Step {
        match byte {
            b'}' => self.close(true),
            b']' => self.close(false),
            b',' if self.objects & 1 == 1 => self.go(State::Key),
            b',' => self.go(State::Value),
            b' ' | b'\t' | b'\r' | b'\n' => self.go(State::AfterValue),
            _ => Step::Unexpected("',' or the end of the object or array expected"),
        }
    }

    /// Takes the next byte.
    pub(super) fn step(&mut self, byte: u8) -> Step {
        let blank = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        match self.state {
            State::Start if blank => Step::Blank,
            State::Start if matches!(byte, b'{' | b'[') => self.open(byte == b'{'),
            State::Start => Step::Unexpected("a request starts with '{', a batch with '['"),
            State::Value | State::FirstElement | State::FirstKey | State::Key | State::Colon
                if blank =>
            {
                Step::More
            }
            State::FirstElement if byte == b']' => self.close(false),
            State::Value | State::FirstElement => self.value(byte),
            State::FirstKey if byte == b'}' => self.close(true),
            State::FirstKey | State::Key if byte == b'"' => self.go(State::Text { key: true }),
            State::FirstKey | State::Key => Step::Unexpected("a name in double quotes expected"),
            State::Colon if byte == b':' => self.go(State::Value),
            State::Colon => Step::Unexpected("':' expected"),
            State::AfterValue => self.after_value(byte),
            State::Text { key } => match byte {
                b'"' if key => self.go(State::Colon),
                b'"' => self.go(State::AfterValue),
                b'\\' => self.go(State::Escape { key }),
                0x00..=0x1f => Step::Unexpected("a control character in a string"),
                _ => Step::More,
            },
            State::Escape { key } => match byte {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                    self.go(State::Text { key })
                }
                b'u' => self.go(State::Unicode { key, left: 4 }),
                _ => Step::Unexpected("an unknown escape in a string"),
            },
            State::Unicode { key, left } => match (byte.is_ascii_hexdigit(), left) {
                (false, _) => Step::Unexpected("a hexadecimal digit expected"),
                (true, 1) => self.go(State::Text { key }),
                (true, _) => self.go(State::Unicode { key, left: left - 1 }),
            },
            State::Literal(rest) => match rest {
                [only] if byte == *only => self.go(State::AfterValue),
                [first, more @ ..] if byte == *first => self.go(State::Literal(more)),
                _ => Step::Unexpected("true, false or null expected"),
            },
            State::Number(number) => match number.next(byte) {
                Some(next) => self.go(State::Number(next)),
                None if number.is_whole() => self.after_value(byte),
                None => Step::Unexpected("a digit expected"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the first value of `text` ends, or which byte is wrong.
    fn scan(text: &str) -> Result<usize, usize> {
        let mut scanner = Scanner::new();
        for (index, byte) in text.bytes().enumerate() {
            match scanner.step(byte) {
                Step::More | Step::Blank => {}
                Step::End => return Ok(index + 1),
                Step::Unexpected(_) | Step::TooDeep => return Err(index),
            }
        }
        Ok(usize::MAX)
    }

    #[test]
    fn finds_the_end() {
        for (text, end) in [
            ("{}", 2),
            (" \n[]x", 4),
            (r#"{"a":{"b":[1,-2.5e+3,0]}}{"#, 25),
            (r#"["}\"]\\",true,false,null]"#, 26),
            (r#"{"\u00e9":"\ud83d\ude00"}"#, 25),
            ("[0.5 , 1E9]", 11),
        ] {
            assert_eq!(scan(text), Ok(end), "{text}");
        }
        assert_eq!(scan(r#"{"a": [1, 2"#), Ok(usize::MAX), "goes on");
    }

    #[test]
    fn stops_at_the_first_wrong_byte() {
        for (text, wrong) in [
            ("x", 0),
            ("5", 0),
            ("{]", 1),
            ("[}", 1),
            ("{a", 1),
            (r#"{"a" 1"#, 5),
            (r#"{"a":1,}"#, 7),
            ("[1,]", 3),
            ("[01]", 2),
            ("[1.]", 3),
            ("[1e]", 3),
            ("[-]", 2),
            ("[nul]", 4),
            ("[\"\n", 2),
            (r#"["\x"#, 3),
            (r#"["\u12g"#, 6),
            ("[1 2", 3),
        ] {
            assert_eq!(scan(text), Err(wrong), "{text}");
        }
    }

    #[test]
    fn depth_is_limited() {
        let fits = "[".repeat(RPC_REQUEST_DEPTH_MAX) + &"]".repeat(RPC_REQUEST_DEPTH_MAX);
        assert_eq!(scan(&fits), Ok(fits.len()));
        let deeper = "[".repeat(RPC_REQUEST_DEPTH_MAX + 1);
        assert_eq!(scan(&deeper), Err(RPC_REQUEST_DEPTH_MAX));
    }
}
