"""gunicorn's settings; those that depend on vlserve's come from the same environment as the application's."""

import resource
import sys
from typing import Any

from app import check, telemetry
from app.routes import keys, master
from app.settings import Settings, SettingsError

try:
    settings = Settings.from_env()
    check(settings)
except SettingsError as wrong:
    sys.exit(f"vlserve: {wrong}")

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
worker_class = "app.routes.worker.Worker"  # gthread
workers = 1  # one process holds the weights once; gthread serves all streams from it
# A stream holds its thread for its life. Fewer threads than streams and queue places would leave requests in
# the backlog, where neither a 429 nor /health reaches them.
threads = settings.streams() + settings.max_queue + 16
timeout = 120  # of the worker's heartbeat, not of a request: streams may take any time
# Streams that still run at --drain-timeout end with an error event; the rest is for clients that read none.
graceful_timeout = int(settings.drain_timeout) + 8
worker_connections = threads + 1000  # kept-alive ones need no thread
keepalive = 75  # longer than nginx's default of 60 s for idle upstream connections
max_requests = 0  # a restart would load every model again
preload_app = False  # threads and CUDA contexts do not survive a fork
control_socket_disable = True  # nothing here uses it
accesslog = None  # the application logs requests, with their ids
logconfig_dict = telemetry.logging_config(settings.log_level, settings.log_format)

# Each connection is a file, each download two, and shells and containers often allow 1024.
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
if 0 <= soft < most:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def on_starting(server: Any) -> None:
    """Before the first worker: a server that can be reached from outside has one key in all workers, and a
    reload is tried before the old workers go.
    """
    master.attend(server, lambda: check(Settings.from_env()))
    sys.stdout.write(keys.secure(settings, server.cfg.address))
    sys.stdout.flush()
