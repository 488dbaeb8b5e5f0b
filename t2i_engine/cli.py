"""The command line, `t2i-engine`: each command parses, calls one function and prints.

Results go to standard output, log and warnings to standard error. What a command needs is imported inside it, so that
the others start at once.
"""

import json
import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.exceptions import NoArgsIsHelpError

from t2i_engine.cli_benchmark import benchmark
from t2i_engine.errors import CaptionError, MissingExtra, OptionError, ParityError, UserError, quoted

if TYPE_CHECKING:
    from t2i_engine.pictures import Picture

MOST_SEEDS = 100_000
MOST_IN_GRID = 1024


def parse_seeds(text: str) -> list[int]:
    """The seeds of `0,2,5-10`, in order. Raises `OptionError` where it cannot be read or is out of range."""
    from t2i_engine.latents import check_seed

    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,20})\s*(?:-\s*([0-9]{1,20})\s*)?", part)
        if not match:
            raise OptionError(f"seeds {quoted(text)} cannot be read; numbers and ranges such as 0,2,5-10 expected")
        first, last = check_seed(int(match[1])), check_seed(int(match[2] or match[1]))
        if last < first:
            raise OptionError(f"the range of seeds {quoted(part)} is empty; write {last}-{first}")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise OptionError(f"seeds {quoted(text)} are more than {MOST_SEEDS:,}; draw them in several runs")
        seeds += range(first, last + 1)
    return seeds


class _OneLineErrors(click.Group):
    """Says what is wrong with a command line in one line, without click's usage lines before it."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """As click's, for the group's own options."""
        with _one_line_errors():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """As click's, for the commands and their options."""
        with _one_line_errors():
            return super().invoke(ctx)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "t2i-engine"
        raise _Failure(f"{error.format_message()} See {command} --help.", 2) from None
    except UserError as error:
        raise _Failure(error.message, 1 if isinstance(error, ParityError) else 2) from None


class _Failure(click.ClickException):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="t2i-engine", prog_name="t2i-engine")
def main() -> None:
    """Draw pictures from captions, in milliseconds."""
    log = logging.getLogger("t2i_engine")
    log.setLevel(logging.INFO)
    log.handlers = [_StandardError()]
    log.propagate = False


main.add_command(benchmark)


