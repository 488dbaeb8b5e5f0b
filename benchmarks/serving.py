"""`python -m benchmarks.serving`: `t2i-engine serve` against the engine itself, under load, overload and failures.

The engine, called by as many threads as the server has workers, sets the standard: captions in, PNG files out. Engine
and servers take turns, round after round, on the same processors as the client that makes the load. Every picture is
compared with the engine's own.
"""

import argparse
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from matplotlib.figure import Figure

from benchmarks.bars import Bar, Requests
from benchmarks.load import Load, closed_loop, closed_loop_of, get, open_loop
from benchmarks.machine import LoadMeter, describe_machine
from benchmarks.server import SECONDS_TO_WAIT, Resources, Server, served
from t2i_engine.engine import MANY, Engine
from t2i_engine.errors import UserError
from t2i_engine.files import require_writable, write_atomically
from t2i_engine.serve.queue import LARGEST_BATCH
from training.provenance import working_commit

CONCURRENCIES = (1, 8, 32)
WORKERS = 2
"""Threads of the engine, threads of the server in one process, and replicas; each draws on one processor."""
ONE_PROCESS, TWO_REPLICAS = "one process", "two replicas"
STARTS = 5
OVERLOAD, QUEUE = 4, 256
KILLS, KILLED_REQUESTS = 5, 2_000
STOPS = 5
SAMPLES = 60
"""Taken during a soak."""


@dataclass(frozen=True)
class Round:
    """The engine and the servers, measured in turns."""

    bare_rate: float
    """Pictures per second."""
    bare_milliseconds: float
    """Median of one request."""
    loads: dict[str, dict[int, Load]]
    """By server and concurrency."""


def bare(engine: Engine, requests: Requests, threads: int, batch: int, seconds: float) -> float:
    """Pictures per second of the engine, called by `threads` at once for `batch` pictures each."""
    end = time.perf_counter() + seconds

    def draw(thread: int) -> int:
        drawn = 0
        while time.perf_counter() < end:
            caption, _ = requests.pictures[(thread + drawn) % len(requests.pictures)]
            for picture in engine.generate_all([caption], range(drawn, drawn + batch), batch_size=batch):
                picture.encoded("PNG", 0)
                drawn += 1
        return drawn

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        drawn = sum(pool.map(draw, range(threads)))
    return drawn / (time.perf_counter() - start)


