//! Polynomials over GF(2), as restic's chunker needs one: irreducible, of degree 53.
//!
//! Bit `n` is the coefficient of xⁿ. Every repository has one in its config, and restic refuses to open a
//! repository whose polynomial is reducible, so even a repository that never uses it must have a real one.

use std::fmt;
use std::str::FromStr;

/// An irreducible polynomial of degree 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Polynomial(u64);

/// A text or number that is no polynomial for a chunker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolynomialError {
    /// Not hexadecimal digits of at most 64 bits.
    #[error("the chunker polynomial is not a hexadecimal number of at most 16 digits")]
    NotHexadecimal,
    /// Of another degree than 53.
    #[error("the chunker polynomial {0:x} is not of degree 53")]
    Degree(u64),
    /// A product of others, which would make cuts follow a part of the content only.
    #[error("the chunker polynomial {0:x} is reducible")]
    Reducible(u64),
}

impl Polynomial {
    /// The degree: the largest prime for which a product with one byte still fits 64 bits.
    pub const DEGREE: u32 = 53;

    /// Draws one. `fill` fills its argument with random bytes.
    pub fn random(mut fill: impl FnMut(&mut [u8])) -> Self {
        // About one in 27 candidates is irreducible.
        loop {
            let mut bytes = [0; 8];
            fill(&mut bytes);
            let low = u64::from_le_bytes(bytes) & ((1 << Self::DEGREE) - 1);
            let candidate = low | 1 << Self::DEGREE | 1;
            if is_irreducible(candidate) {
                return Self(candidate);
            }
        }
    }

    /// The coefficients.
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Polynomial {
    type Error = PolynomialError;

    fn try_from(bits: u64) -> Result<Self, PolynomialError> {
        if bits.checked_ilog2() != Some(Self::DEGREE) {
            return Err(PolynomialError::Degree(bits));
        }
        if !is_irreducible(bits) {
            return Err(PolynomialError::Reducible(bits));
        }
        Ok(Self(bits))
    }
}

impl FromStr for Polynomial {
    type Err = PolynomialError;

    fn from_str(text: &str) -> Result<Self, PolynomialError> {
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(PolynomialError::NotHexadecimal);
        }
        u64::from_str_radix(text, 16).map_err(|_| PolynomialError::NotHexadecimal)?.try_into()
    }
}

impl fmt::Display for Polynomial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl serde::Serialize for Polynomial {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Polynomial {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The remainder of `value` divided by `divisor`, which is not 0.
pub(super) fn remainder(mut value: u64, divisor: u64) -> u64 {
    let degree = divisor.ilog2();
    while value.checked_ilog2().is_some_and(|top| top >= degree) {
        value ^= divisor << (value.ilog2() - degree);
    }
    value
}

/// Ben-Or's test: a polynomial without a factor in common with x^(2ⁱ) − x, for every i up to half its degree,
/// has no factor of such a degree and hence none at all.
fn is_irreducible(polynomial: u64) -> bool {
    let degree = polynomial.ilog2();
    let mut power = 2;
    (1..=degree / 2).all(|_| {
        power = multiply(power, power, polynomial);
        greatest_common_divisor(polynomial, power ^ 2) == 1
    })
}

/// The product of two remainders, reduced again.
fn multiply(mut a: u64, mut b: u64, modulus: u64) -> u64 {
    let top = 1 << modulus.ilog2();
    let mut product = 0;
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        b >>= 1;
        a <<= 1;
        if a & top != 0 {
            a ^= modulus;
        }
    }
    product
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, remainder(a, b));
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_small_irreducible_polynomials() {
        // All of degrees 2 to 4, from any textbook: the others of these degrees are products.
        let known = [0b111, 0b1011, 0b1101, 0b1_0011, 0b1_1001, 0b1_1111];
        let found: Vec<u64> = (4..32).filter(|bits| is_irreducible(*bits)).collect();
        assert_eq!(found, known);
    }

    #[test]
    fn knows_restic_polynomials() {
        // The first is from restic's documentation of its format, the second from its chunker's tests.
        let polynomial: Polynomial = "25b468838dcb75".parse().unwrap();
        assert_eq!(polynomial.to_string(), "25b468838dcb75");
        assert_eq!(Polynomial::try_from(0x3D_A335_8B4D_C173).unwrap().bits(), 0x3D_A335_8B4D_C173);
        assert_eq!(
            "25b468838dcb74".parse::<Polynomial>(),
            Err(PolynomialError::Reducible(0x25_b468_838d_cb74))
        );
        assert_eq!("1b".parse::<Polynomial>(), Err(PolynomialError::Degree(0x1b)));
        assert_eq!("0".parse::<Polynomial>(), Err(PolynomialError::Degree(0)));
        for text in ["", "+1", "x", "10000000000000000", "25b4 "] {
            assert_eq!(text.parse::<Polynomial>(), Err(PolynomialError::NotHexadecimal), "{text}");
        }
    }

    #[test]
    fn a_product_is_reducible() {
        // Of degrees 26 and 27, the last that the test of irreducibility looks at.
        let (a, b) = (1_u64 << 26 | 3, 1_u64 << 27 | 3);
        let product = (0..=27).filter(|bit| b >> bit & 1 != 0).fold(0, |sum, bit| sum ^ a << bit);
        assert_eq!(Polynomial::try_from(product), Err(PolynomialError::Reducible(product)));
    }

    #[test]
    fn draws_from_the_given_randomness() {
        let draw = |seed: u64| {
            let mut state = seed;
            Polynomial::random(|bytes| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.copy_from_slice(&state.to_le_bytes());
            })
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        for seed in 0..20 {
            assert_eq!(Polynomial::try_from(draw(seed).bits()), Ok(draw(seed)));
        }
    }

    #[test]
    fn goes_through_json() {
        let polynomial: Polynomial = serde_json::from_str("\"25b468838dcb75\"").unwrap();
        assert_eq!(serde_json::to_string(&polynomial).unwrap(), "\"25b468838dcb75\"");
    }
}
