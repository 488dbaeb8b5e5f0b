"""`t2i-engine serve`: bundles over HTTP."""

import os
import signal
import stat
import sys
from contextlib import closing
from pathlib import Path

import click

from t2i_engine.cli import backend_options, exact_words_option, progress
from t2i_engine.errors import OptionError, needs_extra, quoted

LONGEST_KEY = 1_000


@click.command(epilog="Example:  t2i-engine serve birds --port 8000")
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...")
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, metavar="N", help="Port to listen on; 0: any free port."
)
@backend_options
@click.option("--workers", type=int, metavar="N", help="Threads that draw.  [default: all processors]")
@click.option(
    "--replicas", type=int, default=0, metavar="N", help="Draw in N processes, which are replaced if they die."
)
@click.option("--queue", type=click.IntRange(10, 100_000), default=256, metavar="N", help="Pictures that may wait.")
@click.option("--deadline", type=click.FloatRange(0.001, 600), default=30.0, metavar="S", help="Longest wait, seconds.")
@click.option("--resize", is_flag=True, help="Resize pictures to the size that a request asks for.")
@exact_words_option
@click.option("--api-key-file", type=Path, metavar="FILE", help="A key that requests must carry.")
@click.option("--allow-origin", multiple=True, metavar="URL", help="Let web pages from URL use the API; repeatable.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", help="Format of the log, a line per request."
)
@click.option("--log-captions", is_flag=True, help="Log captions too.")
def serve(
    bundles: tuple[str, ...],
    host: str,
    port: int,
    backend: str,
    precision: str,
    device: str,
    workers: int | None,
    replicas: int,
    queue: int,
    deadline: float,
    resize: bool,
    exact_words: bool,
    api_key_file: Path | None,
    allow_origin: tuple[str, ...],
    log_format: str,
    log_captions: bool,
) -> None:
    """Serve each BUNDLE (birds, if none is given) over HTTP, with OpenAI's images API and a page to try it."""
    with needs_extra("t2i-engine serve", "serve"):
        from t2i_engine.serve.server import LOOPBACK, bind, run
        from t2i_engine.serve.service import Service, Settings

    key = None if api_key_file is None else _read_key(api_key_file)
    limits = workers, replicas, queue, deadline
    settings = Settings(backend, precision, device, *limits, resize, key, allow_origin, log_captions, exact_words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up; uvicorn takes over later
    with bind(host, port) as bound, closing(Service.open(bundles or ("birds",), settings)) as service:
        for model in service.catalogue.models.values():
            progress(f"bundle {model.name}@{model.digest}: {model.runs_as}")
            if model.bundle.license:
                progress(f"bundle {model.name}: {model.bundle.license}")
        if host not in LOOPBACK and key is None:
            progress(f"warning: anyone who reaches {host} can draw; set --api-key-file")
        address = f"[{host}]" if ":" in host else host
        listening = f"listening on http://{address}:{bound.getsockname()[1]}"
        run(service, bound, log_format, lambda: progress(listening))


def _read_key(file: Path) -> str:
    try:
        with file.open(encoding="ascii") as opened:
            if os.fstat(opened.fileno()).st_mode & (stat.S_IRWXO):
                progress(f"warning: everyone on this machine can read {file}: chmod 600")
            key = opened.read(LONGEST_KEY + 1).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not ASCII"
        raise OptionError(f"--api-key-file {quoted(str(file))} cannot be read ({reason})") from None
    if not key or len(key) > LONGEST_KEY or not key.isprintable():
        raise OptionError(f"--api-key-file {quoted(str(file))} holds no key; one line expected")
    return key
