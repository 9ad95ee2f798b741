//! Addresses that are taken, in the files of `host-local`: the two may share a network.
//!
//! ```text
//! <dataDir>/<network>/lock                   held while anything is changed
//! <dataDir>/<network>/<address>              "<container>\r\n<interface>"
//! <dataDir>/<network>/last_reserved_ip.<n>   of the n-th list of ranges
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::range::Range;

/// The leases of one network, locked.
pub struct Leases {
    dir: PathBuf,
    _lock: File,
}

fn failed(verb: &str, path: &Path, error: &io::Error) -> String {
    format!("failed to {verb} {}: {error}", path.display())
}

impl Leases {
    /// Opens and locks the leases of a network.
    ///
    /// # Errors
    /// For people.
    pub fn open(base: &Path, network: &str) -> Result<Leases, String> {
        let dir = base.join(network);
        fs::create_dir_all(&dir).map_err(|e| failed("create", &dir, &e))?;
        let path = dir.join("lock");
        let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
        let lock = lock.map_err(|e| failed("lock", &path, &e))?;
        Ok(Leases { dir, _lock: lock })
    }

    /// Takes an address from the `number`-th list of ranges: the one that is asked for,
    /// if it is in there, or the next one that is free.
    ///
    /// # Errors
    /// There is none; for people.
    pub fn take(
        &self,
        (number, ranges): (usize, &[Range]),
        wanted: &[IpAddr],
        owner: (&str, &str),
    ) -> Result<(IpAddr, Range), String> {
        for range in ranges {
            if let Some(ip) = wanted.iter().find(|ip| range.has(**ip)) {
                return match self.claim(*ip, owner)? {
                    true => Ok((*ip, *range)),
                    false => Err(format!("the address {ip} is taken")),
                };
            }
        }
        let path = self.dir.join(format!("last_reserved_ip.{number}"));
        let last = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        for range in ranges {
            for ip in range.after(last) {
                if self.claim(ip, owner)? {
                    fs::write(&path, ip.to_string()).map_err(|e| failed("write", &path, &e))?;
                    return Ok((ip, *range));
                }
            }
        }
        let first = ranges.first().map(|range| range.subnet.to_string()).unwrap_or_default();
        Err(format!("no address of {first} is free"))
    }

    fn claim(&self, ip: IpAddr, (container, interface): (&str, &str)) -> Result<bool, String> {
        let path = self.dir.join(ip.to_string());
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                let text = format!("{container}\r\n{interface}");
                file.write_all(text.as_bytes()).map_err(|e| failed("write", &path, &e))?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed("create", &path, &error)),
        }
    }

    /// Whose an address is.
    fn owner(&self, path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default().trim().to_owned()
    }

    /// Whether an address is the owner's.
    #[must_use]
    pub fn is_of(&self, ip: IpAddr, (container, interface): (&str, &str)) -> bool {
        let text = format!("{container}\r\n{interface}");
        self.owner(&self.dir.join(ip.to_string())) == text
    }

    /// Gives back what is not in use by the judgement of `stays`, which sees container
    /// and interface. `known` addresses are all that there are, if they are known.
    ///
    /// # Errors
    /// For people.
    pub fn give_back(
        &self,
        known: Option<&[IpAddr]>,
        stays: impl Fn(&str, &str) -> bool,
    ) -> Result<(), String> {
        let paths: Vec<PathBuf> = match known {
            Some(ips) => ips.iter().map(|ip| self.dir.join(ip.to_string())).collect(),
            None => {
                let entries = fs::read_dir(&self.dir).map_err(|e| failed("read", &self.dir, &e))?;
                entries.flatten().map(|entry| entry.path()).collect()
            }
        };
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let owner = self.owner(&path);
            let Some((container, interface)) = owner.split_once("\r\n") else { continue };
            if name.parse::<IpAddr>().is_ok() && !stays(container, interface) {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(failed("remove", &path, &error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_taken_and_given_back() {
        let base = std::env::temp_dir().join(format!("leases-{}", std::process::id()));
        let ranges = [Range::parse(&json!({ "subnet": "10.1.2.0/29" })).unwrap()];
        let leases = Leases::open(&base, "n").unwrap();
        let take = |owner: &str| leases.take((0, &ranges), &[], (owner, "eth0"));
        let shown = |taken: Result<(IpAddr, Range), String>| taken.map(|(ip, _)| ip.to_string());
        for (owner, ip) in [("a", "10.1.2.2"), ("b", "10.1.2.3"), ("c", "10.1.2.4")] {
            assert_eq!(shown(take(owner)), Ok(ip.into()));
        }
        let wanted: IpAddr = "10.1.2.6".parse().unwrap();
        let asked = || leases.take((0, &ranges), &[wanted], ("d", "eth0"));
        assert_eq!(shown(asked()), Ok("10.1.2.6".into()));
        assert_eq!(shown(asked()), Err("the address 10.1.2.6 is taken".into()));
        assert_eq!(fs::read_to_string(base.join("n/10.1.2.3")).unwrap(), "b\r\neth0");
        let known: IpAddr = "10.1.2.3".parse().unwrap();
        assert!(leases.is_of(known, ("b", "eth0")) && !leases.is_of(known, ("b", "eth1")));
        // Only its own.
        leases.give_back(Some(&[known, wanted]), |container, _| container != "b").unwrap();
        assert!(!base.join("n/10.1.2.3").exists() && base.join("n/10.1.2.6").exists());
        assert_eq!(shown(take("e")), Ok("10.1.2.5".into()));
        assert_eq!(shown(take("f")), Ok("10.1.2.3".into()));
        assert_eq!(shown(take("g")), Err("no address of 10.1.2.0/29 is free".into()));
        leases.give_back(None, |_, _| false).unwrap();
        let left: Vec<_> = fs::read_dir(base.join("n")).unwrap().flatten().collect();
        assert_eq!(left.len(), 2, "{left:?}");
        drop(leases);
        fs::remove_dir_all(&base).unwrap();
    }
}
