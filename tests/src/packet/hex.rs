//! Bytes for people to read in a failed test's message.

use std::fmt::Write as _;

/// A hex dump, 16 bytes a line, each line with its offset and in ASCII.
pub fn hex(bytes: &[u8]) -> String {
    let mut dump = String::new();
    for (line, chunk) in bytes.chunks(16).enumerate() {
        let mut digits = String::new();
        for (at, byte) in chunk.iter().enumerate() {
            let gap = if at == 8 { " " } else { "" };
            write!(digits, "{gap} {byte:02x}").expect("a string takes all");
        }
        let ascii: String =
            chunk.iter().map(|&byte| if byte.is_ascii_graphic() { byte as char } else { '.' }).collect();
        writeln!(dump, "{:04x} {digits:<49}  {ascii}", line * 16).expect("a string takes all");
    }
    dump
}

#[cfg(test)]
mod tests {
    use super::hex;

    #[test]
    fn hex_dump_has_offsets_digits_and_text() {
        let dump = hex(b"GET / HTTP/1.1\r\n\x00\xff");
        assert_eq!(
            dump,
            "0000  47 45 54 20 2f 20 48 54  54 50 2f 31 2e 31 0d 0a  GET./.HTTP/1.1..\n\
             0010  00 ff                                             ..\n"
        );
    }
}
