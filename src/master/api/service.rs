//! The master's doors: which path leads where.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::pieces::Pieces;
use super::tasks::TasksQuery;
use super::{frameworks, help, operator, roles, scheduler, slaves, state, summary, tasks, v0};
use crate::daemon::api::help::Help;
use crate::daemon::api::{Common, Endpoint};
use crate::master::core::{Command, Refusal};
use crate::master::driver::{Handle, Overloaded};
use crate::master::snapshot::Snapshot;
use crate::wire::http::media::{Media, request_media};
use crate::wire::http::routes::Routes;
use crate::wire::http::{Request, Response, Service, StatusCode};
use crate::wire::libprocess::Message;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Common(Endpoint),
    State,
    Summary,
    Slaves,
    Frameworks,
    Tasks,
    Roles,
    Redirect,
    Scheduler,
    Operator,
    Teardown,
    Weights,
    Later(&'static str),
    Help,
}

fn routes() -> Routes<Route> {
    let table = Routes::new("master")
        .add("master", "state", Route::State)
        .add("master", "state-summary", Route::Summary)
        .add("master", "slaves", Route::Slaves)
        .add("master", "frameworks", Route::Frameworks)
        .add("master", "tasks", Route::Tasks)
        .add("master", "roles", Route::Roles)
        .add("master", "redirect", Route::Redirect)
        .add("master", "api/v1", Route::Operator)
        .add("master", "api/v1/scheduler", Route::Scheduler)
        .add("master", "teardown", Route::Teardown)
        .add("master", "weights", Route::Weights);
    let later = [
        "quota",
        "reserve",
        "unreserve",
        "create-volumes",
        "destroy-volumes",
        "maintenance/schedule",
        "maintenance/status",
        "machine/down",
        "machine/up",
    ];
    let table = later.into_iter().fold(table, |t, path| t.add("master", path, Route::Later(path)));
    Common::routes(table, "master", Route::Common)
}

/// Everything the doors need.
pub struct Api {
    /// The way to the owner.
    pub handle: Handle,
    /// What both daemons serve.
    pub common: Common,
    pieces: Arc<Pieces>,
    routes: Routes<Route>,
    help: Help,
}

impl Api {
    /// The doors of the master behind `handle`.
    #[must_use]
    pub fn new(handle: Handle, common: Common) -> Arc<Api> {
        let routes = routes();
        let help = Help::new(&routes, help::WORDS);
        let routes = help.routes(routes, &Route::Help);
        Arc::new(Api { handle, common, pieces: Arc::default(), routes, help })
    }

    /// Renders off a snapshot, away from the async threads.
    async fn rendered(
        &self,
        request: &Request,
        body: impl FnOnce(&Snapshot, &Pieces) -> Vec<u8> + Send + 'static,
    ) -> Response {
        let (snapshot, pieces) = (self.handle.snapshot(), self.pieces.clone());
        let done = render(move || Response::json(body(&snapshot, &pieces))).await;
        done.unwrap_or_else(|failed| failed).jsonp(request.query.get("jsonp"))
    }

    async fn read(&self, route: Route, request: &Request) -> Response {
        let parameter = |name: &str| request.query.get(name).map(str::to_owned);
        match route {
            Route::State => {
                let version = crate::daemon::version::info();
                self.rendered(request, move |s, p| state::state(s, version, p).to_vec()).await
            }
            Route::Summary => self.rendered(request, summary::summary).await,
            Route::Slaves => {
                let only = parameter("slave_id");
                self.rendered(request, move |s, p| slaves::slaves(s, p, only.as_deref())).await
            }
            Route::Frameworks => {
                let only = parameter("framework_id");
                let body =
                    move |s: &Snapshot, p: &Pieces| frameworks::frameworks(s, p, only.as_deref());
                self.rendered(request, body).await
            }
            Route::Tasks => {
                let query: Vec<(String, String)> =
                    request.query.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
                let body = move |s: &Snapshot, _: &Pieces| {
                    let get =
                        |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
                    tasks::tasks(s, &TasksQuery::new(get))
                };
                self.rendered(request, body).await
            }
            _ => {
                let no_quotas = std::collections::BTreeMap::new();
                self.rendered(request, move |s, _| roles::roles(s, &no_quotas)).await
            }
        }
    }

