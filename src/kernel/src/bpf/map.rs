//! Maps: tables of numbers that programs and this process share.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::{InfoByFd, OBJ_GET_INFO_BY_FD, bpf, info, owned, padded, text};
use crate::Error;

const MAP_CREATE: u32 = 0;
const LOOK_UP: u32 = 1;
const UPDATE: u32 = 2;
const MAP_GET_FD_BY_ID: u32 = 14;
const ARRAY: u32 = 2;
const LRU_HASH: u32 = 9;
/// Maps of one program that are looked at.
const MOST_MAPS: usize = 8;

/// Start of `union bpf_attr` of `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct Create {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    inner: u32,
    node: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Start of `struct bpf_map_info`.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    kind: u32,
    id: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    name: [u8; 16],
}

/// A map from numbers to numbers, of 32 bits each.
#[derive(Debug)]
pub struct Map {
    fd: OwnedFd,
    name: String,
}

impl Map {
    /// A map that has every key from 0 to `entries` - 1, all 0.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn array(name: &str, entries: u32) -> Result<Map, Error> {
        Map::create(ARRAY, name, entries)
    }

    /// A map of as many keys as `entries`; the one that was used longest ago goes for
    /// a new one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn recent(name: &str, entries: u32) -> Result<Map, Error> {
        Map::create(LRU_HASH, name, entries)
    }

    fn create(kind: u32, name: &str, entries: u32) -> Result<Map, Error> {
        let name_bytes = padded(name);
        let mut create =
            Create { kind, key: 4, value: 4, entries, name: name_bytes, ..Create::default() };
        let fd = bpf(MAP_CREATE, &mut create)
            .map_err(|e| Error::new("create", format!("the map '{name}'"), e))?;
        Ok(Map { fd: owned(fd), name: name.to_owned() })
    }

    /// The map of that name that a loaded program uses; `None` if it has none, or is
    /// gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of_program(id: u32, name: &str) -> Result<Option<Map>, Error> {
        let fail = |e| Error::new("find", format!("the map '{name}' of program {id}"), e);
        let mut ids = [0u32; MOST_MAPS];
        let Some((_, found)) = info(id, &mut ids).map_err(fail)? else { return Ok(None) };
        for id in ids.iter().take(found.map_count as usize) {
            let mut by_id = super::ById { id: *id, ..super::ById::default() };
            let fd = owned(bpf(MAP_GET_FD_BY_ID, &mut by_id).map_err(fail)?);
            let mut about = MapInfo::default();
            let mut ask = InfoByFd {
                fd: fd.as_raw_fd() as u32,
                length: size_of::<MapInfo>() as u32,
                info: std::ptr::from_mut(&mut about) as u64,
            };
            bpf(OBJ_GET_INFO_BY_FD, &mut ask).map_err(fail)?;
            if text(&about.name) == name {
                return Ok(Some(Map { fd, name: name.to_owned() }));
            }
        }
        Ok(None)
    }

    /// For programs that are loaded.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Sets the number of a key.
    ///
    /// # Errors
    /// The map has no such key.
    pub fn set(&self, key: u32, value: u32) -> Result<(), Error> {
        self.exchange(UPDATE, key, value)
            .map(drop)
            .map_err(|e| Error::new("set", format!("{key} of the map '{}'", self.name), e))
    }

    /// The number of a key; 0 if it has none.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn get(&self, key: u32) -> Result<u32, Error> {
        match self.exchange(LOOK_UP, key, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(0),
            other => other
                .map_err(|e| Error::new("read", format!("{key} of the map '{}'", self.name), e)),
        }
    }

    fn exchange(&self, command: u32, key: u32, mut value: u32) -> io::Result<u32> {
        let mut element = Element {
            map: self.fd.as_raw_fd() as u32,
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_mut(&mut value) as u64,
            ..Element::default()
        };
        bpf(command, &mut element)?;
        Ok(value)
    }
}
