//! Finding the handler of a path by Mesos' rules.
//!
//! The first segment names a process (`master`, `slave(1)`, `metrics`, ...); if
//! there is no such process, the whole path belongs to the delegate, so `/state`
//! is `/master/state`. Surplus slashes do not count, and the longest known prefix
//! of the rest wins: `/master/state/extra` is `/master/state`. A `.json` at the
//! end is accepted where only the bare name is known (as before Mesos 1.8).

use std::collections::HashMap;

use crate::wire::percent::percent_decode;

/// A table of handlers `T`; usually an enum that the daemon matches on.
#[derive(Debug, Clone)]
pub struct Routes<T> {
    delegate: String,
    processes: HashMap<String, HashMap<String, T>>,
}

/// A found handler.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'a, T> {
    /// The handler.
    pub handler: &'a T,
    /// The process it belongs to.
    pub process: &'a str,
    /// The route under that process, for example `maintenance/schedule`.
    pub route: &'a str,
    /// What of the path was left over, for example `extra`; still escaped.
    pub rest: String,
}

impl<T> Routes<T> {
    /// An empty table; paths of unknown processes go to `delegate`.
    #[must_use]
    pub fn new(delegate: impl Into<String>) -> Routes<T> {
        let delegate = delegate.into();
        let processes = HashMap::from([(delegate.clone(), HashMap::new())]);
        Routes { delegate, processes }
    }

    /// Adds `/process/route`. An empty route is the process itself.
    #[must_use]
    pub fn add(mut self, process: &str, route: &str, handler: T) -> Routes<T> {
        self.processes.entry(process.to_owned()).or_default().insert(route.to_owned(), handler);
        self
    }

    /// The process that paths of unknown processes go to.
    #[must_use]
    pub fn delegate(&self) -> &str {
        &self.delegate
    }

    /// Every process and route, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.processes.iter();
        all.flat_map(|(process, routes)| {
            routes.keys().map(|route| (process.as_str(), route.as_str()))
        })
    }

    /// Whether a libprocess message can be for `process`.
    #[must_use]
    pub fn has_process(&self, process: &str) -> bool {
        self.processes.contains_key(process)
    }

    /// The handler of a path as it came on the wire, or `None` for 404. Paths
    /// that climb (`/..`) lead nowhere.
    #[must_use]
    pub fn find(&self, raw_path: &str) -> Option<Found<'_, T>> {
        if !raw_path.starts_with('/') || raw_path.contains("/..") {
            return None;
        }
        let segments: Vec<&str> = raw_path.split('/').filter(|s| !s.is_empty()).collect();
        let first = segments.first().and_then(|s| percent_decode(s));
        let named = first.as_deref().and_then(|id| self.processes.get_key_value(id));
        let (process, routes, segments) = match named {
            Some((process, routes)) => (process, routes, &segments[1..]),
            None => (&self.delegate, self.processes.get(&self.delegate)?, &segments[..]),
        };
        for length in (0..=segments.len()).rev() {
            if length == 0 && !segments.is_empty() {
                break;
            }
            let name = segments[..length].join("/");
            let found = routes
                .get_key_value(&name)
                .or_else(|| routes.get_key_value(name.strip_suffix(".json")?));
            if let Some((route, handler)) = found {
                let rest = segments[length..].join("/");
                return Some(Found { handler, process, route, rest });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Routes<u8> {
        Routes::new("master")
            .add("master", "", 0)
            .add("master", "state", 1)
            .add("master", "maintenance/schedule", 2)
            .add("master", "quota", 3)
            .add("metrics", "snapshot", 4)
            .add("slave(1)", "state", 5)
            .add("system", "stats.json", 6)
    }

    #[test]
    fn paths_find_what_mesos_finds() {
        for (path, expected) in [
            ("/master/state", Some((1, ""))),
            ("/state", Some((1, ""))),
            ("//state", Some((1, ""))),
            ("/state/", Some((1, ""))),
            ("/%6daster/state", Some((1, ""))),
            ("/master/state/extra/more", Some((1, "extra/more"))),
            ("/state.json", Some((1, ""))),
            ("/master/maintenance/schedule", Some((2, ""))),
            ("/maintenance", None),
            ("/master/quota/a%2Fb", Some((3, "a%2Fb"))),
            ("/metrics/snapshot", Some((4, ""))),
            ("/metrics/state", None),
            ("/slave(1)/state", Some((5, ""))),
            ("/slave%281%29/state", Some((5, ""))),
            ("/slave(2)/state", None),
            ("/system/stats.json", Some((6, ""))),
            ("/master/../master/state", None),
            ("/", Some((0, ""))),
            ("/master", Some((0, ""))),
            ("/nope", None),
            ("state", None),
        ] {
            let routes = table();
            let found = routes.find(path).map(|f| (*f.handler, f.rest));
            let found = found.as_ref().map(|(h, r)| (*h, r.as_str()));
            assert_eq!(found, expected, "{path}");
        }
    }
}