    fn redirect(&self, rest: &str) -> Response {
        if !rest.is_empty() {
            return Response::not_found();
        }
        let snapshot = self.handle.snapshot();
        match &snapshot.master.leader {
            Some(leader) => {
                let host = leader.hostname.clone().unwrap_or_default();
                Response::redirect(&format!("//{host}:{}", leader.port))
            }
            None => Response::text(StatusCode::SERVICE_UNAVAILABLE, "No leader elected"),
        }
    }
}

/// The API as a service of the server.
pub struct Door(pub Arc<Api>);

#[async_trait]
impl Service for Door {
    async fn call(&self, request: Request) -> Response {
        let api = &self.0;
        let Some(found) = api.routes.find(request.raw_path()) else {
            return Response::not_found();
        };
        let (route, rest) = (*found.handler, found.rest.clone());
        match route {
            Route::Common(endpoint) => api.common.answer(endpoint, &request).await,
            Route::Redirect => api.redirect(&rest),
            Route::Scheduler => scheduler::answer(&api.handle, request).await,
            Route::Operator => operator::answer(api, request).await,
            Route::Teardown => v0::teardown(api, request).await,
            Route::Weights => v0::weights(api, request).await,
            Route::Later(what) => v0::later(what),
            Route::Help => api.help.answer(&request),
            read => api.read(read, &request).await,
        }
    }

    fn message(&self, message: Message) -> bool {
        let ours = message.to == "master" || message.to.starts_with("slave-observer(");
        if ours {
            self.0.handle.message(message);
            return true;
        }
        self.0.routes.has_process(&message.to)
    }
}

/// Runs `work` where it may take its time.
pub(super) async fn render(
    work: impl FnOnce() -> Response + Send + 'static,
) -> Result<Response, Response> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Response::empty(StatusCode::INTERNAL_SERVER_ERROR))
}

/// Has the owner do something.
pub(super) async fn run(handle: &Handle, command: Command) -> Result<(), Refusal> {
    match handle.operator(command).await {
        Ok(done) => done,
        Err(Overloaded) => Err(Refusal::Busy(Overloaded.to_string())),
    }
}

pub(super) fn overloaded(error: Overloaded) -> Response {
    Response::text(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// The status of a refusal.
pub(super) fn refusal(why: &Refusal) -> Response {
    let status = match why {
        Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
        Refusal::NotSubscribed(_) => StatusCode::FORBIDDEN,
        Refusal::NotFound(_) => StatusCode::NOT_FOUND,
        Refusal::Conflict(_) => StatusCode::CONFLICT,
        Refusal::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Response::text(status, why.to_string())
}

pub(super) fn not_implemented() -> Response {
    Response::text(StatusCode::NOT_IMPLEMENTED, "501 Not Implemented.")
}

pub(super) fn not_yet(what: &str) -> Response {
    Response::text(StatusCode::NOT_IMPLEMENTED, format!("{what} is not supported yet"))
}

/// The bytes of a v1 call, whatever it was sent as, refused in Mesos' words.
pub(super) async fn call_bytes(name: &str, request: &mut Request) -> Result<Bytes, Response> {
    use mesos::json::JsonError;
    let media = request_media(&request.headers)?;
    let body = request.bytes().await?;
    if media == Media::Protobuf {
        return Ok(body);
    }
    mesos::v1::from_json(name, &body).map(Bytes::from).map_err(|error| {
        let text = match &error {
            JsonError::Syntax { .. } => format!("Failed to parse body into JSON: {error}"),
            JsonError::Convert(_) => {
                format!("Failed to convert JSON into Call protobuf: {error}")
            }
        };
        Response::text(StatusCode::BAD_REQUEST, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_explains_itself() {
        assert_eq!(Help::new(&routes(), help::WORDS).gaps(help::WORDS), Vec::<String>::new());
    }
}
