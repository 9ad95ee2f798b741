//! The agent's HTTP door: v0 endpoints, the operator and executor APIs, and
//! libprocess messages.
//!
//! [`Api`] is the [`Service`] behind the agent's socket. Reads are rendered from
//! the newest snapshot and never wait for the agent's owner; writes go through
//! its [`Handle`]; container calls go to the containerizer. Status codes and
//! wordings of the agent live here and nowhere else.

mod attach;
mod attachments;
pub mod containers;
mod decode;
pub mod executor;
mod files;
mod garbage;
mod help;
mod images;
pub mod metrics;
pub mod nested;
pub mod prometheus;
pub mod reads;
mod sandbox;
pub mod session;
pub mod state;
pub mod streams;
pub mod v1;
pub mod validate;

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use mesos::slave_info::capability;

use self::attachments::Attachments;
use self::containers::{Beside, Selection};
use super::handle::Handle;
use super::snapshot::{AgentState, Snapshot};
use crate::checkpoint::WorkDir;
use crate::containerizer::Containerizer;
use crate::daemon::api::help::Help;
use crate::daemon::api::{Common, Endpoint};
use crate::gc::Policy;
use crate::wire::http::routes::Routes;
use crate::wire::http::{Request, Response, Service, StatusCode};
use crate::wire::libprocess::Message;

/// The agent's process on the wire, and the prefix of its paths.
pub const PROCESS: &str = "slave(1)";

/// What an agent can say of itself without looking.
#[derive(Debug, Clone)]
pub struct About {
    /// Version and build.
    pub version: mesos::VersionInfo,
    /// When the process started, in seconds since the epoch.
    pub start_time: f64,
    /// `slave(1)@10.0.0.1:5051`.
    pub pid: String,
    /// As told to the master.
    pub capabilities: Vec<capability::Type>,
    /// Every flag that has a value, by name, as `/flags` shows it.
    pub flags: Vec<(String, String)>,
}

/// What the handlers work with.
pub struct Context {
    /// The door to the owner.
    pub handle: Handle,
    /// The containers.
    pub containerizer: Arc<dyn Containerizer>,
    /// Who we are.
    pub about: About,
    /// For sandboxes of standalone containers.
    pub work_dir: WorkDir,
    /// `--switch_user`.
    pub switch_user: bool,
    /// Images that are never pruned unless a call names others.
    pub excluded_images: Vec<String>,
    /// What is collected when.
    pub collection: Policy,
    /// What master and agent serve alike: files, metrics, flags, logging.
    pub common: Common,
    /// Sessions in containers that run, and terminals of containers.
    pub sessions: streams::Sessions,
}

#[derive(Debug, Clone, Copy)]
enum Route {
    Common(Endpoint),
    State,
    Containers,
    Statistics,
    Debug,
    Operator,
    Executor,
    Garbage,
    Images,
    Help,
}

fn routes() -> Routes<Route> {
    Common::routes(Routes::new(PROCESS), PROCESS, Route::Common)
        .add(PROCESS, "state", Route::State)
        .add(PROCESS, "containers", Route::Containers)
        .add(PROCESS, "monitor/statistics", Route::Statistics)
        .add(PROCESS, "containerizer/debug", Route::Debug)
        .add(PROCESS, "gc", Route::Garbage)
        .add(PROCESS, "images", Route::Images)
        .add(PROCESS, "api/v1", Route::Operator)
        .add(PROCESS, "api/v1/executor", Route::Executor)
}

/// The agent's HTTP service.
pub struct Api {
    context: Arc<Context>,
    attachments: Arc<Attachments>,
    routes: Routes<Route>,
    help: Help,
}

impl Api {
    /// A service around `context`. Adds the agent's metrics to the common ones.
    #[must_use]
    pub fn new(
        context: Context,
        around: impl Fn() -> metrics::Surroundings + Send + Sync + 'static,
    ) -> Api {
        let handle = context.handle.clone();
        context.common.metrics.counting(metrics::is_counter);
        context.common.metrics.source(move |out| {
            let snapshot = handle.snapshot();
            out.extend(metrics::of(&snapshot, &around()));
            out.extend(metrics::ours(&snapshot));
        });
        let routes = routes();
        let help = Help::new(&routes, help::WORDS);
        let routes = help.routes(routes, &Route::Help);
        let attachments = Arc::new(Attachments::new(context.common.files.clone()));
        Api { context: Arc::new(context), attachments, routes, help }
    }