def bare_milliseconds(engine: Engine, requests: Requests, seconds: float) -> float:
    """The median of one picture at a time."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        caption, seed = requests.pictures[len(found) % len(requests.pictures)]
        start = time.perf_counter()
        engine.generate(caption, seed).encoded("PNG", 0)
        found.append(1000 * (time.perf_counter() - start))
    return median(found)


def measure_rounds(
    engine: Engine, requests: Requests, servers: dict[str, Server], workers: int, rounds: int, seconds: float
) -> list[Round]:
    """The engine and all servers in turns, at every concurrency."""
    found = []
    for _ in range(rounds):
        rate = max(bare(engine, requests, workers, batch, seconds) for batch in (1, LARGEST_BATCH))
        alone = bare_milliseconds(engine, requests, seconds)
        loads = {
            name: {clients: server.load(requests.sent, clients, seconds) for clients in CONCURRENCIES}
            for name, server in servers.items()
        }
        found.append(Round(rate, alone, loads))
    return found


def throughput_bars(rounds: Sequence[Round], requests: Requests) -> list[Bar]:
    """Requests per second and latencies of both servers, as medians of rounds."""
    bars = []
    for name, least, overhead in ((ONE_PROCESS, 0.85, 1.0), (TWO_REPLICAS, 0.65, 3.0)):
        loads = [one.loads[name] for one in rounds]
        ratio = median(load[32].rate() / one.bare_rate for load, one in zip(loads, rounds, strict=True))
        rate = median(load[32].rate() for load in loads)
        found = f"{ratio:.2f} ({rate:.0f} against {median(one.bare_rate for one in rounds):.0f} requests/s)"
        throughput = f"{name}: throughput at concurrency 32, relative to the engine's"
        bars.append(Bar(throughput, found, f"≥ {least}", ratio >= least))
        extra = median(
            median(load[1].milliseconds()) - one.bare_milliseconds for load, one in zip(loads, rounds, strict=True)
        )
        alone = median(one.bare_milliseconds for one in rounds)
        latency = f"{name}: p50 latency at concurrency 1, above the engine's"
        found = f"{extra:+.2f} ms (engine: {alone:.2f} ms)"
        bars.append(Bar(latency, found, f"≤ +{overhead:g} ms", extra <= overhead))
        slowest = median(float(np.quantile(load[8].milliseconds(), 0.99)) for load in loads)
        most = median(3 * 8 / load[8].rate() * 1000 for load in loads)
        bound = f"≤ {most:.0f} ms (3 × concurrency / throughput)"
        bars.append(Bar(f"{name}: p99 latency at concurrency 8", f"{slowest:.0f} ms", bound, slowest <= most))
        every = [load for one in loads for load in one.values()]
        bars.append(_all_right(f"{name}: requests that fail or return a wrong picture", every, requests))
    return bars


def _all_right(name: str, loads: Sequence[Load], requests: Requests) -> Bar:
    total = sum(len(load.answers) for load in loads)
    failed = sum(answer.status != 200 for load in loads for answer in load.answers)
    failed += sum(map(requests.wrong, loads))
    return Bar(name, f"{failed} of {total:,}", "0", failed == 0)


def overload(server: Server, requests: Requests, rate: float, seconds: float) -> list[Bar]:
    """Four times what the server can do: only pictures and 429, in time, in constant memory."""
    server.load(requests.sent, 32, 2.0)
    before = server.resources().memory
    load = open_loop(server.port, requests.sent, OVERLOAD * rate, seconds)
    grown = server.resources().memory - before
    others = [answer for answer in load.answers if answer.status not in (200, 429)]
    refused = [answer for answer in load.answers if answer.status == 429]
    without = [answer for answer in refused if "retry-after" not in answer.headers]
    slowest = float(np.quantile(load.milliseconds(), 0.99))
    bound = 1000 * (QUEUE + 2 * LARGEST_BATCH) / load.rate()
    name, most = f"{OVERLOAD}× overload for {seconds:g} s", f"≤ {bound:.0f} ms (time to draw a full queue)"
    wrong = requests.wrong(load)
    found = f"{len(load.milliseconds()):,} pictures, {len(refused):,} rejections, {len(others)} other, {wrong} wrong"
    return [
        Bar(f"{name}: responses", found, "only 200, or 429 with Retry-After", not others and not without and not wrong),
        Bar(f"{name}: p99 latency of pictures", f"{slowest:.0f} ms", most, slowest <= bound),
        Bar(f"{name}: memory growth", f"{grown:+.1f} MiB, from {before:.0f} MiB", "≤ +10 MiB", grown <= 10),
    ]


def kills(server: Server, requests: Requests, times: int = KILLS, total: int = KILLED_REQUESTS) -> list[Bar]:
    """Kills a replica `times` times under load, over at least `total` requests."""
    done = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < times and not done.wait(1.0):
            with suppress(psutil.NoSuchProcess):
                if len(replicas := server.replicas()) == 2:  # the last one is back
                    replicas[len(killed) % 2].send_signal(signal.SIGKILL)
                    killed.append(replicas[len(killed) % 2].pid)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()

    def goes_on(sent: int, elapsed: float) -> bool:
        return sent < total or (len(killed) < times and elapsed < SECONDS_TO_WAIT)

    try:
        load = closed_loop(server.port, requests.sent, 8, goes_on)
    finally:
        done.set()
        killer.join()
    failed = sum(answer.status != 200 for answer in load.answers) + requests.wrong(load)
    slowest = max(answer.milliseconds for answer in load.answers)
    name = f"SIGKILL of a replica, {len(killed)} times in {len(load.answers):,} requests"
    return [
        Bar(f"{name}: failed requests", f"{failed}", "0", failed == 0 and len(killed) == times),
        Bar(f"{name}: slowest request", f"{slowest / 1000:.2f} s", "≤ 2 s", slowest <= 2000),
    ]


def terminations(bundle: Path, arguments: Sequence[object], requests: Requests, times: int = STOPS) -> list[Bar]:
    """SIGTERM under load, several times: every request that the server accepted, by its own log, must be answered."""
    unanswered, lost, seconds, codes = 0, 0, [], set()

    def stop(process: subprocess.Popen[str]) -> None:
        time.sleep(1.5)
        start = time.perf_counter()
        process.terminate()
        codes.add(process.wait(SECONDS_TO_WAIT))
        seconds.append(time.perf_counter() - start)

    for _ in range(times):
        with served(bundle, *arguments) as server:
            stopper = threading.Thread(target=stop, args=(server.process,))
            stopper.start()
            load = server.load(requests.sent, 16, 3.5)
            stopper.join()
        logged = [line for line in server.lines if " '/v1/pictures/" in line]
        answered = [answer for answer in load.answers if answer.status == 200]
        unanswered += len(logged) - len(answered)
        lost += sum(" 200 " not in line for line in logged) + requests.wrong(load)
    exits = ", ".join(map(str, sorted(codes)))
    found = f"{unanswered + lost} requests unanswered, exit code {exits} within {max(seconds):.1f} s"
    good = not unanswered and not lost and codes == {0} and max(seconds) <= 10
    return [Bar(f"SIGTERM under load, {times} times", found, "0 unanswered, exit code 0 within 10 s", good)]


def not_modified(server: Server, requests: Requests, seconds: float) -> list[Bar]:
    """Requests for pictures that the client already has."""
    first = closed_loop_of(server.port, requests.sent, 4, len(requests.sent))
    tags = {answer.request: answer.headers["etag"] for answer in first.answers}
    asks = [get(target, {"If-None-Match": tags[number]}) for number, target in enumerate(requests.targets)]
    before = _drawn(server)
    load = server.load(asks, 8, seconds)
    drawn, rate, others = _drawn(server) - before, load.rate(304), len(load.answers) - len(load.milliseconds(304))
    found = f"{rate:,.0f} requests/s, {others} responses other than 304, {drawn:g} pictures drawn"
    good = rate >= 1000 and not others and not drawn
    return [Bar("unchanged pictures (If-None-Match)", found, "≥ 1,000 requests/s, all 304, none drawn", good)]


def _drawn(server: Server) -> float:
    text = closed_loop_of(server.port, [get("/metrics")], 1, 1).answers[0].content.decode()
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("t2i_pictures_drawn_total{"))


def starts(bundle: Path, arguments: Sequence[object]) -> list[Bar]:
    """From the command to readiness."""
    found = []
    for _ in range(STARTS):
        with served(bundle, *arguments) as server:
            found.append(server.seconds_to_ready)
    return [Bar(f"time to ready, median of {STARTS} starts", f"{median(found):.2f} s", "< 1.5 s", median(found) < 1.5)]


def soak(server: Server, requests: Requests, seconds: float) -> tuple[list[Bar], list[Resources]]:
    """A long load that includes refused requests: memory, files and threads must not grow."""
    asks = [*requests.sent, get("/v1/pictures/none.png"), get(requests.targets[0] + "&seed=-1"), get("/nowhere")]
    samples: list[Resources] = []
    failed = total = 0
    for _ in range(SAMPLES):
        load = server.load(asks, 8, seconds / SAMPLES)
        total += len(load.answers)
        failed += sum(answer.status not in (200, 400, 404) for answer in load.answers) + requests.wrong(load)
        samples.append(server.resources())
    third = SAMPLES // 3
    bars = [Bar(f"soak test of {seconds / 60:g} min: failed requests", f"{failed} of {total:,}", "0", not failed)]
    for key, name, most, unit in (
        ("memory", "memory", 5.0, " MiB"),
        ("files", "open files", 0, ""),
        ("threads", "threads", 0, ""),
    ):
        values = [float(getattr(sample, key)) for sample in samples]
        early, late = median(values[third : 2 * third]), median(values[2 * third :])
        found = f"{early:.0f} → {late:.0f}{unit}"
        title = f"soak test: median {name}, middle → last third"
        bars.append(Bar(title, found, f"≤ +{most:g}{unit}", late - early <= most))
    return bars, samples


def plot(rounds: Sequence[Round]) -> bytes:
    """Latencies by percentile, as SVG."""
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    shares = np.linspace(0, 1, 201)
    panels = figure.subplots(1, len(CONCURRENCIES), sharex=True)
    for axes, clients in zip(panels, CONCURRENCIES, strict=True):
        for name in rounds[0].loads:
            every = [value for one in rounds for value in one.loads[name][clients].milliseconds()]
            axes.plot(100 * shares, np.quantile(every, shares), label=name)
        axes.set(title=f"concurrency {clients}", xlabel="percentile", ylim=(0, None), xlim=(0, 100))
    panels[0].axhline(median(one.bare_milliseconds for one in rounds), color="grey", ls="--", label="engine")
    panels[0].set_ylabel("latency, ms")
    panels[0].legend(frameon=False, fontsize="small")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def as_markdown(bars: Sequence[Bar], conditions: str) -> str:
    """The report."""
    about = (
        "`python -m benchmarks.serving` compares `t2i-engine serve`, in one process and in two replicas, with the "
        "engine called directly: captions in, PNG files out."
    )
    lines = ["# Server benchmark", "", about, "", "| | measured | target | |", "| --- | --- | --- | --- |"]
    lines += [f"| {bar.name} | {bar.found} | {bar.bar} | {'met' if bar.reached else '**missed**'} |" for bar in bars]
    return "\n".join([*lines, "", "![Latency by percentile](latency.svg)", "", conditions, ""])


def run(options: argparse.Namespace) -> None:
    """Measures everything and writes the report."""
    meter = LoadMeter()
    time.sleep(1)
    before, commit = meter.read(), working_commit() or "unknown"
    bars: list[Bar] = []

    def measured(found: Sequence[Bar]) -> None:
        for bar in found:
            print(bar, file=sys.stderr)
        bars.extend(found)

    with ExitStack() as stack:
        engine = stack.enter_context(Engine.open(options.bundle, threads=1, expect=MANY))
        folder, requests = engine.bundle.folder, Requests(engine)
        chosen = engine.selection.format
        same: list[object] = ["--backend", chosen.backend, "--precision", chosen.precision]
        measured(starts(folder, same))
        in_process = stack.enter_context(served(folder, *same, "--workers", WORKERS, "--queue", QUEUE))
        replicas = stack.enter_context(served(folder, *same, "--replicas", WORKERS))
        servers = {ONE_PROCESS: in_process, TWO_REPLICAS: replicas}
        for server in servers.values():
            server.load(requests.sent, 32, 2.0)
        rounds = measure_rounds(engine, requests, servers, WORKERS, options.rounds, options.seconds)
        measured(throughput_bars(rounds, requests))
        measured(not_modified(in_process, requests, options.seconds))
        rate = median(one.loads[ONE_PROCESS][32].rate() for one in rounds)
        measured(overload(in_process, requests, rate, options.overload))
        measured(kills(replicas, requests))
        measured(terminations(folder, same, requests))
        during = meter.read()
        samples: list[Resources] = []
        if options.soak:
            found, samples = soak(in_process, requests, options.soak)
            measured(found)
    conditions = (
        f"`{engine.bundle.name}`, {engine.selection}, {WORKERS} single-threaded workers; "
        f"{describe_machine().identity}; commit {commit[:12]}. Comparisons with the engine are medians of "
        f"{options.rounds} rounds, with {options.seconds:g} s for each load. The client runs on the same processors. "
        f"The engine is called from {WORKERS} threads, in batches of 1 or {LARGEST_BATCH}, whichever is faster. Other "
        f"processes used {before:.2f} processors before the measurement and {during:.2f} during it."
    )
    advice = "choose another --out"
    write_atomically(options.out / "report.md", as_markdown(bars, conditions).encode(), advice)
    write_atomically(options.out / "latency.svg", plot(rounds), advice)
    content = {"conditions": conditions, "bars": list(map(asdict, bars)), "soak": list(map(asdict, samples))}
    write_atomically(options.out / "report.json", json.dumps(content, indent=1, ensure_ascii=False).encode(), advice)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and writes report.md, report.json and latency.svg."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="Measure t2i-engine serve.")
    parser.add_argument("--bundle", default="birds", metavar="BUNDLE", help="name or folder (default: birds)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="seconds of each load (default: 4)")
    parser.add_argument("--overload", type=float, default=20.0, metavar="S", help="seconds of overload (default: 20)")
    parser.add_argument(
        "--soak", type=float, default=600.0, metavar="S", help="seconds of the soak test; 0 skips it (default: 600)"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/serving"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds: 1 or more expected")
    if options.seconds <= 0:
        parser.error("--seconds: more than 0 expected")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are ended first
    try:
        require_writable(options.out, "choose another --out")
        run(options)
    except UserError as error:
        parser.exit(2, f"error: {error.message}\n")


if __name__ == "__main__":
    main()
