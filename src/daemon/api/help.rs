//! `/help`: what paths there are and what each is for.
//!
//! Built once from a daemon's routes and its table of words. Browsers get HTML,
//! `curl` and HTTPie Markdown, `?format=json` everything as one document, as Mesos
//! answers them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mesos::json::Writer;

use crate::wire::http::routes::Routes;
use crate::wire::http::{Request, Response, StatusCode};

/// What one endpoint is for.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    /// Its process; empty for the daemon's own.
    pub process: &'static str,
    /// Its route, as in the table of routes.
    pub route: &'static str,
    /// One line.
    pub short: &'static str,
    /// More, where there is more to say; else empty.
    pub long: &'static str,
}

/// Words for an endpoint of the daemon's own process.
#[must_use]
pub const fn own(route: &'static str, short: &'static str, long: &'static str) -> Words {
    Words { process: "", route, short, long }
}

const fn of(process: &'static str, route: &'static str, short: &'static str) -> Words {
    Words { process, route, short, long: "" }
}

/// Words for what both daemons serve.
const COMMON: &[Words] = &[
    of("files", "browse", "Lists a directory: `?path=VALUE`."),
    of("files", "read", "Reads a piece of a file: `?path=VALUE&offset=N&length=N`."),
    of("files", "download", "Sends a whole file: `?path=VALUE`."),
    of("files", "debug", "Lists the virtual paths and what is behind them."),
    Words {
        process: "metrics",
        route: "snapshot",
        short: "Shows all metrics with their values of now.",
        long: "`?timeout=DURATION` is accepted; nothing here takes long enough to need it.",
    },
    of("metrics", "", "Shows all metrics in Prometheus' text format."),
    of("system", "stats.json", "Shows load, processors and memory of the machine."),
    Words {
        process: "logging",
        route: "toggle",
        short: "Shows how much is logged, or logs more for a while.",
        long: "`?level=N&duration=DURATION` changes it, for example `?level=1&duration=10mins`.",
    },
    of("version", "", "Shows version and build."),
    own("flags", "Shows the flags this process was started with.", ""),
    own("health", "Answers 200 while this process serves.", ""),
];

/// Processes that nobody needs help with.
const SILENT: [&str; 2] = ["help", "__processes__"];

#[derive(Debug)]
struct Page {
    /// Paths that lead there, the shortest first.
    paths: Vec<String>,
    short: String,
    long: String,
}

/// The help of one daemon.
#[derive(Debug)]
pub struct Help(BTreeMap<String, BTreeMap<String, Page>>);

impl Help {
    /// Help for what `routes` has, in the words of `own` and those that both
    /// daemons share.
    #[must_use]
    pub fn new<T>(routes: &Routes<T>, own: &[Words]) -> Help {
        let delegate = routes.delegate();
        let mut all: BTreeMap<String, BTreeMap<String, Page>> = BTreeMap::new();
        for (process, route) in routes.iter().filter(|(p, _)| !SILENT.contains(p)) {
            let name = if process == delegate { "" } else { process };
            let mut words = COMMON.iter().chain(own);
            let words = words.find(|w| w.process == name && w.route == route);
            let slash = |path: &str| format!("/{}", path.trim_matches('/'));
            let mut paths = vec![slash(&format!("{process}/{route}"))];
            if process == delegate {
                paths.insert(0, slash(route));
            }
            let page = Page {
                paths,
                short: words.map(|w| w.short.to_owned()).unwrap_or_default(),
                long: words.map(|w| w.long.to_owned()).unwrap_or_default(),
            };
            all.entry(process.to_owned()).or_default().insert(format!("/{route}"), page);
        }
        Help(all)
    }

    /// Adds the paths of the help itself; `handler` is the daemon's own for them.
    #[must_use]
    pub fn routes<T: Clone>(&self, table: Routes<T>, handler: &T) -> Routes<T> {
        let table = table.add("help", "", handler.clone());
        self.0.keys().fold(table, |table, id| table.add("help", id, handler.clone()))
    }

