//! The checksum at the end of a dump: CRC-64 with Jones' polynomial, as Redis' `crc64.c` has it.

/// The polynomial, its bits in reverse.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;
/// What a byte comes to, for each of the eight places that it can have in a word.
const TABLES: [[u64; 256]; 8] = tables();

const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u64, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        let mut place = 1;
        while place < 8 {
            let before = tables[place - 1][byte];
            tables[place][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            place += 1;
        }
        byte += 1;
    }
    tables
}

/// The sum of all bytes so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Checksum(pub u64);

impl Checksum {
    /// Adds bytes.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let mixed = (self.0 ^ u64::from_le_bytes(*word)).to_le_bytes();
            self.0 = (0..8).fold(0, |sum, place| sum ^ TABLES[7 - place][usize::from(mixed[place])]);
        }
        for &byte in rest {
            self.0 = TABLES[0][usize::from(self.0 as u8 ^ byte)] ^ (self.0 >> 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Checksum;

    #[test]
    fn it_is_the_sum_of_crc64_c() {
        let mut sum = Checksum::default();
        sum.add(b"123456789");
        // The check value in the comment of Redis' crc64.c.
        assert_eq!(sum.0, 0xe9c6_d914_c4b8_d9ca);
        let text = b"This is a test of the emergency broadcast system.";
        let mut whole = Checksum::default();
        whole.add(text);
        let mut pieces = Checksum::default();
        text.chunks(3).for_each(|piece| pieces.add(piece));
        assert_eq!(whole, pieces);
    }
}
