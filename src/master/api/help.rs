//! What the master's own endpoints are for; shown by `/help`.

use crate::daemon::api::help::{Words, own};

/// One entry per route of the master's process.
pub const WORDS: &[Words] = &[
    own("state", "Shows everything: agents, frameworks, their tasks and what they use.", ""),
    own("state-summary", "Shows agents and frameworks with sums instead of tasks.", ""),
    own("slaves", "Shows the agents.", "`?slave_id=VALUE` shows one of them."),
    own("frameworks", "Shows the frameworks.", "`?framework_id=VALUE` shows one of them."),
    own(
        "tasks",
        "Shows tasks, newest first.",
        "`?framework_id=VALUE&task_id=VALUE` choose, `?limit=N&offset=N&order=asc|des` turn pages.",
    ),
    own("roles", "Shows each role with its weight, quota, frameworks and resources.", ""),
    own("redirect", "Sends on to the leading master.", ""),
    own("api/v1", "The operator API: one call by POST, in JSON or protobuf.", ""),
    own("api/v1/scheduler", "The scheduler API: one call by POST, in JSON or protobuf.", ""),
    own("teardown", "Ends a framework and all its tasks: POST `frameworkId=VALUE`.", ""),
    own("weights", "Shows the weights of roles; PUT a list of them to change some.", ""),
    own("quota", LATER, ""),
    own("reserve", LATER, ""),
    own("unreserve", LATER, ""),
    own("create-volumes", LATER, ""),
    own("destroy-volumes", LATER, ""),
    own("maintenance/schedule", LATER, ""),
    own("maintenance/status", LATER, ""),
    own("machine/down", LATER, ""),
    own("machine/up", LATER, ""),
];

const LATER: &str = "Not supported yet.";
