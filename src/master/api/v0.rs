//! The old endpoints that change something: `/teardown`, `/weights`.

use mesos::json::Writer;

use super::{Api, not_yet, refusal, run};
use crate::master::core::Command;
use crate::master::ids::FrameworkId;
use crate::wire::http::{Method, Request, Response, StatusCode, parse_form};

fn bad(text: impl Into<String>) -> Response {
    Response::text(StatusCode::BAD_REQUEST, text)
}

/// `/teardown`: form body `frameworkId=..`.
pub async fn teardown(api: &Api, mut request: Request) -> Response {
    if request.method != Method::POST {
        return Response::method_not_allowed(&["POST"], &request.method);
    }
    let body = match request.bytes().await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let form = parse_form(&String::from_utf8_lossy(&body));
    let Some((_, id)) = form.into_iter().find(|(name, _)| name == "frameworkId") else {
        return bad("Missing 'frameworkId' query parameter in the request body");
    };
    match run(&api.handle, Command::Teardown(FrameworkId::from(id.as_str()))).await {
        Ok(()) => Response::empty(StatusCode::OK),
        Err(why) => refusal(&why),
    }
}

/// `/weights`: GET shows them, PUT sets some.
pub async fn weights(api: &Api, mut request: Request) -> Response {
    if request.method == Method::GET {
        let snapshot = api.handle.snapshot();
        let mut out = Writer::new();
        out.array(|out| {
            for (role, weight) in snapshot.cluster.weights.iter() {
                out.object(|out| {
                    out.key("weight").double(*weight);
                    out.key("role").string(role);
                });
            }
        });
        return Response::json(out.into_bytes()).jsonp(request.query.get("jsonp"));
    }
    if request.method != Method::PUT {
        return Response::method_not_allowed(&["GET", "PUT"], &request.method);
    }
    let body = match request.bytes().await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let infos = match read_weights(&body) {
        Ok(infos) => infos,
        Err(why) => return bad(why),
    };
    match run(&api.handle, Command::UpdateWeights(infos)).await {
        Ok(()) => Response::empty(StatusCode::OK),
        Err(why) => refusal(&why),
    }
}

fn read_weights(body: &[u8]) -> Result<Vec<mesos::WeightInfo>, String> {
    let text = String::from_utf8_lossy(body);
    let failed =
        |why: String| format!("Failed to parse update weights request JSON '{text}': {why}");
    // The list is read as the field of a message: one reader for all JSON.
    let mut whole = b"{\"weight_infos\":".to_vec();
    whole.extend_from_slice(body);
    whole.push(b'}');
    let list: Result<mesos::master::call::UpdateWeights, _> = mesos::json::from_json(&whole);
    match list {
        Ok(list) => Ok(list.weight_infos),
        Err(error) => {
            // What is wrong is said about the list itself.
            let own: Result<mesos::master::call::UpdateWeights, _> = mesos::json::from_json(body);
            let why = match own {
                Err(mesos::json::JsonError::Syntax { line, near }) => {
                    format!("syntax error at line {line} near: {near}")
                }
                _ => error.to_string(),
            };
            Err(failed(why))
        }
    }
}

/// What a later version will do.
pub fn later(what: &'static str) -> Response {
    not_yet(what)
}
