"""The README keeps its promises: its table is the table of formats, its commands and files exist."""

import re
import shlex
from pathlib import Path

import click
import pytest

from t2i_engine.cli import main
from t2i_engine.formats import FORMATS, Differences

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def allowed(tolerance: Differences) -> str:
    bounds = [
        f"sentence {tolerance.sentence:.0e}".replace("e-0", "e-") if tolerance.sentence is not None else "",
        f"image {tolerance.image:.0e}".replace("e-0", "e-") if tolerance.image is not None else "",
        f"pixels {tolerance.pixels} level{'s' if tolerance.pixels != 1 else ''}"
        if tolerance.pixels is not None
        else "",
        *(
            f"{name} {100 * share:g} %"
            for name, share in (
                ("sentence", tolerance.sentence_share),
                ("set", tolerance.frechet_share),
                ("mean", tolerance.mean_share),
                ("worst", tolerance.worst_share),
            )
            if share is not None
        ),
    ]
    return ", ".join(bound for bound in bounds if bound)


def test_the_table_of_formats_is_the_table() -> None:
    rows = [
        " | ".join(
            [
                f"| `{row.name}`",
                row.precision,
                row.backend,
                ", ".join(sorted(row.devices)),
                allowed(row.tolerance) + " |",
            ]
        )
        for row in sorted(FORMATS, key=lambda row: row.name)
    ]
    shown = [line for line in README.splitlines() if re.match(r"\| `[a-z0-9-]+` \| (fp32|fp16|bf16|int8) \|", line)]
    assert shown == rows, "README's table should be:\n" + "\n".join(rows)


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [part.split("#")[0].strip() for block in blocks for line in block.splitlines() for part in line.split("&&")]
    return [line for line in lines if line.startswith("t2i-engine ")]


@pytest.mark.parametrize("line", commands())
def test_every_command_and_option_exists(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = main.get_command(click.Context(main), name)
    assert command is not None
    context = click.Context(command, info_name=name)
    if isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
        context = click.Context(command, info_name=command.name, parent=context)
    command.parse_args(context, arguments)


def test_files_that_it_names_are_there() -> None:
    named = re.findall(r"\]\(((?!https?:)[^)#]+)\)", README) + re.findall(r"training/configs/[\w.-]+\.yaml", README)
    assert named
    assert [file for file in named if not (ROOT / file).exists()] == []


def test_the_two_commands_stand_alone() -> None:
    assert 'pip install -e ".[cpu]" && t2i-engine generate "a yellow bird"' in README.splitlines()
    assert 'pip install -e ".[cpu,dev]" && pytest' in README.splitlines()
