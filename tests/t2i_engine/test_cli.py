"""The command line as a whole: what commands import, and how errors end."""

import os
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from t2i_engine.cli import COMMANDS, main
from t2i_engine.errors import BackendError, Interrupted, MissingExtra, ParityError, needs_extra

ROOT = Path(__file__).parents[2]
SCRIPT = "from t2i_engine.cli import main; main(sys.argv[1:])"
INSTALLED = "sys.meta_path = [one for one in sys.meta_path if 'editable' not in getattr(one, '__module__', '')]"
"""As if not installed in development mode, whose finder gives our modules to any package of their name."""


def run(before: str, *arguments: str, path: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Calls the command line after the statements `before`, with `path` first on Python's path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys([path, ROOT])))}
    command = [sys.executable, "-c", f"import sys\n{before}\n{SCRIPT}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=path)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_only_click_and_its_own_module(name: str) -> None:
    report = "atexit.register(lambda: print(*sys.modules.keys() - before, file=sys.stderr))"
    done = run(f"import atexit; before = set(sys.modules); {report}", name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: -c {name} ")
    loaded = [module.split(".") for module in done.stderr.splitlines()[-1].split()]
    assert {module[0] for module in loaded} - set(sys.stdlib_module_names) == {"click", "t2i_engine"}
    ours = {".".join(module) for module in loaded if module[0] == "t2i_engine"}
    assert ours == {"t2i_engine", "t2i_engine.errors", "t2i_engine.cli", f"t2i_engine.cli.{name.replace('-', '_')}"}


def test_every_command_is_listed_with_a_line_of_its_own() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    listed = {line.split()[0]: line.split()[1:] for line in text.partition("Commands:")[2].splitlines() if line.strip()}
    assert tuple(listed) == COMMANDS
    assert all(listed.values())
    modules = {file.stem.replace("_", "-") for file in Path("t2i_engine/cli").glob("*.py")}
    assert set(COMMANDS) <= modules


@pytest.mark.parametrize(
    ("name", "meant"),
    [("generat", "generate"), ("a yellow bird", "generate 'a yellow bird'"), ("xyzzy", None), ("a\nb", None)],
)
def test_unknown_command_is_one_line_with_what_was_meant(name: str, meant: str | None) -> None:
    result = CliRunner().invoke(main, [name], prog_name="t2i-engine")
    suggestion = f" Did you mean: t2i-engine {meant}?" if meant else ""
    assert result.exit_code == 2
    assert result.stderr == f"Error: No such command {name!r}.{suggestion} See t2i-engine --help.\n"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BackendError("no backend;\n install one"), 2, "Error: no backend; install one\n"),
        (ParityError("too far off"), 1, "Error: too far off\n"),
        (Interrupted(signal.SIGTERM), 143, ""),
        (KeyboardInterrupt(), 1, "\nAborted!\n"),
    ],
)
def test_errors_end_in_their_exit_code(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setattr(main, "get_command", lambda *_: broken)
    result = CliRunner().invoke(main, ["broken"])
    assert (result.exit_code, result.stderr) == (code, line)


EXTRAS = {"train": "train", "evaluate": "evaluate", "data check": "train", "export": "export", "benchmark": "benchmark"}
OURS = {
    "train": "training.stages",
    "evaluate": "training.evaluation.evaluate",
    "data check": "training.data.check",
    "export": "export.pipeline",
    "benchmark": "benchmarks.targets",
}


@pytest.mark.parametrize("command", EXTRAS)
def test_missing_third_party_package_names_the_extra(command: str) -> None:
    missing = dict.fromkeys(["torch", "pydantic", "numpy", "scipy"])
    done = run(f"sys.modules.update({missing})", *command.split(), "nothing")
    assert done.returncode == 2
    name, extra = command.split()[0], EXTRAS[command]
    expected = rf'Error: t2i-engine {name} needs the package \w+: pip install "t2i-engine\[{extra}\]"\n'
    assert re.fullmatch(expected, done.stderr)


@pytest.mark.parametrize("command", EXTRAS)
def test_missing_module_of_our_own_is_a_traceback(command: str) -> None:
    done = run(f"sys.modules[{OURS[command]!r}] = None", *command.split(), "nothing")
    assert done.returncode == 1
    assert f"ModuleNotFoundError: import of {OURS[command]} halted" in done.stderr
    assert "pip install" not in done.stderr


@pytest.mark.parametrize("content", [None, "", "import not_installed_anywhere\n"], ids=["file", "empty", "failing"])
@pytest.mark.parametrize("command", EXTRAS)
def test_folder_that_shadows_ours_is_named(command: str, content: str | None, tmp_path: Path) -> None:
    name = OURS[command].partition(".")[0]
    found = tmp_path / (f"{name}.py" if content is None else name)
    if content is None:
        found.touch()
    else:
        found.mkdir()
        (found / "__init__.py").write_text(content)
    done = run(INSTALLED, *command.split(), "nothing", path=tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"Error: {found} shadows t2i-engine's own package '{name}': rename it, or remove its folder from PYTHONPATH\n"
    )


def test_only_a_missing_package_becomes_an_extra() -> None:
    for module, error, message in (
        ("nowhere.inside", MissingExtra, r'it needs the package nowhere: pip install "t2i-engine\[train\]"'),
        ("training.no_such_module", ModuleNotFoundError, r"No module named 'training\.no_such_module'"),
    ):
        with pytest.raises(error, match=message), needs_extra("it", "train"):
            import_module(module)
    with pytest.raises(ImportError, match="cannot import name"), needs_extra("it", "train"):
        from json import no_such_name  # type: ignore[attr-defined]  # noqa: F401
