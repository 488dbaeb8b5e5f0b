"""`python -m benchmarks.ray`: tests what `t2i-engine deploy ray` writes, on a Ray cluster on this machine.

Two replicas behind each of Ray's proxies take turns with `t2i-engine serve` with two workers. The client that makes the
load shares the processors with them, and compares every picture with the engine's. Needs the extra `ray`, and psutil.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import urlopen

import psutil
import yaml

from benchmarks.bars import Bar, Requests
from benchmarks.load import Load, closed_loop, closed_loop_of, get
from benchmarks.server import served
from t2i_engine.engine import MANY, Engine
from t2i_engine.errors import UserError

PROXIES: dict[str, dict[str, str]] = {
    "Python proxy": {},
    "HAProxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response"},
}
"""Ray's two proxies, with the environment of `ray start` that selects each."""
CONCURRENCIES = (1, 8, 32)
QUEUE, CROWD = 40, 120
"""Pictures that may wait in a replica, and clients: more than the queues of two replicas hold."""
ROUNDS = 3
KILLS, CLIENTS = 3, 8
SECONDS_TO_WAIT = 180.0
ADDRESS = "127.0.0.2"
"""The address of Ray's own traffic: Ray takes 127.0.0.1 for a mistake, and listens on the network instead."""
SOONER = {"upscale_delay_s": 2, "downscale_delay_s": 5, "look_back_period_s": 5}
"""Delays shorter than Ray's defaults of 30 s and 10 min."""


@dataclass(frozen=True)
class Cluster:
    """Ray on this machine, with the folder that `deploy ray` wrote."""

    process: psutil.Process
    folder: Path
    port: int
    """Where the app is served."""
    dashboard: int
    metrics: int

    def deploy(self, **autoscaling: float) -> float:
        """Gives Ray the folder's config with other autoscaling, and waits until it applies; returns the seconds."""
        config = yaml.safe_load((self.folder / "serve.yaml").read_text("utf-8"))
        config["http_options"] = {"host": "127.0.0.1", "port": self.port}
        config["applications"][0]["deployments"][0]["autoscaling_config"].update(autoscaling)
        file = self.folder.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(config), "utf-8")
        start = time.perf_counter()
        _run("serve", "deploy", file, "--address", f"http://127.0.0.1:{self.dashboard}")
        self.wait(lambda: self.running() == autoscaling["min_replicas"] and self._answers())
        return time.perf_counter() - start

    def running(self) -> int:
        """Replicas that Ray calls running; 0 while it deploys."""
        with suppress(OSError):
            url = f"http://127.0.0.1:{self.dashboard}/api/serve/applications/"
            with urlopen(url, timeout=10) as answer:
                (found,) = json.load(answer)["applications"].values() or [{}]
            if found.get("status") == "RUNNING":
                states = [replica["state"] for replica in found["deployments"]["Pictures"]["replicas"]]
                return states.count("RUNNING") if set(states) == {"RUNNING"} else 0
        return 0

    def replicas(self) -> list[psutil.Process]:
        """The replicas' processes."""
        return [child for child in self.process.children(recursive=True) if "ray::ServeReplica" in _command(child)]

    def memory(self) -> float:
        """The memory of all of Ray's processes in MiB, counting what they share once."""
        found = 0
        for child in self.process.children(recursive=True):
            with suppress(psutil.Error):
                found += child.memory_full_info().pss
        return found / 2**20

    def wait(self, done: Callable[[], bool]) -> None:
        """Raises `UserError` if it takes too long."""
        end = time.perf_counter() + SECONDS_TO_WAIT
        while not done():
            if time.perf_counter() > end:
                raise UserError(f"Ray was not ready within {SECONDS_TO_WAIT:g} s")
            time.sleep(0.5)

    def _answers(self) -> bool:
        return closed_loop_of(self.port, [get("/v2/health/ready")], 1, 1).answers[0].status == 200


@contextmanager
def cluster(folder: Path, environment: Mapping[str, str]) -> Iterator[Cluster]:
    """Starts Ray, and ends all of its processes at the end."""
    app, gcs, dashboard, metrics = _free_ports(4)
    paths = filter(None, [str(folder), os.environ.get("PYTHONPATH")])
    own = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}  # not 5: cores may be busy
    own |= {"PYTHONPATH": os.pathsep.join(paths), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as scratch:
        command = ["ray", "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2"]
        command += [f"--temp-dir={scratch}", f"--object-store-memory={100 << 20}", f"--node-ip-address={ADDRESS}"]
        command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}"]
        with (Path(scratch) / "log").open("w") as log:
            process = subprocess.Popen(command, env=os.environ | environment | own, stdout=log, stderr=log)
        started = Cluster(psutil.Process(process.pid), folder, app, dashboard, metrics)
        try:
            started.wait(lambda: _listens(dashboard))
            yield started
        finally:
            every = started.process.children(recursive=True)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_WAIT)
            _, left = psutil.wait_procs(every, timeout=10)
            for child in left:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()


