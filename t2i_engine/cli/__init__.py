"""The command line, `t2i-engine`: one module per command, imported when the command is called.

Commands parse, call one function and print: results to standard output, log and progress to standard error. Only this
package knows click, and only this module turns errors into exit codes.
"""

import logging
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

import click
from click.exceptions import NoArgsIsHelpError

from t2i_engine.errors import Interrupted, OptionError, ParityError, UserError, closest, quoted

if TYPE_CHECKING:
    from t2i_engine.engine import Engine

COMMANDS = (
    "generate",
    "interpolate",
    "serve",
    "info",
    "verify",
    "train",
    "evaluate",
    "data",
    "export",
    "build",
    "push",
    "deploy",
    "benchmark",
    "convert-dfgan",
    "migrate",
    "cache",
)

MOST_SEEDS = 100_000

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


class _Commands(click.Group):
    """Imports a command when it is asked for, and reports every error in one line, without click's usage."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"t2i_engine.cli.{name}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            meant = [f"generate {shlex.quote(name)}"] if " " in name else closest(name, COMMANDS)
            suggestion = f" Did you mean: t2i-engine {meant[0]}?" if meant else ""
            ctx.fail(f"No such command {quoted(name)}.{suggestion}")
        return super().resolve_command(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        with _exit_codes():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        with _exit_codes():
            return super().invoke(ctx)


@contextmanager
def _exit_codes() -> Iterator[None]:
    try:
        yield
    except NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "t2i-engine"
        raise _Failure(f"{error.format_message()} See {command} --help.", 2) from None
    except UserError as error:
        raise _Failure(error.message, 1 if isinstance(error, ParityError) else 2) from None
    except Interrupted as error:
        raise click.exceptions.Exit(error.exit_code) from None


class _Failure(click.ClickException):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="t2i-engine", prog_name="t2i-engine")
def main() -> None:
    """Draw pictures from captions, in milliseconds."""
    log = logging.getLogger("t2i_engine")
    log.setLevel(logging.INFO)
    log.handlers = [_StandardError()]
    log.propagate = False


def progress(line: str) -> None:
    """Prints a line to standard error."""
    click.echo(line, err=True)


def introduce(engine: "Engine", *requested: str) -> None:
    """Prints what `auto` chose, if it is one of the `requested` names, and the bundle's terms, if it has any."""
    if "auto" in requested:
        progress(f"bundle {engine.bundle.name}: auto chose {engine.selection}")
    if engine.bundle.license:
        progress(f"bundle {engine.bundle.name}: {engine.bundle.license}")


def _together(*options: Decorator) -> Decorator:
    """Adds several options; --help lists them in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


truncation_option = click.option(
    "--truncation", type=float, default=1.0, metavar="X", help="In (0, 1]; lower values trade variety for fidelity."
)
exact_words_option = click.option(
    "--exact-words", is_flag=True, help="Ignore unknown words instead of reading them as near known ones."
)
backend_options = _together(
    click.option("--backend", default="auto", metavar="NAME", help="See t2i-engine info."),
    click.option("--precision", default="auto", metavar="NAME", help="See t2i-engine info."),
    click.option("--device", default="auto", metavar="NAME", help="cpu or cuda."),
)
engine_options = _together(
    click.option("--bundle", default="birds", metavar="NAME|DIR|hf:…", help="A name, a folder or hf:OWNER/NAME."),
    truncation_option,
    backend_options,
    click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: all processors]"),
    exact_words_option,
)
"""The options of commands that draw: which bundle, with which truncation, on which backend."""


def parse_seeds(text: str) -> list[int]:
    """The seeds of `0,2,5-10`, in order. Raises `OptionError` if it is malformed or out of range."""
    from t2i_engine.latents import check_seed

    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,20})\s*(?:-\s*([0-9]{1,20})\s*)?", part)
        if not match:
            raise OptionError(f"seeds {quoted(text)} cannot be read; expected numbers and ranges such as 0,2,5-10")
        first, last = check_seed(int(match[1])), check_seed(int(match[2] or match[1]))
        if last < first:
            raise OptionError(f"the range of seeds {quoted(part)} is empty; write {last}-{first}")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise OptionError(f"seeds {quoted(text)} are more than {MOST_SEEDS:,}; draw them in several runs")
        seeds += range(first, last + 1)
    return seeds


class _StandardError(logging.Handler):
    """Prints log messages for people."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        progress(prefix + record.getMessage())
