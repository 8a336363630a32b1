//! Text that a device reports.

/// The text of a fixed field: ASCII, padded with spaces (Base Specification, section 1.5) or ended by a zero byte.
/// A device may write anything there: what is not printable becomes a dot, so that it does no harm in a log or on a
/// terminal.
pub fn printable(field: &[u8]) -> String {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let text: String = field[..end]
        .iter()
        .map(|&byte| if matches!(byte, b' '..=b'~') { char::from(byte) } else { '.' })
        .collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_at_zero_or_padding() {
        assert_eq!(printable(b"  a b  "), "a b");
        assert_eq!(printable(b"a\0b"), "a");
        assert_eq!(printable(b"\x7f\xff\n"), "...");
        assert_eq!(printable(b""), "");
    }
}
