//! Facts: numbers and texts measured at the source when it is backed up and compared after it is restored.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What was measured in one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Those that the plan declares, by their names there.
    pub declared: BTreeMap<String, Value>,
    /// Those that the driver measures by itself, such as `rows in agents`.
    pub automatic: BTreeMap<String, Value>,
}

/// A measured value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// No value: SQL's null.
    Null,
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Real(f64),
    /// A text, or a digest in hexadecimal.
    Text(String),
}

impl Facts {
    /// Tells whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.declared.is_empty() && self.automatic.is_empty()
    }

    /// Takes in what `other` measured; a name that both have takes the other's value.
    pub fn absorb(&mut self, other: &Self) {
        self.declared.extend(other.declared.iter().map(|(name, value)| (name.clone(), value.clone())));
        self.automatic.extend(other.automatic.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    /// Goes through all of them, those of the plan first.
    pub fn all(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.declared.iter().chain(&self.automatic)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Integer(number) => number.fmt(f),
            Self::Real(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Value;

    /// A fact is kept as JSON, and compared by its bits.
    #[test]
    fn numbers_keep_their_last_bit() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            bits ^= bits << 13;
            bits ^= bits >> 7;
            bits ^= bits << 17;
            let number = f64::from_bits(bits);
            if number.is_finite() {
                let text = serde_json::to_string(&Value::Real(number)).unwrap();
                let read: Value = serde_json::from_str(&text).unwrap();
                assert!(matches!(read, Value::Real(read) if read.to_bits() == bits), "{text}: {read:?}");
            }
        }
    }
}
