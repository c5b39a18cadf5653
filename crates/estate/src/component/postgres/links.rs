//! Where tablespaces lead: in a restored data directory, `pg_tblspc/OID` is a link to the tablespace.
//!
//! While it is proven, a restored cluster must see the tablespaces that were restored beside, and none that is in use: both
//! the links and `tablespace_map`, from which a server that begins with a backup makes them anew, are written before it is
//! started. Afterwards the links lead to where the parts belong.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::super::Part;
use super::listing::Tablespace;
use crate::{Error, Result};

/// Where each tablespace of a restored cluster lies.
pub(super) type Locations = Vec<(String, PathBuf)>;

/// Finds where the tablespaces of a point are, `of` each part.
///
/// Fails when one of them has no part.
pub(super) fn locations(
    tablespaces: &[Tablespace],
    parts: &[Part],
    of: fn(&Part) -> &PathBuf,
) -> Result<Locations> {
    let place = |tablespace: &Tablespace| {
        let part = parts.iter().find(|part| part.in_snapshot == tablespace.location);
        let part = part.ok_or_else(|| Error::BadTarget {
            path: tablespace.location.clone(),
            why: "the tablespace is not among the restored parts: restore the whole point".to_owned(),
        })?;
        Ok((tablespace.oid.clone(), of(part).clone()))
    };
    tablespaces.iter().map(place).collect()
}

/// Makes the links of a data directory that no server has open lead to `locations`, and nowhere else.
pub(super) fn set(data: &Path, locations: &Locations) -> Result<()> {
    let directory = data.join("pg_tblspc");
    for entry in fs::read_dir(&directory).map_err(Error::io("list", &directory))? {
        let path = entry.map_err(Error::io("list", &directory))?.path();
        if path.is_symlink() {
            fs::remove_file(&path).map_err(Error::io("remove the link", &path))?;
        }
    }
    for (oid, location) in locations {
        let link = directory.join(oid);
        std::os::unix::fs::symlink(location, &link).map_err(Error::io("make the link", &link))?;
    }
    fs::File::open(&directory).and_then(|opened| opened.sync_all()).map_err(Error::io("sync", &directory))?;
    let map = data.join("tablespace_map");
    match fs::symlink_metadata(&map) {
        Ok(_) => fs::write(&map, map_of(locations)).map_err(Error::io("write", &map)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("look at", &map)(error)),
    }
}

/// The map as the server reads it: a line each, newlines and backslashes in paths escaped.
fn map_of(locations: &Locations) -> Vec<u8> {
    let mut map = Vec::new();
    for (oid, location) in locations {
        map.extend_from_slice(oid.as_bytes());
        map.push(b' ');
        for &byte in location.as_os_str().as_bytes() {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                map.push(b'\\');
            }
            map.push(byte);
        }
        map.push(b'\n');
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_where_they_are_told_and_nowhere_else() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        fs::create_dir(data.join("pg_tblspc")).unwrap();
        std::os::unix::fs::symlink("/live/one", data.join("pg_tblspc/1")).unwrap();
        std::os::unix::fs::symlink("/live/two", data.join("pg_tblspc/2")).unwrap();
        fs::write(data.join("tablespace_map"), "1 /live/one\n2 /live/two\n").unwrap();
        set(data, &vec![("1".to_owned(), "/beside/o\\ne".into())]).unwrap();
        assert_eq!(fs::read_link(data.join("pg_tblspc/1")).unwrap(), PathBuf::from("/beside/o\\ne"));
        assert!(!data.join("pg_tblspc/2").is_symlink());
        assert_eq!(fs::read(data.join("tablespace_map")).unwrap(), b"1 /beside/o\\\\ne\n");
    }
}
