//! CRC-32C (Castagnoli), with which PostgreSQL sums up records of its log and its control file.
//!
//! By the processor's instruction where it has one: a segment is 16 MiB of short records, summed up on its way into the archive.

/// A sum that grows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Crc(u32);

impl Crc {
    /// Adds bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    /// The sum of all that was added.
    pub(crate) fn value(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u32 {
        let mut crc = Crc::default();
        crc.add(bytes);
        crc.value()
    }

    #[test]
    fn it_is_castagnolis() {
        // RFC 3720, B.4.
        assert_eq!(sum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(sum(&[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(sum(&ascending), 0x46dd_794e);
        assert_eq!(sum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn it_does_not_matter_how_it_is_cut() {
        let bytes: Vec<u8> = (0..1000_u32).map(|number| (number * 7 % 251) as u8).collect();
        for cut in [0, 1, 7, 8, 9, 500, 999] {
            let mut crc = Crc::default();
            crc.add(&bytes[..cut]);
            crc.add(&bytes[cut..]);
            assert_eq!(crc.value(), sum(&bytes), "{cut}");
        }
    }
}