@main.command(epilog='Example:  t2i-engine generate "a yellow bird" --seeds 0-7 --grid')
@click.argument("captions", nargs=-1, metavar="CAPTION...")
@click.option(
    "--bundle", default="birds", show_default=True, metavar="NAME|DIR", help="An embedded bundle or a folder."
)
@click.option(
    "--seeds", type=parse_seeds, default="0", show_default=True, metavar="SEEDS", help="One picture per seed: 0,2,5-10."
)
@click.option(
    "--truncation", type=float, default=1.0, show_default=True, metavar="X", help="In (0, 1]; below 1: less variety."
)
@click.option("--backend", default="auto", show_default=True, metavar="NAME", help="See t2i-engine info.")
@click.option("--precision", default="auto", show_default=True, metavar="NAME", help="See t2i-engine info.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="cpu or cuda.")
@click.option("--threads", type=int, metavar="N", help="Threads on the CPU.  [default: every processor]")
@click.option("--captions-file", type=Path, metavar="FILE", help="More captions: UTF-8, one a line.")
@click.option("--batch-size", type=int, default=16, show_default=True, metavar="N", help="Pictures drawn at once.")
@click.option(
    "--out", default=".", show_default=True, metavar="PATH", help="A folder, or a file for one picture or a grid."
)
@click.option("--grid", "as_grid", is_flag=True, help="All pictures in one file, a row per caption.")
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def generate(
    captions: tuple[str, ...],
    bundle: str,
    seeds: list[int],
    truncation: float,
    backend: str,
    precision: str,
    device: str,
    threads: int | None,
    captions_file: Path | None,
    batch_size: int,
    out: str,
    as_grid: bool,
    as_json: bool,
) -> None:
    """Draw each CAPTION once per seed.

    The paths of the files are printed.
    """
    from t2i_engine.engine import Engine
    from t2i_engine.user_files import Destination, read_captions

    texts = [*captions, *(read_captions(captions_file) if captions_file else ())]
    if not texts:
        raise CaptionError('no caption given; describe a picture: t2i-engine generate "a yellow bird"')
    count = len(texts) * len(seeds)
    if as_grid and count > MOST_IN_GRID:
        raise OptionError(f"{count:,} pictures are too many for a grid; {MOST_IN_GRID:,} at most expected")
    destination = Destination.parse(out, 1 if as_grid else count)
    engine = Engine.open(bundle, backend, precision, device, threads)
    pictures = engine.generate_all(texts, seeds, truncation, batch_size)
    if "auto" in (backend, precision, device):
        click.echo(f"bundle {engine.bundle.name}: auto chose {engine.selection}", err=True)
    made = destination.save(pictures, as_grid)
    if as_json:
        chosen = {
            "backend": engine.selection.format.backend,
            "precision": engine.selection.format.precision,
            "device": engine.selection.device,
        }
        click.echo(json.dumps([_described(picture, path) | chosen for picture, path in made], indent=2))
    else:
        for path, _ in groupby(path for _, path in made):
            click.echo(bytes(path))  # as the file system knows it, whatever the terminal's encoding


@main.command(epilog="Example:  t2i-engine train training/configs/birds.yaml --out runs/birds")
@click.argument("config", type=Path, metavar="CONFIG.yaml")
@click.option("--out", type=Path, metavar="FOLDER", help="The run's folder.  [default: runs/NAME]")
@click.option("--resume", is_flag=True, help="Go on from the folder's last checkpoint.")
@click.option("--init", "initial", metavar="CHECKPOINT|BUNDLE", help="Start from these; grown to larger pictures.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change the config: gan.steps=1000.")
@click.option("--dry-run", is_flag=True, help="Print the config, sizes, memory and FLOPs, and write nothing.")
def train(
    config: Path, out: Path | None, resume: bool, initial: str | None, assignments: tuple[str, ...], dry_run: bool
) -> None:
    """Train the model that CONFIG.yaml describes.

    The path of its checkpoint is printed. Ctrl-C finishes the step and saves; the exit code is 130 then.
    """
    try:
        from training.distributed import is_first
        from training.run import configured, train_files
    except ModuleNotFoundError as error:
        raise MissingExtra("t2i-engine train", f"the package {error.name}", "train") from None

    if dry_run:
        from training.dry_run import describe

        click.echo(describe(configured(config, initial, assignments)), nl=False)
        return
    checkpoint = train_files(config, out, resume, initial, assignments)
    if is_first():
        click.echo(checkpoint)


@main.command("convert-dfgan", epilog="Example:  t2i-engine convert-dfgan ... --out model.pt, then t2i-engine export")
@click.option("--generator", type=Path, required=True, metavar="FILE", help="netG_*.pth or state_epoch_*.pth.")
@click.option("--text-encoder", type=Path, required=True, metavar="FILE", help="text_encoder*.pth.")
@click.option("--captions", type=Path, required=True, metavar="FILE", help="captions.pickle or captions_DAMSM.pickle.")
@click.option("--out", type=Path, required=True, metavar="FILE", help="The checkpoint to write, such as model.pt.")
def convert_dfgan(generator: Path, text_encoder: Path, captions: Path, out: Path) -> None:
    """Make a checkpoint of DF-GAN's public files, of either generation.

    Nothing in the files is executed. The checkpoint's path is printed.
    """
    try:
        from training.dfgan import convert_dfgan
    except ModuleNotFoundError as error:
        raise MissingExtra("t2i-engine convert-dfgan", f"the package {error.name}", "export") from None

    click.echo(bytes(convert_dfgan(generator, text_encoder, captions, out)))
    _progress(f"Try:  t2i-engine export {shlex.quote(str(out))} --out {shlex.quote(str(out.with_suffix('')))}")


@main.command(epilog="Example:  t2i-engine evaluate birds --data synthbirds --metrics fid,attributes --count 5000")
@click.argument("model", metavar="BUNDLE|CHECKPOINT")
@click.option(
    "--data", default="synthbirds", show_default=True, metavar="SOURCE", help="Its test split: synthbirds, cub:PATH, …"
)
@click.option(
    "--metrics",
    default="fid,kid",
    show_default=True,
    metavar="NAMES",
    help="Of fid, fid-floor, kid, r-precision, attributes, diversity.",
)
@click.option(
    "--count", type=int, default=30_000, show_default=True, metavar="N", help="Captions drawn; the paper's number."
)
@click.option("--encoders", metavar="CHECKPOINT", help="Whose encoders judge r-precision.  [default: the CHECKPOINT's]")
@click.option("--backend", default="auto", show_default=True, metavar="NAME", help="See t2i-engine info.")
@click.option("--precision", default="auto", show_default=True, metavar="NAME", help="See t2i-engine info.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="cpu or cuda.")
@click.option("--record", "recorded", is_flag=True, help="Write the findings into BUNDLE's manifest, too.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON instead of Markdown.")
def evaluate(
    model: str,
    data: str,
    metrics: str,
    count: int,
    encoders: str | None,
    backend: str,
    precision: str,
    device: str,
    recorded: bool,
    as_json: bool,
) -> None:
    """Measure how good a model's pictures are.

    Captions of the test split are drawn as BUNDLE's files or CHECKPOINT draw them, and compared with the real pictures.
    """
    try:
        from training.evaluation import evaluate as evaluation
    except ModuleNotFoundError as error:
        raise MissingExtra("t2i-engine evaluate", f"the package {error.name}", "evaluate") from None

    bundle = evaluation.open_writable_bundle(model) if recorded else None
    opened = evaluation.open_model(model, backend, precision, device)
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    found = evaluation.evaluate(opened, data, names, encoders or model, count)
    if bundle:
        evaluation.add_to_manifest(bundle, found)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_markdown())


@main.group()
def data() -> None:
    """Look at data sets."""


@data.command(epilog="Example:  t2i-engine data check cub:data/birds")
@click.argument("source", metavar="SOURCE")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON, with every problem by name.")
@click.pass_context
def check(context: click.Context, source: str, as_json: bool) -> None:
    """Say what SOURCE holds, and what is wrong with it.

    SOURCE is cub:PATH, cub+attributes:PATH, coco:PATH, folder:PATH, webdataset:PATTERN, synthbirds, or a path that is
    recognised by what it holds. Every picture is decoded (500 are drawn of synthbirds). Pictures that are broken,
    absent or without captions are named; training leaves them out. The exit code is 0 where SOURCE can be trained
    with, even so; 1 where it cannot: no usable picture to train with, or captions that are not UTF-8; 2 where there
    is no such data set.
    """
    try:
        from training.data.check import check
    except ModuleNotFoundError as error:
        raise MissingExtra("t2i-engine data", f"the package {error.name}", "train") from None

    found = check(source, _progress)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())
    context.exit(0 if found.usable else 1)


