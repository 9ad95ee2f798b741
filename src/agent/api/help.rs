//! What the agent's own endpoints are for; shown by `/help`.

use crate::daemon::api::help::{Words, own};

/// One entry per route of the agent's process.
pub const WORDS: &[Words] = &[
    own("state", "Shows everything: frameworks, executors, tasks and what they use.", ""),
    own(
        "containers",
        "Shows the containers of executors with their status and statistics.",
        "`?container_id=VALUE`, `?framework_id=VALUE` or `?framework_id=VALUE&executor_id=VALUE` \
         choose.",
    ),
    own(
        "monitor/statistics",
        "Shows what each executor's container uses.",
        "With `network/ports` also where it listens, as of the last look: `net_listening_ports`.",
    ),
    own("containerizer/debug", "Shows calls to isolator plugins that are under way.", ""),
    own(
        "gc",
        "Shows what garbage collection would delete now, what it keeps, and why.",
        "No endpoint of Mesos; `bulkhead agent gc --dry-run` prints it.",
    ),
    own(
        "images",
        "Shows the images that containerizers have at hand; POST fetches another one.",
        "No endpoint of Mesos; `bulkhead image ls` prints it. POST takes \
         `{\"image\": NAME, \"force\": BOOL, \"containerizer\": NAME}` and answers with how far \
         the pull is, as RecordIO of JSON. PRUNE_IMAGES of the operator API removes.",
    ),
    own("api/v1", "The operator API: one call by POST, in JSON or protobuf.", ""),
    own("api/v1/executor", "The executor API: one call by POST, in JSON or protobuf.", ""),
];
