#!/usr/bin/env python3
"""A plugin in Python with nothing but the standard library.

A scratch directory for every container, with a size limit: the same as
scratch.rs. Configuration: `root` and `limit_bytes`; the label `scratch_bytes` of
a task asks for another limit. See docs/plugins.md.
"""

import json
import os
import shutil
import socketserver
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler

NAME = "example/scratch"

lock = threading.Lock()
containers = {}  # key -> {"id", "path", "limit", "hit"}
config = {}
recovered = False


class Refused(Exception):
    """The answer is an error; the agent shows its text."""


def key_of(container_id):
    parent = container_id.get("parent")
    return (key_of(parent) + "." if parent else "") + container_id["value"]


def directory(container):
    labels = container.get("labels", {})
    key = key_of(container["container_id"])
    return {
        "id": container["container_id"],
        "path": os.path.join(config["root"], key),
        "limit": int(labels.get("scratch_bytes", config.get("limit_bytes", 1 << 30))),
        "hit": False,
    }


def size(path):
    try:
        return sum(entry.stat().st_size for entry in os.scandir(path))
    except FileNotFoundError:
        return 0


def hello(call):
    return {
        "name": NAME,
        "version": "1.0",
        "protocol": 1,
        "supports": {"calls": ["WATCH", "USAGE"]},
    }


def configure(call):
    global config, recovered
    config = json.loads(call["configure"]["config"])
    recovered = False
    if "root" not in config:
        raise Refused("the config lacks 'root'")
    os.makedirs(config["root"], exist_ok=True)


def recover(call):
    global recovered
    wanted = {key_of(c["container_id"]): c for c in call["recover"].get("containers", [])}
    with lock:
        containers.clear()
        for key, container in wanted.items():
            containers[key] = directory(container)
    # Whatever else is there was left by a container that is gone.
    leftovers = [name for name in os.listdir(config["root"]) if name not in wanted]
    for name in leftovers:
        shutil.rmtree(os.path.join(config["root"], name), ignore_errors=True)
    orphans = {key_of(c["container_id"]) for c in call["recover"].get("orphans", [])}
    recovered = True
    return {"leftovers": [name for name in leftovers if name not in orphans]}


def prepare(call):
    container = call["prepare"]["container"]
    made = directory(container)
    with lock:
        containers[key_of(made["id"])] = made
    try:
        os.mkdir(made["path"])
        if "uid" in container:
            os.chown(made["path"], container["uid"], container["gid"])
    except OSError as error:
        raise Refused(f"failed to make '{made['path']}': {error}")
    return {"contribution": {"environment": {"SCRATCH": made["path"]}}}


def usage(call):
    answer = []
    for container_id in call["usage"].get("container_ids", []):
        with lock:
            known = containers.get(key_of(container_id))
        if known:
            statistics = {
                "timestamp": time.time(),
                "disk_used_bytes": size(known["path"]),
                "disk_limit_bytes": known["limit"],
            }
            answer.append({"container_id": container_id, "statistics": statistics})
    return {"containers": answer}


def cleanup(call):
    with lock:
        known = containers.pop(key_of(call["cleanup"]["container_id"]), None)
    if known:
        shutil.rmtree(known["path"], ignore_errors=True)


CALLS = {
    "HELLO": hello,
    "CONFIGURE": configure,
    "RECOVER": recover,
    "PREPARE": prepare,
    "USAGE": usage,
    "CLEANUP": cleanup,
}


def limitations():
    """The containers that have just exceeded their limit."""
    with lock:
        known = list(containers.values())
    for one in known:
        used = size(one["path"])
        if used > one["limit"] and not one["hit"]:
            one["hit"] = True
            message = f"Scratch of {used} bytes exceeds {one['limit']} bytes"
            reason = "REASON_CONTAINER_LIMITATION_DISK"
            yield {"container_id": one["id"], "message": message, "reason": reason}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/api/v1" or "protobuf" in self.headers.get("Content-Type", ""):
            return self.answer(404, b"JSON calls go to /api/v1\n")
        try:
            call = json.loads(body)
            kind = call.get("type")
        except (ValueError, AttributeError):
            return self.answer(400, b"Failed to parse Call\n")
        if kind == "WATCH":
            return self.watch()
        response = {"type": kind}
        try:
            if kind not in CALLS:
                raise Refused("unknown or missing 'type' of the call")
            if kind not in ("HELLO", "CONFIGURE", "RECOVER") and not recovered:
                raise Refused("the plugin has not recovered yet")
            content = CALLS[kind](call)
            if content is not None:
                response[kind.lower()] = content
        except Refused as error:
            response["error"] = {"message": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            response["error"] = {"message": f"malformed {kind}: {error!r}"}
        return self.answer(200, json.dumps(response).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def watch(self):
        """A stream of RecordIO: each record is its length, a newline, its bytes."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.record({"type": "SUBSCRIBED"})
        try:
            while True:
                for limitation in limitations():
                    self.record({"type": "LIMITATION", "limitation": limitation})
                time.sleep(0.05)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def record(self, event):
        body = json.dumps(event).encode()
        self.wfile.write(str(len(body)).encode() + b"\n" + body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def get_request(self):
        connection, _ = super().get_request()
        return connection, ("agent", 0)


def main():
    path = os.environ.get("BULKHEAD_PLUGIN_SOCKET") or sys.argv[1]
    if os.path.exists(path):
        os.unlink(path)
    os.umask(0o177)
    server = Server(path, Handler)
    os.umask(0o077)
    if "BULKHEAD_PLUGIN_OWNED" in os.environ:
        # Standard input ends with the agent that started this.
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()
    else:
        server.serve_forever()


if __name__ == "__main__":
    main()
