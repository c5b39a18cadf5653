//! Damage done on purpose to a restored data directory, for a negative drill.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use super::super::damage::{self, Damage};
use super::super::{Part, PointFacts};
use super::checksum::Checksum;
use super::detail;
use super::layout::Layout;
use crate::{Error, Result};

/// How a dump begins: its name and the version of its format.
const HEAD_BYTES: usize = 9;
/// What ends a dump, before its checksum.
const END: u8 = 0xff;

/// Damages the dump in the data directory; `None` when the point does not say where it lies.
pub(super) fn damage(parts: &[Part], recorded: &PointFacts, how: Damage) -> Result<Option<String>> {
    let layout =
        recorded.details.get(detail::LAYOUT).and_then(|layout| serde_json::from_str::<Layout>(layout).ok());
    let (Some(part), Some(layout)) = (parts.last(), layout) else { return Ok(None) };
    let dump = part.beside.join(layout.dump());
    let bytes = fs::metadata(&dump).map_err(Error::io("look at", &dump))?.len();
    let name = layout.dump();
    Ok(Some(match how {
        Damage::Flip => {
            damage::flip(&dump, bytes / 2, 1)?;
            format!("a byte of {} was flipped", name.display())
        }
        Damage::Lose => {
            empty(&dump)?;
            format!("all keys of {} were removed", name.display())
        }
        Damage::Cut => {
            damage::cut(&dump, bytes / 2)?;
            format!("{} was cut to {} of {bytes} bytes", name.display(), bytes / 2)
        }
    }))
}

/// Makes it a dump of the same version without a key, whole and with its right checksum.
fn empty(dump: &Path) -> Result<()> {
    let wrong = |error| Error::io("damage", dump)(error);
    let mut head = [0; HEAD_BYTES];
    File::open(dump).and_then(|mut file| file.read_exact(&mut head)).map_err(wrong)?;
    let mut bytes = head.to_vec();
    bytes.push(END);
    let mut sum = Checksum::default();
    sum.add(&bytes);
    bytes.extend(sum.0.to_le_bytes());
    let mut file = OpenOptions::new().write(true).truncate(true).open(dump).map_err(wrong)?;
    file.write_all(&bytes).map_err(wrong)
}