    async fn route(&self, route: Route, request: Request) -> Response {
        let context = &self.context;
        let jsonp = request.query.get("jsonp").map(str::to_owned);
        let snapshot = context.handle.snapshot();
        let recovering = snapshot.state == AgentState::Recovering;
        let response = match route {
            Route::Operator => return v1::serve(context, &self.attachments, request).await,
            Route::Help => return self.help.answer(&request),
            Route::Executor => return executor::serve(context, request).await,
            Route::Common(Endpoint::Prometheus) => {
                return self.prometheus(&snapshot, &request).await;
            }
            Route::Common(endpoint) => {
                if matches!(
                    endpoint,
                    Endpoint::Browse | Endpoint::Read | Endpoint::Download | Endpoint::Debug
                ) {
                    Attachments::update(&self.attachments, snapshot).await;
                }
                return context.common.answer(endpoint, &request).await;
            }
            Route::State if recovering => return self::recovering(),
            Route::State => Response::json(state::render(&snapshot, &context.about)),
            Route::Containers if recovering => return self::recovering(),
            Route::Containers => self.containers(&snapshot, &request).await,
            Route::Statistics => {
                Response::json(containers::statistics(&snapshot, &*context.containerizer).await)
            }
            Route::Images if recovering => return self::recovering(),
            Route::Images => return images::serve(context, request).await,
            Route::Garbage => garbage::plan(context, &snapshot).await,
            Route::Debug => Response::json(context.containerizer.debug().to_string()),
        };
        response.jsonp(jsonp.as_deref())
    }

    /// The agent's metrics, and its containers as far as they are wanted.
    async fn prometheus(&self, snapshot: &Snapshot, request: &Request) -> Response {
        let context = &self.context;
        let mut out = context.common.metrics.exposition(Instant::now());
        prometheus::isolators(&context.containerizer.isolator_calls(), &mut out);
        let containerizer = Arc::clone(&context.containerizer);
        let gpus = tokio::task::spawn_blocking(move || containerizer.gpus()).await;
        prometheus::gpus(&gpus.unwrap_or_default(), &mut out);
        let wanted = match context.common.flags.text("metrics_per_container") {
            Some("executors") => Some(Selection::default()),
            Some("all") => Some(Selection { nested: true, standalone: true, ..Default::default() }),
            _ => None,
        };
        if let Some(selection) = wanted {
            let all = containers::collect(snapshot, &*context.containerizer, &selection).await;
            prometheus::containers(&all, &mut out);
        }
        crate::daemon::api::prometheus(request, &out)
    }

    async fn containers(&self, snapshot: &Snapshot, request: &Request) -> Response {
        let parameter = |name: &str| request.query.get(name).map(str::to_owned);
        // compat: the endpoint takes show_nested and show_standalone and ignores them.
        let selection = Selection {
            container: parameter("container_id"),
            framework: parameter("framework_id"),
            executor: parameter("executor_id"),
            ..Default::default()
        };
        if !selection.is_supported() {
            return Response::text(
                StatusCode::BAD_REQUEST,
                "Supported query parameters are container_id only, framework_id only, or \
                 executor_id and framework_id only",
            );
        }
        let found = containers::collect(snapshot, &*self.context.containerizer, &selection).await;
        let beside = Beside::of(&*self.context.containerizer);
        Response::json(containers::render(&found, snapshot, &beside))
    }
}

#[async_trait]
impl Service for Api {
    async fn call(&self, request: Request) -> Response {
        match self.routes.find(request.raw_path()).map(|found| *found.handler) {
            Some(route) => self.route(route, request).await,
            None => Response::not_found(),
        }
    }

    fn message(&self, message: Message) -> bool {
        message.to == PROCESS
            && self.context.handle.message(&message.from.to_string(), &message.name, &message.body)
    }
}

/// 503 while the agent reads its checkpoints.
fn recovering() -> Response {
    Response::text(StatusCode::SERVICE_UNAVAILABLE, "Agent has not finished recovery")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_explains_itself() {
        assert_eq!(Help::new(&routes(), help::WORDS).gaps(help::WORDS), Vec::<String>::new());
    }
}
