//! Resources in Mesos' words: `cpus:4; disk(reservations: [(STATIC,web)]):10`.

use std::fmt;

use super::{Item, Resources};
use crate::resource::disk_info::{Source, source};
use crate::resource::{DiskInfo, ReservationInfo};
use crate::{Labels, Resource, Volume, json, value, volume};

/// A message that may be invalid; its JSON if it has no readable value.
pub(super) fn describe(resource: &Resource) -> String {
    let readable = resource.scalar.is_some() || resource.ranges.is_some() || resource.set.is_some();
    if readable && resource.r#type() != value::Type::Text {
        Item::unchecked(resource).to_string()
    } else {
        String::from_utf8_lossy(&json::to_json(resource)).into_owned()
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("{}");
        }
        for (i, item) in self.iter().enumerate() {
            write!(f, "{}{item}", if i > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if let Some(role) = self.allocation_role() {
            write!(f, "(allocated: {role})")?;
        }
        if !self.reservations().is_empty() {
            f.write_str("(reservations: [")?;
            for (i, reservation) in self.reservations().iter().enumerate() {
                write!(f, "{}(", if i > 0 { "," } else { "" })?;
                write_reservation(f, reservation)?;
                f.write_str(")")?;
            }
            f.write_str("])")?;
        }
        if let Some(disk) = self.disk() {
            f.write_str("[")?;
            write_disk(f, disk)?;
            f.write_str("]")?;
        }
        if self.is_revocable() {
            f.write_str("{REV}")?;
        }
        if self.is_shared() {
            f.write_str("<SHARED>")?;
        }
        write!(f, ":{}", self.value())?;
        if self.is_shared() {
            write!(f, "<{}>", self.copies())?;
        }
        Ok(())
    }
}

fn write_reservation(f: &mut fmt::Formatter<'_>, r: &ReservationInfo) -> fmt::Result {
    write!(f, "{},{}", r.r#type().as_str_name(), r.role())?;
    if let Some(principal) = &r.principal {
        write!(f, ",{principal}")?;
    }
    if let Some(labels) = &r.labels {
        f.write_str(",")?;
        write_labels(f, labels)?;
    }
    Ok(())
}

fn write_labels(f: &mut fmt::Formatter<'_>, labels: &Labels) -> fmt::Result {
    f.write_str("{")?;
    for (i, label) in labels.labels.iter().enumerate() {
        write!(f, "{}{}", if i > 0 { ", " } else { "" }, label.key)?;
        if let Some(value) = &label.value {
            write!(f, ": {value}")?;
        }
    }
    f.write_str("}")
}

fn write_disk(f: &mut fmt::Formatter<'_>, disk: &DiskInfo) -> fmt::Result {
    if let Some(source) = &disk.source {
        write_source(f, source)?;
    }
    if let Some(persistence) = &disk.persistence {
        let comma = if disk.source.is_some() { "," } else { "" };
        write!(f, "{comma}{}", persistence.id)?;
    }
    if let Some(volume) = &disk.volume {
        f.write_str(":")?;
        write_volume(f, volume)?;
    }
    Ok(())
}

fn write_source(f: &mut fmt::Formatter<'_>, source: &Source) -> fmt::Result {
    f.write_str(source.r#type().as_str_name())?;
    if source.id.is_some() || source.profile.is_some() {
        return write!(f, "({},{},{})", source.vendor(), source.id(), source.profile());
    }
    let root = match source.r#type() {
        source::Type::Mount => source.mount.as_ref().and_then(|m| m.root.as_deref()),
        source::Type::Path => source.path.as_ref().and_then(|p| p.root.as_deref()),
        _ => None,
    };
    root.map_or(Ok(()), |root| write!(f, ":{root}"))
}

fn write_volume(f: &mut fmt::Formatter<'_>, v: &Volume) -> fmt::Result {
    let Some(host) = &v.host_path else { return f.write_str(&v.container_path) };
    write!(f, "{host}:{}", v.container_path)?;
    match v.mode() {
        volume::Mode::Rw => f.write_str(":rw"),
        volume::Mode::Ro => f.write_str(":ro"),
    }
}
