//! Sealing and opening bytes: AES-256 in counter mode, authenticated by Poly1305-AES.
//!
//! A sealed message is `IV (16) ‖ ciphertext ‖ tag (16)`. The tag covers the ciphertext only and binds
//! nothing to a name, so whoever opens a blob must also compare its SHA-256 with the id that it was asked for.

use aes::cipher::{BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher};
use aes::{Aes128, Aes256};
use poly1305::Poly1305;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

type Aes256Ctr = ctr::Ctr128BE<Aes256>;

/// Bytes of the initialisation vector before the ciphertext.
pub const IV_BYTES: usize = 16;
/// Bytes of the tag after the ciphertext.
pub const TAG_BYTES: usize = 16;
/// By how much a sealed message is longer than its plaintext.
pub const OVERHEAD_BYTES: usize = IV_BYTES + TAG_BYTES;

/// The keys that seal everything in a repository; kept in memory only and in sealed key files.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    /// Key of AES-256.
    pub encrypt: [u8; 32],
    /// Key of the AES-128 that turns an IV into the second half of a one-time Poly1305 key.
    pub mac_k: [u8; 16],
    /// First half of the one-time Poly1305 key.
    pub mac_r: [u8; 16],
}

/// A sealed message could not be opened: it is damaged, or sealed with another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short to hold an IV and a tag.
    #[error("too short to be a sealed message")]
    TooShort,
    /// The initialisation vector is all zero, which no writer produces.
    #[error("its initialisation vector is zero")]
    ZeroIv,
    /// The tag does not fit the ciphertext.
    #[error("its authentication tag does not fit its content")]
    Tag,
}

impl MasterKey {
    /// Draws new random keys.
    pub fn random() -> Self {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).expect("the kernel's random source does not fail once it is seeded");
        Self::from_bytes(&bytes)
    }

    /// Splits 64 bytes into the three keys, in the order of scrypt's output: encrypt, k, r.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut key = Self { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        key.encrypt.copy_from_slice(&bytes[..32]);
        key.mac_k.copy_from_slice(&bytes[32..48]);
        key.mac_r.copy_from_slice(&bytes[48..]);
        key
    }

    /// Whether any of the keys is all zero; such a key is refused.
    pub fn is_degenerate(&self) -> bool {
        self.encrypt == [0; 32] || self.mac_k == [0; 16] || self.mac_r == [0; 16]
    }

    /// Derives 32 bytes for another purpose, named by `purpose`, from the master key.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.encrypt[..], &self.mac_k, &self.mac_r, purpose.as_bytes()] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// Seals `plaintext`.
    pub fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut message = vec![0; IV_BYTES];
        message.reserve_exact(plaintext.len() + TAG_BYTES);
        message.extend_from_slice(plaintext);
        message.resize(message.len() + TAG_BYTES, 0);
        self.seal_in_place(&mut message);
        message
    }

    /// Seals the plaintext that stands in `message` between room for an IV and room for a tag.
    pub fn seal_in_place(&self, message: &mut [u8]) {
        let (iv, rest) = message.split_at_mut(IV_BYTES);
        let (text, tag) = rest.split_at_mut(rest.len() - TAG_BYTES);
        draw_iv(iv);
        let iv: [u8; IV_BYTES] = iv.try_into().expect("split at this length");
        Aes256Ctr::new(&self.encrypt.into(), &iv.into()).apply_keystream(text);
        tag.copy_from_slice(&self.tag(&iv, text));
    }

    /// Opens a sealed message in place and returns its plaintext; leaves it untouched when the tag is wrong.
    pub fn open<'a>(&self, message: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        if message.len() < OVERHEAD_BYTES {
            return Err(OpenError::TooShort);
        }
        let (iv, rest) = message.split_at_mut(IV_BYTES);
        let (text, tag) = rest.split_at_mut(rest.len() - TAG_BYTES);
        let iv: [u8; IV_BYTES] = (&*iv).try_into().expect("split at this length");
        if iv == [0; IV_BYTES] {
            return Err(OpenError::ZeroIv);
        }
        let difference = self.tag(&iv, text).iter().zip(&*tag).fold(0, |sum, (a, b)| sum | (a ^ b));
        if difference != 0 {
            return Err(OpenError::Tag);
        }
        Aes256Ctr::new(&self.encrypt.into(), &iv.into()).apply_keystream(text);
        Ok(text)
    }

    fn tag(&self, iv: &[u8; IV_BYTES], ciphertext: &[u8]) -> [u8; TAG_BYTES] {
        let mut nonce = (*iv).into();
        Aes128::new(&self.mac_k.into()).encrypt_block(&mut nonce);
        let mut one_time_key = [0; 32];
        one_time_key[..16].copy_from_slice(&self.mac_r);
        one_time_key[16..].copy_from_slice(&nonce);
        Poly1305::new(&one_time_key.into()).compute_unpadded(ciphertext).into()
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// Draws a random IV that is not all zero: readers refuse that one.
fn draw_iv(iv: &mut [u8]) {
    loop {
        getrandom::fill(iv).expect("the kernel's random source does not fail once it is seeded");
        if iv.iter().any(|&byte| byte != 0) {
            return;
        }
    }
}

/// The cost of turning a password into a key, as a key file states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScryptCost {
    /// Iterations; a power of two.
    #[serde(rename = "N")]
    pub n: u64,
    /// Block size.
    pub r: u32,
    /// Parallelism.
    pub p: u32,
}

