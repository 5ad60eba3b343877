"""A real Ray head in processes of its own, with token authentication, on loopback ports that nothing else uses."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from ray._private.services import get_node_ip_address

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SECONDS = 600

LOOK_EVERY = 2.0
"""Seconds between two looks at a cluster through Ray's command line, each of which starts a Python of its own."""

COMMANDS = ("setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")

FAKE: dict[str, Any] = {
    "type": "fake_multinode",
    "use_node_id_as_ip": True,
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
}
"""Provider whose nodes are processes of this machine: they are told apart by id, and nothing is installed on them."""


@dataclass(frozen=True)
class Head:
    """A running head; all its processes are descendants of ``process``."""

    process: psutil.Process
    environment: dict[str, str]
    """Of its clients: they find the token, and the cluster where they need its address."""
    gcs: str
    dashboard: str
    metrics: str

    def ray(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs Ray's command line as a client that knows the dashboard's address."""
        return self.run([str(BIN / "ray"), *words], RAY_API_SERVER_ADDRESS=self.dashboard, **environment)

    def python(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Runs Python in a process that joins the cluster."""
        return self.run([sys.executable, *words], RAY_ADDRESS=self.gcs, **environment)

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        everything = {**self.environment, **environment}
        return subprocess.run(
            command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=SECONDS, check=False
        )

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Its processes whose command line holds ``name``."""
        return [process for process in self.process.children(recursive=True) if name in command_line(process)]


@contextmanager
def ray_head(
    *options: str,
    cwd: Path = ROOT,
    autoscaling: dict[str, Any] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Head]:
    """Starts a head and ends all its processes afterwards, by their ids.

    Args:
        options: of ray start.
        cwd: where jobs without a working directory run.
        autoscaling: configuration of an autoscaler with the fake provider, which starts nodes as processes here.
        settings: of Ray, in the environment of the head alone.
    """
    with ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="hr", dir="/tmp", ignore_cleanup_errors=True)
        )
        gcs, dashboard, agent, metrics, client = _free_ports(5)
        address = f"{get_node_ip_address()}:{gcs}"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment |= {
            "HOME": directory,
            "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Jobs of the machine's own user find torch's libraries as before.
            "RAY_TMPDIR": directory,
        }
        subprocess.run(
            [str(BIN / "ray"), "get-auth-token", "--generate"], env=environment, check=True, capture_output=True
        )
        command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={gcs}", f"--temp-dir={directory}/r"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        command += [f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"]
        command += [f"--ray-client-server-port={client}", "--disable-usage-stats", *options]
        own = {**environment, **(settings or {})}
        if autoscaling is not None:
            file = Path(directory, "autoscaling.json")
            nothing = {
                "auth": {},
                "file_mounts": {},
                "file_mounts_sync_continuously": False,
                "cluster_synced_files": [],
            }
            nothing |= {f"{name}_commands": [] for name in COMMANDS}
            provider = {**FAKE, "gcs_address": address}
            file.write_text(json.dumps({"cluster_name": "fake", "provider": provider, **nothing, **autoscaling}))
            command.append(f"--autoscaling-config={file}")
            own |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        log = stack.enter_context(open(Path(directory, "start.log"), "w"))
        started = subprocess.Popen(command, cwd=cwd, env=own, stdout=log, stderr=log, start_new_session=True)
        head = Head(
            psutil.Process(started.pid),
            environment,
            address,
            f"http://127.0.0.1:{dashboard}",
            f"http://{address.partition(':')[0]}:{metrics}/metrics",
        )
        try:
            until(lambda: started.poll() is not None or "Ray runtime started" in _text(log), "the head to start", 120)
            until(lambda: started.poll() is not None or _listens(dashboard), "the dashboard to start", 60)
            assert started.poll() is None, _text(log)
            yield head
        finally:
            _end(head.process)
            started.wait()


@contextmanager
def ray_node(head: Head, *options: str, hidden: Path | None = None) -> Iterator[psutil.Process]:
    """Adds a node to the cluster of ``head`` while the body runs; its processes are descendants of that which it gives.

    Args:
        options: of ray start.
        hidden: a directory that the node finds empty, as if it were another machine's; needs root.
    """
    (agent,) = _free_ports(1)
    command = [str(BIN / "ray"), "start", "--block", f"--address={head.gcs}", f"--dashboard-agent-listen-port={agent}"]
    command += ["--disable-usage-stats", *options]
    if hidden is not None:
        script = f"mount -t tmpfs none {shlex.quote(str(hidden))} && exec {shlex.join(command)}"
        command = ["unshare", "--mount", "bash", "-c", script]
    before = len(listed(head, "nodes"))
    started = subprocess.Popen(
        command, cwd=ROOT, env=head.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: started.poll() is not None or len(listed(head, "nodes")) > before, "the node to start", 60)
        assert started.poll() is None, "the node ended"
        yield psutil.Process(started.pid)
    finally:
        _end(psutil.Process(started.pid))
        started.wait()


def own_actors(head: Head) -> list[str]:
    """Classes of the living actors that are not Ray's own."""
    names = [actor["class_name"] for actor in listed(head, "actors") if actor["state"] == "ALIVE"]
    return [
        name for name in names if not name.startswith("_") and name not in ("ActorLocationTracker", "JobSupervisor")
    ]


def listed(head: Head, kind: str) -> list[dict[str, Any]]:
    """What the State API knows of actors, nodes or placement-groups."""
    said = head.ray("list", kind, "--format", "json", "--limit", "1000").stdout
    return json.loads(said[said.index("[") :]) if "[" in said else []


def until(condition: Callable[[], Any], what: str, seconds: float = SECONDS, pause: float = 0.2) -> Any:
    """The first true value of ``condition()``, asked again and again after ``pause`` seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(pause)
    return value


def command_line(process: psutil.Process) -> str:
    """Empty where the process has ended."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return " ".join(process.cmdline())
    return ""


def _end(process: psutil.Process) -> None:
    if not process.is_running():
        return
    family = [*process.children(recursive=True), process]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=15)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(alive, timeout=15)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _text(log: IO[str]) -> str:
    return Path(log.name).read_text()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