@main.command(epilog="Example:  t2i-engine export runs/birds/checkpoint.pt --out birds")
@click.argument("source", metavar="CHECKPOINT|BUNDLE|paper")
@click.option("--out", type=Path, metavar="DIR", help="A new bundle's folder; without it, formats are added to BUNDLE.")
@click.option("--name", metavar="NAME", help="The bundle's name.  [default: its folder's]")
@click.option(
    "--formats",
    default="onnx",
    show_default=True,
    metavar="NAMES",
    help="onnx,onnx-int8,… or all that this machine can make.",
)
@click.option("--no-fold", is_flag=True, help="Keep upsample + convolution as trained: slower, the same pictures.")
@click.option("--captions-file", type=Path, metavar="FILE", help="Captions to calibrate int8 with: UTF-8, one a line.")
@click.pass_context
def export(
    context: click.Context,
    source: str,
    out: Path | None,
    name: str | None,
    formats: str,
    no_fold: bool,
    captions_file: Path | None,
) -> None:
    """Make a bundle, or add formats to one.

    Every format is compared with PyTorch first. One that is off by too much is left out, and the exit code is 1; where
    nothing is left, nothing is written. The source `paper` is a network of the paper's size with random weights, for
    measurements. The bundle's path is printed.
    """
    try:
        from export.pipeline import export_bundle
    except ModuleNotFoundError as error:
        raise MissingExtra("t2i-engine export", f"the package {error.name}", "export") from None

    from t2i_engine.parity import GATE, GateSize
    from t2i_engine.user_files import read_captions

    size = context.find_object(GateSize) or GATE
    captions = read_captions(captions_file) if captions_file else ()
    exported = export_bundle(source, out, name, _progress, formats, not no_fold, captions, size)
    click.echo(bytes(exported.folder))
    bundle = shlex.quote(str(exported.folder))
    _progress(f'Try:  t2i-engine verify {bundle}\n      t2i-engine generate "a yellow bird" --bundle {bundle}')
    if exported.rejected:
        raise click.ClickException("; ".join(f"left out {name}: {why}" for name, why in exported.rejected.items()))


