//! Tests of the chunkers: where they cut, and that a cut does not depend on how the bytes arrived.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::*;

fn gear(key: u8) -> Chunker {
    Chunker::Gear(Box::new(Gear::new(&[key; 32])))
}

fn rabin() -> Chunker {
    Chunker::Rabin(Box::new(Rabin::new("25b468838dcb75".parse().unwrap())))
}

fn fixed() -> Chunker {
    Chunker::Fixed(Fixed::new(NonZeroUsize::new(MIB).unwrap()))
}

fn all() -> [Chunker; 3] {
    [gear(1), rabin(), fixed()]
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next()).take(bytes).collect()
}

/// Cuts all of `data`, given whole.
fn cuts(chunker: &Chunker, data: &[u8]) -> Vec<usize> {
    feed(chunker, data, &[data.len()])
}

/// Cuts all of `data`, of which only the given numbers of bytes come at a time, in turns.
fn feed(chunker: &Chunker, data: &[u8], portions: &[usize]) -> Vec<usize> {
    let (mut cuts, mut start, mut end) = (Vec::new(), 0, 0);
    let mut portions = portions.iter().cycle();
    while start < data.len() {
        let last = end == data.len();
        match chunker.next_cut(&data[start..end], last) {
            Some(cut) => {
                assert!(cut > 0 && cut <= end - start && cut <= chunker.max_bytes());
                cuts.push(cut);
                start += cut;
            }
            None => {
                assert!(!last && end - start < chunker.max_bytes(), "asks for more than there can be");
                end = data.len().min(end + portions.next().unwrap());
            }
        }
    }
    cuts
}

/// Where the chunks end.
fn ends(cuts: &[usize]) -> Vec<usize> {
    cuts.iter()
        .scan(0, |sum, cut| {
            *sum += cut;
            Some(*sum)
        })
        .collect()
}

#[test]
fn nothing_is_no_chunk() {
    for chunker in all() {
        assert_eq!(chunker.next_cut(b"", true), None);
        assert_eq!(chunker.next_cut(b"", false), None);
        assert_eq!(chunker.next_cut(b"a", false), None);
        assert_eq!(chunker.next_cut(b"a", true), Some(1));
    }
}

#[test]
fn chunks_of_noise_are_of_the_promised_lengths() {
    let data = noise(1, 96 * MIB);
    for (chunker, average) in [(gear(1), 1280 * KIB), (rabin(), 1448 * KIB)] {
        let cuts = cuts(&chunker, &data);
        assert_eq!(cuts.iter().sum::<usize>(), data.len());
        let (_, whole) = cuts.split_last().unwrap();
        assert!(
            whole.iter().all(|cut| (chunker.min_bytes()..=chunker.max_bytes()).contains(cut)),
            "{cuts:?}"
        );
        let mean = data.len() / cuts.len();
        assert!(mean.abs_diff(average) < average / 4, "{mean} bytes on average");
    }
    // Little is searched: most chunks end soon behind the minimum.
    let near = |cut: &&usize| (896 * KIB..=1664 * KIB).contains(*cut);
    let cuts = cuts(&gear(1), &data);
    assert!(cuts.iter().filter(near).count() * 10 > cuts.len() * 7, "{cuts:?}");
}

#[test]
fn fixed_blocks_are_equal() {
    assert_eq!(cuts(&fixed(), &noise(1, 2 * MIB + 5)), [MIB, MIB, 5]);
}

#[test]
fn cuts_come_back_after_an_insertion() {
    let data = noise(2, 24 * MIB);
    let moved = [&data[..3 * MIB], b"a few more bytes", &data[3 * MIB..]].concat();
    for chunker in [gear(1), rabin()] {
        let before = ends(&cuts(&chunker, &data));
        let after: Vec<usize> = ends(&cuts(&chunker, &moved))
            .into_iter()
            .filter(|end| *end > 3 * MIB + 16)
            .map(|end| end - 16)
            .collect();
        let kept = after.iter().filter(|end| before.contains(end)).count();
        assert!(kept + 4 >= after.len(), "{kept} of {} cuts", after.len());
    }
}

#[test]
fn another_key_or_polynomial_cuts_elsewhere() {
    let data = noise(3, 32 * MIB);
    let other = Chunker::Rabin(Box::new(Rabin::new(0x3D_A335_8B4D_C173.try_into().unwrap())));
    for (one, two) in [(gear(1), gear(2)), (rabin(), other)] {
        let (one, two) = (ends(&cuts(&one, &data)), ends(&cuts(&two, &data)));
        assert_eq!(
            one.iter().filter(|end| two.contains(end)).count(),
            1,
            "they share the end of the file only"
        );
    }
}

/// Computed by a second implementation; a change would store everything in every repository again.
#[test]
fn gear_cuts_are_pinned() {
    assert_eq!(cuts(&gear(1), &noise(4, 6 * MIB)), [2_378_858, 944_695, 2_013_962, 953_941]);
}

#[test]
fn zeros_are_cut_for_restic_to_recognise() {
    for key in 0..20 {
        let data = vec![0; 3 * ZERO_RUN_BYTES + 100];
        assert_eq!(cuts(&gear(key), &data), [ZERO_RUN_BYTES, ZERO_RUN_BYTES, ZERO_RUN_BYTES, 100]);
    }
}

#[test]
fn a_run_of_zeros_begins_a_chunk_wherever_it_begins() {
    let around = noise(5, 900 * KIB).iter().map(|byte| byte | 1).collect::<Vec<u8>>();
    for begin in [1, 63, 4095, 256 * KIB - 1, 256 * KIB, 256 * KIB + 1, 500 * KIB, 512 * KIB, 700 * KIB] {
        for length in [ZERO_RUN_BYTES, ZERO_RUN_BYTES + 1, 2 * ZERO_RUN_BYTES + 9, 9 * MIB] {
            let data = [&around[..begin], &vec![0; length], &around].concat();
            let ends = ends(&cuts(&gear(1), &data));
            for run in 0..length / ZERO_RUN_BYTES {
                let start = begin + run * ZERO_RUN_BYTES;
                assert!(ends.contains(&start), "{length} zeros at {begin}: no cut at {start}: {ends:?}");
                assert!(ends.contains(&(start + ZERO_RUN_BYTES)), "{length} zeros at {begin}: {ends:?}");
            }
        }
    }
}

#[test]
fn a_shorter_run_of_zeros_changes_nothing() {
    let around = noise(6, 300 * KIB).iter().map(|byte| byte | 1).collect::<Vec<u8>>();
    let data = [&around, vec![0; ZERO_RUN_BYTES - 1].as_slice(), &around].concat();
    let first = cuts(&gear(1), &data)[0];
    assert!(first >= Gear::MIN_BYTES, "{first}");
}

/// Noise, text and runs of zeros after each other, of lengths around those that matter.
fn any_file() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![1..2000_usize, 500 * KIB..530 * KIB, MIB..3 * MIB, Just(9 * MIB)];
    let part = (0..3, any::<u64>(), length).prop_map(|(kind, seed, length)| match kind {
        0 => noise(seed >> 1, length),
        1 => vec![0; length],
        _ => noise(seed >> 1, 700).into_iter().cycle().take(length).collect(),
    });
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn cuts_depend_on_the_content_alone(
        data in any_file(),
        portions in proptest::collection::vec(200 * KIB..9 * MIB, 1..5),
    ) {
        for chunker in all() {
            let whole = cuts(&chunker, &data);
            prop_assert_eq!(whole.iter().sum::<usize>(), data.len());
            prop_assert_eq!(&whole, &feed(&chunker, &data, &portions));
        }
    }
}