    /// Endpoints without words, and words without an endpoint.
    #[must_use]
    pub fn gaps(&self, own: &[Words]) -> Vec<String> {
        let pages = self.0.iter().flat_map(|(id, pages)| pages.iter().map(move |p| (id, p)));
        let silent = pages.filter(|(_, (_, page))| page.short.is_empty());
        let mut gaps: Vec<String> = silent.map(|(id, (name, _))| format!("{id}{name}")).collect();
        let lost = COMMON.iter().chain(own).filter(|words| {
            let name = format!("/{}", words.route);
            let mut pages = self.0.iter().filter(|(id, pages)| {
                let here = words.process.is_empty() || words.process == id.as_str();
                here && pages.get(&name).is_some_and(|page| page.short == words.short)
            });
            pages.next().is_none()
        });
        gaps.extend(lost.map(|words| format!("'{}' is no route", words.route)));
        gaps
    }

    /// Answers `/help`, `/help/PROCESS` and `/help/PROCESS/ENDPOINT`.
    #[must_use]
    pub fn answer(&self, request: &Request) -> Response {
        let rest = request.path.trim_matches('/');
        let rest = rest.strip_prefix("help").unwrap_or(rest).trim_matches('/');
        let (id, name) = match rest.split_once('/') {
            Some((id, name)) => (id, Some(format!("/{}", name.trim_matches('/')))),
            None => (rest, None),
        };
        if id.is_empty() && request.query.get("format") == Some("json") {
            return Response::json(self.json()).jsonp(request.query.get("jsonp"));
        }
        let none = |path: &str| {
            let text = format!("No help available for '/{path}'.\n");
            Response::text(StatusCode::BAD_REQUEST, text)
        };
        let text = if id.is_empty() {
            self.index()
        } else {
            let Some(pages) = self.0.get(id) else { return none(id) };
            match name {
                None => process(id, pages),
                Some(name) => match pages.get(&name) {
                    Some(page) => format!("{}\n", endpoint(page)),
                    None => return none(&format!("{id}{name}")),
                },
            }
        };
        // compat: these two show what they get; all others are taken for browsers.
        let plain = request
            .header("user-agent")
            .is_some_and(|agent| agent.starts_with("curl") || agent.starts_with("HTTPie"));
        if plain {
            return Response::bytes("text/x-markdown", text);
        }
        Response::bytes("text/html", html(&text))
    }

    fn index(&self) -> String {
        let mut text = "## HELP\n".to_owned();
        let mut references = String::new();
        for id in self.0.keys() {
            let _ = writeln!(text, "> [/{id}][{id}]");
            let _ = writeln!(references, "[{id}]: help/{id}");
        }
        format!("{text}\n{references}")
    }

    fn json(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.object(|w| {
            w.key("processes").array(|w| {
                for (id, pages) in &self.0 {
                    w.object(|w| {
                        w.key("id").string(id);
                        w.key("endpoints").array(|w| {
                            for (name, page) in pages {
                                w.object(|w| {
                                    w.key("name").string(name);
                                    w.key("text").string(&endpoint(page));
                                });
                            }
                        });
                    });
                }
            });
        });
        w.into_bytes()
    }
}

fn process(id: &str, pages: &BTreeMap<String, Page>) -> String {
    let mut text = format!("## `/{id}` ##\n");
    let mut references = String::new();
    for name in pages.keys() {
        let path = format!("{id}{}", name.trim_end_matches('/'));
        let _ = writeln!(text, "> [/{path}][{path}]");
        let _ = writeln!(references, "[{path}]: {path}");
    }
    format!("{text}\n{references}")
}

fn endpoint(page: &Page) -> String {
    if page.short.is_empty() {
        return format!("## No help page for `{}`\n", page.paths[page.paths.len() - 1]);
    }
    let mut text = "### USAGE ###\n".to_owned();
    for path in &page.paths {
        let _ = writeln!(text, ">        {path}");
    }
    let _ = writeln!(text, "\n### TL;DR; ###\n{}", page.short);
    if !page.long.is_empty() {
        let _ = writeln!(text, "\n### DESCRIPTION ###\n{}", page.long);
    }
    text
}