@main.command(epilog="Example:  t2i-engine build birds --formats tensorrt-fp16")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--formats", default="all", show_default=True, metavar="NAMES", help="Of TensorRT, with commas between.")
def build(bundle: str, formats: str) -> None:
    """Build TensorRT's engines of BUNDLE for this machine's GPU.

    They are kept in this machine's cache, and compared with the bundle's reference. Neither PyTorch nor ONNX is needed.
    """
    from t2i_engine.backend_selection import backend_status
    from t2i_engine.backends import find_backend
    from t2i_engine.bundle import Bundle
    from t2i_engine.formats import find
    from t2i_engine.tensorrt.engines import build_engines

    opened = Bundle.open(bundle)
    named = None if formats == "all" else [find(name.strip()).name for name in formats.split(",")]
    rows = [
        row
        for row in opened.formats
        if hasattr(find_backend(row.backend), "needs_build") and (named is None or row.name in named)
    ]
    installed = [row for row in rows if not backend_status(row.backend).lacks]
    build_engines(opened, rows if named or not installed else installed)


@main.command(epilog="Example:  t2i-engine verify birds")
@click.argument("bundle", metavar="BUNDLE")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def verify(context: click.Context, bundle: str, as_json: bool) -> None:
    """Check BUNDLE, a name or a folder.

    Its files are compared with the manifest, and what its formats compute with the stored reference and, where PyTorch
    is installed, with PyTorch. The last line is PASSED, or FAILED with exit code 1.
    """
    from t2i_engine.bundle import Bundle
    from t2i_engine.parity import GATE, GateSize
    from t2i_engine.verify import verify

    found = verify(Bundle.open(bundle), _progress, context.find_object(GateSize) or GATE)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())
    context.exit(0 if found.passed else 1)


@main.command(epilog="Example:  t2i-engine info birds")
@click.argument("bundle", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def info(bundle: str | None, as_json: bool) -> None:
    """Show the backends, and what a bundle holds.

    For each backend: what it lacks, and which one is chosen. BUNDLE is a name or a folder.
    """
    from t2i_engine.bundle import Bundle
    from t2i_engine.info import report

    found = report(Bundle.open(bundle) if bundle is not None else None)
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())


def _progress(line: str) -> None:
    click.echo(line, err=True)


def _described(picture: "Picture", path: Path) -> dict[str, object]:
    return {
        "path": str(path),
        "caption": picture.caption,
        "seed": picture.seed,
        "truncation": picture.truncation,
        "bundle": picture.bundle,
        "unknown": picture.unknown,
        "milliseconds": round(picture.milliseconds, 3),
    }


class _StandardError(logging.Handler):
    """Prints the log for a person; standard output stays free for results."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        click.echo(prefix + record.getMessage(), err=True)
