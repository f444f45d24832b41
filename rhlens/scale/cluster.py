"""The connection to Ray: one a process, however many models have workers."""

from __future__ import annotations

import os
import socket
from importlib import import_module
from typing import Any

from rhlens.results.files import brief

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # the first of several is raised, which is enough
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",  # what Ray says of workers goes to stdout, where results are
}
_users = 0
_started_here = False


def imported() -> Any:
    """Ray, with our settings where the environment has no others.

    Raises:
        ValueError: it is not installed.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        return import_module("ray")
    except ImportError:
        raise ValueError('Ray is not installed: pip install "rhlens[ray]"') from None


def connect(address: str | None) -> Any:
    """Ray, connected: to what the caller is connected to already, to a cluster, or to one that is started here.

    Raises:
        ValueError: Ray is not installed, or no cluster answers.
    """
    global _users, _started_here
    ray = imported()
    if not ray.is_initialized():
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        local = {"include_dashboard": False} if address == "local" else {}
        try:
            _call(address)
            ray.init(address=address, log_to_driver=False, logging_level="error", **local)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"no Ray cluster answers at {address!r} ({brief(error)}): start one with ray start --head, or leave "
                "the address out to use this machine alone"
            ) from None
        _started_here = True
    _users += 1
    return ray


def disconnect(ray: Any) -> None:
    """The last to leave turns off what was turned on here."""
    global _users, _started_here
    _users -= 1
    if _started_here and not _users:
        _started_here = False
        ray.shutdown()


def _call(address: str) -> None:
    """Raise OSError if nobody listens at a host and port: Ray would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