/// Our own Markdown as HTML: headings, quotes, links and paragraphs.
fn html(markdown: &str) -> String {
    let mut body = String::new();
    for line in markdown.lines() {
        let plain = escape(line.trim_start_matches(['#', '>', ' ']).trim_end_matches([' ', '#']));
        let linked = line.strip_prefix("> [/").and_then(|rest| rest.split_once(']'));
        let _ = match line {
            "" => continue,
            _ if line.starts_with('[') => continue, // The links are made above.
            _ if line.starts_with('#') => writeln!(body, "<h3>{plain}</h3>"),
            _ if line.starts_with('>') => match linked {
                Some((path, _)) => {
                    let path = escape(path);
                    writeln!(body, "<p><a href=\"/help/{path}\">/{path}</a></p>")
                }
                None => writeln!(body, "<pre>{plain}</pre>"),
            },
            _ => writeln!(body, "<p>{plain}</p>"),
        };
    }
    format!("<html><head><title>Help</title></head><body>\n{body}</body></html>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http::{HeaderMap, Method};

    const OWN: &[Words] = &[own("state", "Shows <everything>.", "And more.")];

    fn table() -> (Help, Routes<u8>) {
        let routes = Routes::new("slave(1)")
            .add("slave(1)", "state", 1)
            .add("slave(1)", "dumb", 2)
            .add("version", "", 3)
            .add("__processes__", "", 4);
        let help = Help::new(&routes, OWN);
        let routes = help.routes(routes, &0);
        (help, routes)
    }

    fn ask(path: &str, agent: &str) -> (u16, String, String) {
        let (help, routes) = table();
        let uri: http::Uri = path.parse().expect("a path");
        let Some(found) = routes.find(uri.path()) else {
            return (404, String::new(), String::new());
        };
        assert_eq!(*found.handler, 0);
        let mut headers = HeaderMap::new();
        headers.insert("user-agent", agent.parse().expect("a header"));
        let response = help.answer(&Request::new(Method::GET, &uri, headers, ""));
        let body = response.whole_body().cloned().unwrap_or_default();
        let kind = response.media_type().unwrap_or_default().to_owned();
        (response.code().as_u16(), kind, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[test]
    fn people_with_curl_get_markdown() {
        for (path, wanted) in [
            (
                "/help",
                "## HELP\n> [/slave(1)][slave(1)]\n> [/version][version]\n\n\
                 [slave(1)]: help/slave(1)\n[version]: help/version\n",
            ),
            ("/help/version", "## `/version` ##\n> [/version][version]\n\n[version]: version\n"),
            (
                "/help/slave(1)/state",
                "### USAGE ###\n>        /state\n>        /slave(1)/state\n\n### TL;DR; ###\n\
                 Shows <everything>.\n\n### DESCRIPTION ###\nAnd more.\n\n",
            ),
            ("/help/slave(1)/dumb", "## No help page for `/slave(1)/dumb`\n\n"),
        ] {
            let (status, kind, text) = ask(path, "curl/8");
            assert_eq!((status, kind.as_str()), (200, "text/x-markdown"), "{path}");
            assert_eq!(text, wanted, "{path}");
        }
        let (status, _, text) = ask("/help/slave(1)/none", "curl/8");
        assert_eq!((status, text.as_str()), (400, "No help available for '/slave(1)/none'.\n"));
        assert_eq!(ask("/help/nobody", "curl/8").0, 404);
    }

    #[test]
    fn browsers_get_html_and_programs_json() {
        let (_, kind, text) = ask("/help/slave(1)", "Mozilla/5.0");
        assert_eq!(kind, "text/html");
        let link = "<a href=\"/help/slave(1)/state\">/slave(1)/state</a>";
        assert!(text.contains(link), "{text}");
        let (_, _, text) = ask("/help/slave(1)/state", "Mozilla/5.0");
        assert!(text.contains("<p>Shows &lt;everything&gt;.</p>"), "{text}");
        let (_, kind, text) = ask("/help?format=json", "Mozilla/5.0");
        assert_eq!(kind, "application/json");
        let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(all["processes"][0]["id"], "slave(1)");
        assert_eq!(all["processes"][0]["endpoints"][1]["name"], "/state");
    }

    #[test]
    fn gaps_are_named() {
        let (help, _) = table();
        let gaps = help.gaps(OWN);
        assert!(gaps.contains(&"slave(1)/dumb".to_owned()), "{gaps:?}");
        assert!(gaps.contains(&"'browse' is no route".to_owned()), "{gaps:?}");
        assert!(!gaps.iter().any(|g| g.contains("state") || g.contains("version")), "{gaps:?}");
    }
}
