//! What generated files are made of: seeded random numbers, and text, JSON and binaries that compress about
//! as well as the real ones.

/// A small seeded generator of random numbers (xoshiro256**), the same on every machine and in every year.
pub struct Random([u64; 4]);

impl Random {
    /// Starts the sequence of that seed.
    pub fn seeded(seed: u64) -> Self {
        // splitmix64, as the authors of xoshiro advise, so that similar seeds give unlike sequences.
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }))
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// A number from 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number of the log-normal distribution around `median`.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box-Muller; 1 - unit() is never 0.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.unit()).cos();
        median * (sigma * normal).exp()
    }

    /// A number below `bound` with small ones far more often, as words are in a language.
    pub fn skewed(&mut self, bound: usize) -> usize {
        let unit = self.unit();
        ((unit * unit * unit * bound as f64) as usize).min(bound - 1)
    }

    /// Fills the buffer with random bytes up to `size`: what is compressed or sealed already.
    pub fn fill(&mut self, buffer: &mut Vec<u8>, size: usize) {
        while buffer.len() < size {
            buffer.extend_from_slice(&self.bits().to_le_bytes());
        }
        buffer.truncate(size);
    }
}

/// Words of no language, shared by all files of a corpus as a code base shares its names.
pub struct Vocabulary(Vec<String>);

impl Vocabulary {
    /// Makes the words of that seed.
    pub fn seeded(seed: u64) -> Self {
        const SYLLABLES: &[&str] = &[
            "re", "con", "ta", "in", "ple", "ver", "lo", "ck", "st", "er", "pa", "th", "mo", "de", "un",
            "it", "sh", "ow", "ing", "ed", "ur", "al", "no", "gra", "ph", "ex", "ip", "or", "bu", "ff",
        ];
        let mut random = Random::seeded(seed);
        let word = |random: &mut Random| -> String {
            let syllables = 1 + random.below(4);
            (0..syllables).map(|_| SYLLABLES[random.below(SYLLABLES.len())]).collect()
        };
        Self((0..12_000).map(|_| word(&mut random)).collect())
    }

    /// A word, common ones more often.
    pub fn word(&self, random: &mut Random) -> &str {
        &self.0[random.skewed(self.0.len())]
    }

    /// Appends lines like those of a program until the buffer has `size` bytes.
    pub fn source(&self, random: &mut Random, buffer: &mut Vec<u8>, size: usize) {
        let mut names = Names::new(self, random);
        let mut depth = 0;
        while buffer.len() < size {
            let (first, second, third) = (names.next(random), names.next(random), names.next(random));
            let indent = 4 * depth;
            let line = match random.below(10) {
                0 if depth < 5 => {
                    depth += 1;
                    format!("if {first}.{second}({third}) {{\n")
                }
                1 if depth < 5 => {
                    depth += 1;
                    format!(
                        "fn {first}_{second}({third}: &mut {}) -> Result<{}> {{\n",
                        names.next(random),
                        names.next(random)
                    )
                }
                2 | 3 if depth > 0 => {
                    depth -= 1;
                    "}\n".to_owned()
                }
                4 => format!("// {first} {second} {third} {} {}\n", self.word(random), self.word(random)),
                5 => format!("return {first}_{second} + {};\n", random.below(4096)),
                6 => format!("{first}.{second} = {third}[{}];\n", random.below(64)),
                _ => format!("let {first}_{second} = self.{third}.{}(&{first});\n", names.next(random)),
            };
            buffer.extend(std::iter::repeat_n(b' ', indent));
            buffer.extend_from_slice(line.as_bytes());
        }
        buffer.truncate(size);
    }

    /// Appends lines like those of a log until the buffer has `size` bytes.
    pub fn log(&self, random: &mut Random, buffer: &mut Vec<u8>, size: usize) {
        let mut names = Names::new(self, random);
        let mut clock = random.bits() >> 34;
        while buffer.len() < size {
            clock += random.skewed(900) as u64;
            let level = ["INFO", "INFO", "DEBUG", "WARN"][random.below(4)];
            let (seconds, millis, took) = (clock / 1000, clock % 1000, random.skewed(90_000));
            let (place, what, item) = (names.next(random), names.next(random), names.next(random));
            let line = format!(
                "{seconds:010}.{millis:03} {level} {place}::{what}: request for {item} took {took} us\n"
            );
            buffer.extend_from_slice(line.as_bytes());
        }
        buffer.truncate(size);
    }

    /// Appends JSON records until the buffer has `size` bytes.
    pub fn json(&self, random: &mut Random, buffer: &mut Vec<u8>, size: usize) {
        buffer.extend_from_slice(b"[\n");
        while buffer.len() < size {
            let record = format!(
                "  {{\"id\": {}, \"name\": \"{}-{}\", \"tags\": [\"{}\", \"{}\"], \"value\": {:.4}, \"active\": {}}},\n",
                random.below(1 << 24),
                self.word(random),
                self.word(random),
                self.word(random),
                self.word(random),
                random.unit() * 1000.0,
                random.below(2) == 0,
            );
            buffer.extend_from_slice(record.as_bytes());
        }
        buffer.truncate(size);
    }

    /// Appends records of a binary format, half of whose bytes repeat, until the buffer has `size` bytes.
    pub fn binary(&self, random: &mut Random, buffer: &mut Vec<u8>, size: usize) {
        let mut counter = random.bits() as u32;
        while buffer.len() < size {
            counter = counter.wrapping_add(1 + random.below(3) as u32);
            buffer.extend_from_slice(&counter.to_le_bytes());
            buffer.extend_from_slice(&[0, 0, 0, 1, (counter & 3) as u8, 0, 0, 0]);
            buffer.extend_from_slice(&random.bits().to_le_bytes()[..7]);
            buffer.extend_from_slice(self.word(random).as_bytes());
            buffer.push(0);
        }
        buffer.truncate(size);
    }
}

/// The names of one file: mostly those that it has already used, as every text repeats itself.
struct Names<'a> {
    vocabulary: &'a Vocabulary,
    recent: [&'a str; 24],
}

impl<'a> Names<'a> {
    fn new(vocabulary: &'a Vocabulary, random: &mut Random) -> Self {
        Self { vocabulary, recent: std::array::from_fn(|_| vocabulary.word(random)) }
    }

    fn next(&mut self, random: &mut Random) -> &'a str {
        let place = random.skewed(self.recent.len());
        if random.below(4) == 0 {
            self.recent[place] = self.vocabulary.word(random);
        }
        self.recent[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_others() {
        let words = Vocabulary::seeded(1);
        let made = |seed| {
            let mut buffer = Vec::new();
            words.source(&mut Random::seeded(seed), &mut buffer, 10_000);
            buffer
        };
        assert_eq!(made(5).len(), 10_000);
        assert_eq!(made(5), made(5));
        assert_ne!(made(5), made(6));
    }

    #[test]
    fn skewed_numbers_stay_below_their_bound_and_prefer_small_ones() {
        let mut random = Random::seeded(3);
        let numbers: Vec<usize> = (0..10_000).map(|_| random.skewed(100)).collect();
        assert!(numbers.iter().all(|&number| number < 100));
        assert!(numbers.iter().filter(|&&number| number < 13).count() > 4_000);
    }
}