def answers_as_the_server(ray: Cluster, requests: Requests) -> list[Bar]:
    """Pictures, health, ids, errors and metrics."""
    load = closed_loop_of(ray.port, requests.sent, 4, len(requests.sent))
    failed = sum(answer.status != 200 for answer in load.answers) + requests.wrong(load)
    bars = [Bar("requests that fail or return a wrong picture", f"{failed} of {len(load.answers)}", "0", not failed)]
    for path, expected in (("/v2/health/ready", 200), ("/v1/pictures/none.png", 404)):
        connection = http.client.HTTPConnection("127.0.0.1", ray.port, timeout=30)
        connection.request("GET", path, headers={"X-Request-Id": "mine"})
        answer = connection.getresponse()
        content, ids = json.load(answer), answer.headers.get_all("X-Request-Id")
        shaped = answer.status == 200 or set(content["error"]) == {"message", "type", "param", "code"}
        good = answer.status == expected and ids == ["mine"] and shaped
        bars.append(Bar(f"GET {path}", f"{answer.status}, ids {ids}", f"{expected}, in OpenAI's format, one id", good))
    drawn = 0.0

    def counted() -> bool:  # health checks carry metrics to Ray
        nonlocal drawn
        with urlopen(f"http://127.0.0.1:{ray.metrics}/metrics", timeout=10) as answer:
            lines = [line.decode() for line in answer if line.startswith(b"ray_t2i_pictures_drawn_total{")]
        drawn = sum(float(line.split()[-1]) for line in lines)
        return drawn >= len(load.answers) and len(lines) >= 2

    with suppress(UserError):
        ray.wait(counted)
    bars.append(
        Bar("pictures counted by Ray's metrics, over all replicas", f"{drawn:g}", f"{len(load.answers)}", counted())
    )
    return bars


def full(ray: Cluster, requests: Requests) -> list[Bar]:
    """More clients than may wait: pictures and refusals, nothing else."""
    load = closed_loop(ray.port, requests.sent, CROWD, lambda _, elapsed: elapsed < 4)
    refused = [answer for answer in load.answers if answer.status == 429]
    shaped = sum(b'"code":"queue_full"' in answer.content and "retry-after" in answer.headers for answer in refused)
    others = len(load.answers) - len(refused) - len(load.milliseconds()) + requests.wrong(load)
    found = (
        f"{len(load.milliseconds())} pictures, {len(refused)} rejections, {shaped} of them by the app, {others} other"
    )
    good = not others and 0 < shaped == len(refused)
    return [
        Bar(f"{CROWD} clients, queues of {QUEUE} in each replica", found, "only 200, or 429 in OpenAI's format", good)
    ]


def kills(ray: Cluster, requests: Requests) -> list[Bar]:
    """Kills replicas under load; failed requests are repeated afterwards."""
    done = threading.Event()
    back: list[float] = []

    def kill() -> None:
        for _ in range(KILLS):
            time.sleep(1.5)
            ray.replicas()[0].send_signal(signal.SIGKILL)
            start = time.perf_counter()
            ray.wait(lambda: ray.running() < 2)
            ray.wait(lambda: ray.running() == 2)
            back.append(time.perf_counter() - start)
        done.set()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    load = closed_loop(
        ray.port, requests.sent, CLIENTS, lambda _, elapsed: not done.is_set() and elapsed < KILLS * SECONDS_TO_WAIT
    )
    killer.join()
    failed = [answer for answer in load.answers if answer.status != 200]
    again = [requests.sent[answer.request] for answer in failed]
    retried = closed_loop_of(ray.port, again, 1, len(again)) if again else Load([], 1.0)
    lost = requests.wrong(load) + len(again) - len(retried.milliseconds())
    statuses = ", ".join(
        f"{count} × {status or 'no response'}" for status, count in Counter(a.status for a in failed).items()
    )
    slowest = max(load.milliseconds()) / 1000
    name = f"SIGKILL of a replica, {KILLS} times in {len(load.answers):,} requests of {CLIENTS} clients"
    return [
        Bar(f"{name}: failed requests", statuses or "0", f"≤ {CLIENTS} each time", len(failed) <= KILLS * CLIENTS),
        Bar(f"{name}: wrong pictures, and requests that fail again when retried", f"{lost}", "0", not lost),
        Bar(f"{name}: slowest request", f"{slowest:.1f} s", "≤ 10 s", slowest <= 10),
        Bar("time until two replicas run again, median", f"{median(back):.1f} s", "≤ 60 s", median(back) <= 60),
    ]


