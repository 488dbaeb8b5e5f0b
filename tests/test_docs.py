"""The documents keep their promises: links lead somewhere, commands exist, the recipe runs, references are current."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from t2i_engine.cli import main
from t2i_engine.formats import FORMATS
from tests.test_readme import allowed
from tests.training.evaluation.instruments import MeanColours
from training.config import RunConfig
from training.config_reference import PAGE, updated

ROOT = Path(__file__).parents[1]
LAB = ROOT / "docs" / "lab"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
CURRENT = [page for page in PAGES if LAB not in page.parents]  # notebooks have the commands of their time
COLOURS = ("yellow", "red", "blue", "white")
SMALL = {
    "data.resolution": 32,
    "model.base_channels": 4,
    "model.sentence_width": 16,
    "model.embedding_width": 8,
    "damsm.image_encoder": "cnn",
    "damsm.steps": 1,
    "damsm.batch_size": 4,
    "gan.batch_size": 4,
}


def shown(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def headings(page: Path) -> list[str]:
    """The headings as a reader sees them: links reduced to their text, no code marks."""
    found = re.findall(r"^#{1,6} (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "") for heading in found]


def anchors(page: Path) -> set[str]:
    """GitHub's: lower case, without punctuation, hyphens for blanks; "²" does not count as a letter."""
    kept = (re.sub(r"[^\w\- ]|[²³¹]", "", heading.lower()) for heading in headings(page))
    return {heading.replace(" ", "-") for heading in kept}


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each `t2i-engine` in the bash blocks."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words[:1] == ["t2i-engine"]:
                    yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"<img src=\"([^\"]+)\"", text):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_pages_and_sections_that_code_cites_exist() -> None:
    missing = []
    for folder in ("t2i_engine", "export", "training", "benchmarks", "tests"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix not in (".py", ".yaml") or file == Path(__file__):
                continue
            text = re.sub(r"\s*\n\s*#?\s*", " ", file.read_text(encoding="utf-8"))
            for name, section in re.findall(r"((?:docs/)?[\w/-]+\.md)(?:, \"([^\"]+)\")?", text):
                page = ROOT / name if name.startswith("docs/") else ROOT / "docs" / name
                if name in ("README.md", "CHANGELOG.md", "report.md", "table.md"):  # commands write the last two
                    continue
                if not page.is_file() or (section and section not in headings(page)):
                    missing.append(f"{shown(file)}: {name} {section}".strip())
    assert missing == []


def test_method_has_every_equation_that_is_cited() -> None:
    method = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert re.findall(r"\\tag\{(\d)\}", method) == list("128345679")


@pytest.mark.parametrize(
    ("page", "arguments"),
    [(page, arguments) for page in CURRENT for arguments in commands(page.read_text(encoding="utf-8"))],
    ids=lambda value: shown(value) if isinstance(value, Path) else shlex.join(value),
)
def test_every_command_and_option_exists(page: Path, arguments: list[str]) -> None:
    name, *rest = arguments
    command = main.get_command(click.Context(main), name)
    assert command, f"{shown(page)}: there is no command {name}"
    context = click.Context(command, info_name=name)
    if isinstance(command, click.Group):
        inner = command.get_command(context, rest.pop(0))
        assert inner
        command, context = inner, click.Context(inner, info_name=inner.name, parent=context)
    command.parse_args(context, rest)


def test_configs_that_are_named_exist() -> None:
    named = {
        name for page in CURRENT for name in re.findall(r"training/configs/[\w./-]+\.yaml", page.read_text("utf-8"))
    }
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_reference_of_the_config_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert updated(page) == page, "docs/training.md is out of date: python -m training.config_reference"


def test_every_key_of_the_config_is_described() -> None:
    schema = RunConfig.model_json_schema()
    sections = {"": schema, **schema["$defs"]}
    keys = [
        (f"{name}.{key}", found) for name, section in sections.items() for key, found in section["properties"].items()
    ]
    assert [name for name, found in keys if "$ref" not in found and not found.get("description")] == []


def write_flowers(folder: Path, count: int) -> None:
    """A split of one-coloured squares, as docs/training.md lays a folder out."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        colour = COLOURS[number % len(COLOURS)]
        Image.new("RGB", (48, 40), colour).save(folder / f"{number:04}.jpg")
        rows.append({"file_name": f"{number:04}.jpg", "text": [f"a {colour} flower with petals", f"a {colour} flower"]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: faster for networks as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_recipe_for_own_pictures_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command and the config of the page, on squares instead of flowers, with a small model and few steps."""
    recipe = re.search(r"^## Your own pictures\n(.*?)^## ", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert recipe
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("training.evaluation.evaluate.Inception", lambda _: MeanColours())
    write_flowers(tmp_path / "data" / "flowers" / "train", 12)
    write_flowers(tmp_path / "data" / "flowers" / "test", 8)
    (config,) = blocks(recipe[1], "yaml")
    Path("flowers.yaml").write_text(config, encoding="utf-8")
    ran = []
    for arguments in commands(recipe[1]):
        if arguments[0] == "train":
            steps = 3 if "--resume" in arguments else 2
            settings = SMALL | {"gan.steps": steps}
            arguments += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        if "--count" in arguments:
            arguments[arguments.index("--count") + 1] = "8"
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{shlex.join(arguments)}\n{result.output}"
        ran.append(arguments[0])
    assert ran == ["data", "train", "train", "train", "evaluate", "export", "verify", "generate"]
    with Image.open("flowers.png") as grid:
        assert grid.size[0] * grid.size[1] >= 8 * 32 * 32


def test_tolerances_of_the_export_page_are_the_formats() -> None:
    groups: dict[tuple[str, str], list[str]] = {}
    for row in FORMATS:
        groups.setdefault((allowed(row.tolerance), row.reason), []).append(f"`{row.name}`")
    rows = [f"| {', '.join(names)} | {bounds} | {reason} |" for (bounds, reason), names in groups.items()]
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    table = re.search(r"\| why \|\n\|[-|]+\|\n((?:\|.*\n)+)", page)
    assert table
    assert table[1].splitlines() == rows, "docs/export.md's table should be:\n" + "\n".join(rows)


def test_the_example_of_the_export_page_runs_without_this_project(tmp_path: Path) -> None:
    (example,) = blocks((ROOT / "docs" / "export.md").read_text(encoding="utf-8"), "python")
    assert "import t2i_engine" not in example
    (tmp_path / "t2i_engine").symlink_to(ROOT / "t2i_engine")
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True)
    with Image.open(tmp_path / "bird.png") as picture:
        assert picture.size == (128, 128)