/// Memory that a key file may make us use; restic's own calibration stays below 60 MiB.
const SCRYPT_MEMORY_BYTES_MAX: u64 = 2 << 30;
/// Blocks that a key file may make us compute: more would take minutes.
const SCRYPT_WORK_MAX: u64 = 1 << 27;

impl ScryptCost {
    /// What new keys use: about 32 MiB and 0.1 s; restic calibrates to the same order.
    pub const DEFAULT: Self = Self { n: 1 << 15, r: 8, p: 1 };

    /// Derives the key that seals a key file.
    ///
    /// Fails with a reason when the cost is not valid for scrypt or is absurd.
    pub fn derive(self, password: &[u8], salt: &[u8]) -> Result<MasterKey, String> {
        let refuse =
            |why: &str| Err(format!("scrypt parameters N={}, r={}, p={}: {why}", self.n, self.r, self.p));
        if !self.n.is_power_of_two() || self.n < 2 {
            return refuse("N is not a power of two");
        }
        // The table of N blocks, and one block for each of the p that could run side by side.
        let blocks = self.n.saturating_add(u64::from(self.p));
        let memory_bytes = blocks.saturating_mul(u64::from(self.r)).saturating_mul(128);
        let work = self.n.saturating_mul(u64::from(self.r)).saturating_mul(u64::from(self.p));
        if memory_bytes > SCRYPT_MEMORY_BYTES_MAX || work > SCRYPT_WORK_MAX {
            return refuse("more memory or time than any sound key asks for");
        }
        let log_n = u8::try_from(self.n.trailing_zeros()).expect("at most 64");
        let Ok(parameters) = scrypt::Params::new(log_n, self.r, self.p) else {
            return refuse("not valid");
        };
        let mut bytes = [0; 64];
        scrypt::scrypt(password, salt, &parameters, &mut bytes)
            .map_err(|error| format!("scrypt failed: {error}"))?;
        Ok(MasterKey::from_bytes(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_sealed() {
        let key = MasterKey::random();
        for length in [0, 1, 15, 16, 17, 4096, 100_003] {
            let plaintext: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
            let mut sealed = key.seal(&plaintext);
            assert_eq!(sealed.len(), length + OVERHEAD_BYTES);
            assert_eq!(key.open(&mut sealed).unwrap(), plaintext);
        }
    }

    #[test]
    fn notices_every_flipped_bit() {
        let key = MasterKey::random();
        let sealed = key.seal(b"the boat");
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let before = damaged.clone();
            assert_eq!(key.open(&mut damaged), Err(OpenError::Tag), "bit {bit}");
            assert_eq!(damaged, before, "a message that does not open stays as it was");
        }
    }

    #[test]
    fn refuses_short_messages_and_zero_ivs() {
        let key = MasterKey::random();
        assert_eq!(key.open(&mut [1; 31]), Err(OpenError::TooShort));
        assert_eq!(key.open(&mut [0; 40]), Err(OpenError::ZeroIv));
    }

    #[test]
    fn refuses_absurd_scrypt_costs() {
        for cost in [
            (0, 8, 1),
            (3, 8, 1),
            (1 << 40, 8, 1),
            (1 << 15, 0, 1),
            (1 << 15, 1 << 30, 1),
            (1 << 20, 8, 1 << 20),
            // Little work in all, but 8 GiB of blocks.
            (2, 1, 1 << 26),
        ] {
            let cost = ScryptCost { n: cost.0, r: cost.1, p: cost.2 };
            assert!(cost.derive(b"x", &[0; 64]).is_err(), "{cost:?}");
        }
    }
}