def scales(ray: Cluster, requests: Requests) -> list[Bar]:
    """From one replica to two under load, and back without."""
    ray.deploy(min_replicas=1, max_replicas=2, **SOONER)
    found: list[Load] = []

    def ask(done: Callable[[], bool]) -> None:
        found.append(closed_loop(ray.port, requests.sent, 16, lambda *_: not done()))

    two = threading.Event()
    loader = threading.Thread(target=ask, args=(two.is_set,), daemon=True)
    loader.start()
    start = time.perf_counter()
    try:
        ray.wait(lambda: ray.running() == 2)
        up = time.perf_counter() - start
        time.sleep(2)
    finally:
        two.set()
        loader.join()
    start, few = time.perf_counter(), threading.Event()
    loader = threading.Thread(
        target=lambda: found.append(closed_loop(ray.port, requests.sent, 1, lambda *_: not few.wait(0.05))), daemon=True
    )
    loader.start()
    try:
        ray.wait(lambda: ray.running() == 1)
    finally:
        few.set()
        loader.join()
    down = time.perf_counter() - start
    failed = sum(answer.status != 200 for load in found for answer in load.answers) + sum(map(requests.wrong, found))
    total = sum(len(load.answers) for load in found)
    return [
        Bar("scaling 1 → 2 replicas with 16 clients, 2 → 1 with one", f"{up:.0f} s, {down:.0f} s", "both", True),
        Bar("failed requests while scaling", f"{failed} of {total:,}", "0", not failed),
    ]


def speeds(ports: Mapping[str, int], requests: Requests, seconds: float) -> list[str]:
    """Rows of the table: requests per second and median latency at each concurrency, measured in turns."""
    rows = {name: f"| {name} |" for name in ports}
    for clients in CONCURRENCIES:
        loads: dict[str, list[Load]] = {name: [] for name in ports}
        for turn in range(ROUNDS + 1):  # the first one warms up
            for name, port in ports.items():
                load = closed_loop(port, requests.sent, clients, lambda _, elapsed: elapsed < seconds)
                if wrong := requests.wrong(load) + len(load.answers) - len(load.milliseconds()):
                    raise UserError(f"{name}: {wrong} of {len(load.answers)} pictures fail or differ")
                if turn:
                    loads[name].append(load)
        for name, found in loads.items():
            milliseconds = median(value for load in found for value in load.milliseconds())
            rows[name] += f" {median(load.rate() for load in found):.0f} ({milliseconds:.0f} ms) |"
    return list(rows.values())


def run(bundle: str, seconds: float) -> bool:
    """Measures and prints everything; returns whether every target was reached."""
    reached, rows = True, []

    def measured(bars: Sequence[Bar]) -> None:
        nonlocal reached
        for bar in bars:
            reached &= bar.reached
            print(bar, flush=True)

    with Engine.open(bundle, threads=1, expect=MANY) as engine, tempfile.TemporaryDirectory() as scratch:
        requests, folder = Requests(engine), Path(scratch) / "deployed"
        deploy: list[Any] = [sys.executable, "-m", "t2i_engine", "deploy", "ray", engine.bundle.folder, "--out", folder]
        _run(*deploy, "--min-replicas", 2, "--max-replicas", 2, "--queue", QUEUE, "--health-period", 2)
        for name, environment in PROXIES.items():
            print(f"\nRay, {name}", flush=True)
            start = time.perf_counter()
            with cluster(folder, environment) as ray:
                started, deployed = time.perf_counter() - start, ray.deploy(min_replicas=2, max_replicas=2)
                print(f"ready after {started:.0f} + {deployed:.0f} s (ray start, serve deploy)")
                measured(answers_as_the_server(ray, requests))
                with served(engine.bundle.folder, "--workers", 2) as server:
                    ports = {f"Ray, {name}": ray.port, "t2i-engine serve, alternating with it": server.port}
                    rows += speeds(ports, requests, seconds)
                print(f"memory of all processes: {ray.memory():.0f} MiB")
                measured([*full(ray, requests), *kills(ray, requests), *scales(ray, requests)])
    heads = " | ".join(f"concurrency {clients}" for clients in CONCURRENCIES)
    print("\n".join(["", f"| requests/s (p50 latency) | {heads} |", "|---|" + "---|" * len(CONCURRENCIES), *rows]))
    return reached


def _run(*command: object) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env=os.environ | {"PATH": path}
    )
    if done.returncode:
        raise UserError(f"{command[0]} failed: {(done.stdout + done.stderr)[-500:]}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures; exits with 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ray", description="Test t2i-engine deploy ray.")
    parser.add_argument("--bundle", default="birds", metavar="BUNDLE", help="name or folder (default: birds)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="seconds of each load (default: 2)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Ray is ended first
    try:
        reached = run(options.bundle, options.seconds)
    except UserError as error:
        parser.exit(2, f"error: {error.message}\n")
    parser.exit(0 if reached else 1)


if __name__ == "__main__":
    main()
