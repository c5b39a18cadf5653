//! Segments of log archives: their names, their tables, and what is in their objects.

use repository::log::{Error, Fork, Link, Segment, decode, decode_table, encode_table, escape, unescape};

/// The name under which content is decoded here.
const NAME: &str = "log/c/l/s";

/// The bytes as a name, as a table of parts, as the content of a segment, and as the plaintext of its object.
pub fn log_segment(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        names(text);
    }
    let Ok((parts, table_bytes)) = decode_table(data) else {
        let segment = any_segment(0, 1, Link([0; 16]));
        assert!(decode("o", NAME, &segment, data).is_err());
        return;
    };
    assert_eq!(encode_table(&parts), data[..table_bytes]);
    let before = Link([7; 16]);
    let after = parts.iter().fold(before, |link, part| part.link(link));
    let segment = Segment { after, ..any_segment(parts[0].first, parts[parts.len() - 1].last, before) };
    let mut envelope = vec![1, NAME.len() as u8];
    envelope.extend(NAME.as_bytes());
    envelope.extend(data);
    let mut plaintext = vec![2];
    plaintext.extend(zstd::bulk::compress(&envelope, 1).expect("a buffer of the library's own bound suffices"));
    assert!(matches!(decode("o", "log/c/l/t", &segment, &plaintext), Err(Error::WrongName { .. })));
    // The latest instant is in the name too; this one is that of parts of which none is known.
    if let Ok(contents) = decode("o", NAME, &segment, &plaintext) {
        let bytes: Vec<u8> = contents.iter().flat_map(|content| content.bytes.to_vec()).collect();
        assert_eq!(bytes, data[table_bytes..]);
    }
}

fn names(text: &str) {
    if let Some(segment) = Segment::parse(text, 1) {
        assert_eq!(segment.file_name(), text);
    }
    if let Some(fork) = Fork::parse(text) {
        assert_eq!(fork.file_name(), text);
    }
    if let Some(name) = unescape(text) {
        assert_eq!(escape(&name), text);
    }
    assert_eq!(unescape(&escape(text)).as_deref(), Some(text));
}

fn any_segment(first: u64, last: u64, before: Link) -> Segment {
    let name = format!("{first:016x}-{:016x}-{:016x}-{:08x}-{before}-{before}", u64::MAX, u64::MAX, 1);
    let segment = Segment::parse(&name, 1).expect("a name of the right form");
    Segment { last, ..segment }
}
