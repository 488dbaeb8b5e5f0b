import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from t2i_engine.backend_selection import backend_status
from t2i_engine.backends import onnxruntime
from t2i_engine.bundle import Bundle, embedded_names
from t2i_engine.cli import main, parse_seeds
from t2i_engine.engine import Engine
from t2i_engine.errors import OptionError
from t2i_engine.latents import LARGEST_SEED
from t2i_engine.manifest import MANIFEST

Generate = Callable[..., Result]


@pytest.fixture
def generate(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generate:
    """Runs `t2i-engine generate` with the tiny bundle in an empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*arguments: str, bundle: Path = tiny_bundle) -> Result:
        return CliRunner().invoke(main, ["generate", "--bundle", str(bundle), *arguments])

    return run


def _files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


def test_one_png_is_drawn_in_the_working_directory_and_its_path_printed(generate: Generate, tiny_bundle: Path) -> None:
    result = generate("a yellow bird")
    assert result.exit_code == 0
    assert result.stdout == "a-yellow-bird-0.png\n"
    assert _files() == ["a-yellow-bird-0.png"]
    with Image.open("a-yellow-bird-0.png") as image:
        expected = Engine.open(tiny_bundle).generate("a yellow bird").pixels
        np.testing.assert_allclose(np.asarray(image, int), expected, atol=1)


def test_what_auto_chose_is_said_on_standard_error(generate: Generate) -> None:
    result = generate("a yellow bird")
    assert re.fullmatch(r"bundle tiny: auto chose format \S+ \(\w+\) on \w+ with .*\n", result.stderr)


def test_nothing_is_said_where_nothing_was_left_to_auto(generate: Generate) -> None:
    options = ("--backend", "onnxruntime", "--precision", "fp32", "--device", "cpu", "--threads", "1")
    assert generate("a yellow bird", *options).stderr == ""


def test_terms_of_a_bundle_are_said_whatever_was_asked_for(
    generate: Generate, plain_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(plain_bundle, tmp_path / "licensed")
    manifest = replace(Bundle.open(folder).manifest, license="research only")
    (folder / MANIFEST).write_bytes(manifest.to_json())
    assert generate("a red bird", bundle=folder).stderr.splitlines()[1:] == ["bundle tiny: research only"]
    options = ("--backend", "onnxruntime", "--precision", "fp32", "--device", "cpu")
    assert generate("a red bird", *options, bundle=folder).stderr == "bundle tiny: research only\n"
    arguments = ["interpolate", "a red bird", "a blue bird", "--bundle", str(folder), *options]
    assert CliRunner().invoke(main, arguments).stderr == "bundle tiny: research only\n"


def test_every_caption_is_drawn_once_per_seed_into_a_folder(generate: Generate) -> None:
    result = generate("a red bird", "a blue bird", "--seeds", "0,3-4", "--out", "new/folder", "--batch-size", "2")
    expected = [f"new/folder/a-{colour}-bird-{seed}.png" for colour in ("red", "blue") for seed in (0, 3, 4)]
    assert result.stdout.splitlines() == expected
    assert _files() == sorted(["new", "new/folder", *expected])


def test_captions_that_read_alike_do_not_overwrite_each_other(generate: Generate) -> None:
    paths = generate("a red bird", "A red bird", "a red bird!").stdout.splitlines()
    assert len(set(paths)) == 3
    assert _files() == sorted(paths)


def test_captions_come_from_a_file_too(generate: Generate) -> None:
    Path("captions.txt").write_text("a red bird\n\na blue bird\n", encoding="utf-8")
    result = generate("a bird", "--captions-file", "captions.txt")
    assert result.stdout.splitlines() == ["a-bird-0.png", "a-red-bird-0.png", "a-blue-bird-0.png"]


@pytest.mark.parametrize(("name", "kind"), [("bird.jpg", "JPEG"), ("bird.webp", "WEBP"), ("new/bird.png", "PNG")])
def test_out_may_be_a_file(generate: Generate, name: str, kind: str) -> None:
    assert generate("a red bird", "--out", name).stdout == f"{name}\n"
    with Image.open(name) as image:
        assert image.format == kind


def test_grid_is_one_file(generate: Generate) -> None:
    result = generate("a red bird", "a blue bird", "--seeds", "0-2", "--grid", "--out", "grid.png")
    assert result.stdout == "grid.png\n"
    with Image.open("grid.png") as image:
        assert image.size == (3 * 32, 2 * 32)


def test_grid_has_as_many_columns_as_asked_for(generate: Generate) -> None:
    options = ("--seeds", "0-1", "--columns", "4", "--out", "grid.png")
    assert generate("a red bird", "a blue bird", "a bird", "--grid", *options).exit_code == 0
    with Image.open("grid.png") as image:
        assert image.size == (4 * 32, 2 * 32)


def test_grid_has_a_name_of_its_own_in_a_folder(generate: Generate) -> None:
    assert re.fullmatch(
        r"a-red-bird-0-grid_[0-9a-f]{8}\.png\n", generate("a red bird", "--seeds", "0-3", "--grid").stdout
    )


def test_json_describes_every_picture(generate: Generate) -> None:
    result = generate("a yello bird", "--seeds", "1-2", "--json", "--backend", "onnxruntime", "--device", "cpu")
    made = json.loads(result.stdout)
    assert [picture.pop("milliseconds") > 0 for picture in made] == [True, True]
    assert [picture.pop("path") for picture in made] == ["a-yello-bird-1.png", "a-yello-bird-2.png"]
    assert [picture.pop("seed") for picture in made] == [1, 2]
    same = {"caption": "a yello bird", "truncation": 1.0, "bundle": "tiny", "unknown": []}
    same |= {"read_as": {"yello": "yellow"}}
    assert made == [same | {"backend": "onnxruntime", "precision": "fp32", "device": "cpu"}] * 2


def test_json_of_a_grid_names_the_grid_for_every_picture(generate: Generate) -> None:
    made = json.loads(generate("a red bird", "--seeds", "0-1", "--grid", "--out", "grid.png", "--json").stdout)
    assert [(picture["path"], picture["seed"]) for picture in made] == [("grid.png", 0), ("grid.png", 1)]


def test_unknown_words_are_warned_of_and_left_out(generate: Generate) -> None:
    result = generate("a yello bird", "--exact-words")
    assert result.exit_code == 0
    assert "warning: caption 'a yello bird': left out unknown words: 'yello' (nearest known: yellow)" in result.stderr


@pytest.mark.parametrize(
    ("captions", "warned"),
    [(("a", "red", "bird"), True), (("a", "bird"), False), (("red", "blue bird", "bird"), False)],
)
def test_a_caption_without_quotes_is_warned_of(generate: Generate, captions: tuple[str, ...], warned: bool) -> None:
    result = generate(*captions)
    assert result.exit_code == 0
    assert ("warning: these are 3 captions; quote a caption of several words" in result.stderr) is warned


def test_words_that_are_read_as_others_are_told_once_and_draw_the_same_picture(generate: Generate) -> None:
    result = generate("a crimson owl with yelow wings", "a crimson owl", "--backend", "onnxruntime", "--out", "near")
    assert result.exit_code == 0
    said = [line for line in result.stderr.splitlines() if line.startswith("read ")]
    assert said == ["read 'crimson' as 'red'", "read 'owl' as 'bird'", "read 'yelow' as 'yellow'"]
    generate("a red bird", "--backend", "onnxruntime", "--out", "known")
    with Image.open("near/a-crimson-owl-0.png") as near, Image.open("known/a-red-bird-0.png") as known:
        np.testing.assert_allclose(np.asarray(near, int), np.asarray(known, int), atol=1)


def test_skipped_captions_are_warned_of_and_stop_no_others(generate: Generate) -> None:
    result = generate("a red bird", "zebra", "a blue bird", "--skip-unknown")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["a-red-bird-0.png", "a-blue-bird-0.png"]
    assert "warning: skipped: no word in the caption 'zebra' is known" in result.stderr
    assert _files() == ["a-blue-bird-0.png", "a-red-bird-0.png"]


@pytest.mark.parametrize("bundle", embedded_names())
def test_suggested_captions_can_be_drawn(generate: Generate, bundle: str) -> None:
    result = generate("qwertz", bundle=Path(bundle))
    suggested = re.findall("'(.*?)'", result.stderr.partition("; try ")[2])
    assert len(suggested) == 2
    drawn = generate(*suggested, bundle=Path(bundle))
    assert drawn.exit_code == 0
    assert "warning" not in drawn.stderr


def test_backends_draw_the_same_picture(generate: Generate) -> None:
    levels = []
    for backend in ("onnxruntime", "pytorch"):
        assert generate("a red bird", "--backend", backend, "--device", "cpu", "--out", f"{backend}.png").exit_code == 0
        with Image.open(f"{backend}.png") as image:
            levels.append(np.asarray(image, int))
    np.testing.assert_allclose(levels[0], levels[1], atol=1)


def test_truncation_changes_the_picture(generate: Generate) -> None:
    for truncation in ("1", "0.3"):
        generate("a red bird", "--truncation", truncation, "--out", f"{truncation}.png")
    assert Path("1.png").read_bytes() != Path("0.3.png").read_bytes()


@pytest.mark.parametrize(
    "caption", ["a bird \U0001f426", "bird\u202ereversed", "bird \0 and", "bird \ud800", "bird\nbird", "bird " * 2000]
)
def test_any_unicode_is_drawn(generate: Generate, caption: str) -> None:
    result = generate(caption)
    assert result.exit_code == 0
    assert _files() == [result.stdout.strip()]


def test_pictures_are_written_in_the_format_and_quality_asked_for(generate: Generate) -> None:
    result = generate("a red bird", "--seeds", "0-2", "--out", "few/", "--format", "webp", "--quality", "50")
    assert result.stdout.splitlines() == [f"few/a-red-bird-{seed}.webp" for seed in range(3)]


BAD_INPUT = [
    ([], "no caption given"),
    ([""], "the caption is empty"),
    (["a red bird", " "], "the caption is empty"),
    (["yelow brid", "--exact-words"], "the nearest known words are: yellow, bird"),
    (["\u9ce5"], "no word in the caption '\u9ce5' is known"),
    (
        ["a red bird", "zebra"],
        "no word in the caption 'zebra' is known; use words such as: this, bird, a",
    ),
    (["a red bird", "zebra"], "; --skip-unknown skips it"),
    (["lemur", "zebra", "--skip-unknown"], "no word in the caption 'lemur' is known"),
    (["bird" + " " * 10_000], "10,004 characters; shorten it"),
    (["a bird", "--bundle", "birdz"], "unknown bundle 'birdz'"),
    (["a bird", "--bundle", "blank.txt"], "'blank.txt' is not a folder; give a bundle's folder, or one of: birds, cub"),
    (["a bird", "--bundle", "bundles/mine"], "'bundles/mine' is not a folder; give a bundle's folder"),
    (["a bird", "--seeds", "-1"], "seeds '-1' cannot be read"),
    (["a bird", "--seeds", ""], "seeds '' cannot be read"),
    (["a bird", "--seeds", "1,,2"], "expected numbers and ranges such as 0,2,5-10"),
    (["a bird", "--seeds", "5-2"], "the range of seeds '5-2' is empty; write 2-5"),
    (["a bird", "--seeds", "4294967296"], "seed 4294967296 is out of range; 0 to 4294967295 expected"),
    (["a bird", "--seeds", "0-4294967295"], "more than 100,000"),
    (["a bird", "--truncation", "0"], "truncation 0.0 is out of range"),
    (["a bird", "--truncation", "1.1"], "truncation 1.1 is out of range"),
    (["a bird", "--truncation", "much"], "'much' is not a valid float. See "),
    (["a bird", "--sead", "1"], "No such option '--sead'"),
    (["a bird", "--truncation", "nan"], "truncation nan is out of range"),
    (["a bird", "--threads", "0"], "0 threads are out of range"),
    (["a bird", "--batch-size", "0"], "batch size 0 is out of range"),
    (["a bird", "--backend", "onnx"], "unknown backend 'onnx' (did you mean 'onnxruntime'?)"),
    (["a bird", "--precision", "fp64"], "unknown precision 'fp64'"),
    (["a bird", "--device", "gpu"], "unknown device 'gpu' (did you mean 'cuda'?)"),
    (["--captions-file", "missing.txt"], "captions file 'missing.txt' cannot be read (No such file or directory)"),
    (["--captions-file", "latin1.txt"], "captions file 'latin1.txt' is not UTF-8 (line 1); save it as UTF-8"),
    (["--captions-file", "blank.txt"], "captions file 'blank.txt' holds no caption"),
    (["a bird", "--out", "file/folder"], "cannot write to 'file/folder' (Not a directory); choose another --out"),
    (["a bird", "--out", "file"], "cannot write to 'file' (Not a directory)"),
    (["a bird", "--out", "file/bird.png"], "cannot write to 'file/bird.png'"),
    (["a bird", "--out", "bird.gif"], "'bird.gif' does not end with .png, .jpg, .jpeg, .webp"),
    (["a bird", "--quality", "90"], "PNG keeps every level and has no quality"),
    (["a bird", "--format", "gif"], "'gif' is not one of"),
    (["a bird", "--seeds", "0-1", "--out", "bird.png"], "2 pictures do not fit into 'bird.png'"),
    (["a bird", "--seeds", "0-5000", "--grid"], "5,001 pictures are too many for a grid"),
    (["a bird", "--columns", "4"], "--columns 4 is for a grid; add --grid"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT, ids=[message for _, message in BAD_INPUT])
def test_bad_input_gives_one_line_and_writes_nothing(generate: Generate, arguments: list[str], message: str) -> None:
    Path("file").touch()
    Path("latin1.txt").write_bytes(b"caf\xe9\n")
    Path("blank.txt").touch()
    before = _files()
    result = generate(*arguments)
    assert result.exit_code == 2, result.stderr
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert _files() == before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("generator.onnx", None, "generator.onnx is missing"),
        ("generator.onnx", b"short", "generator.onnx is truncated, 5 of"),
        ("text_encoder.onnx", b"x" * 1_000_000, "text_encoder.onnx is altered"),
        ("vocabulary.json", None, "vocabulary.json is missing"),
        (MANIFEST, None, "has no bundle.json; give an exported bundle's folder"),
        (MANIFEST, b"{", "bundle.json cannot be used: it is not JSON"),
        (MANIFEST, b'{"schema": 99}', "its schema is 99, this t2i-engine reads 2: update"),
    ],
)
def test_bad_bundle_gives_one_line_that_names_the_file(
    generate: Generate, tiny_bundle: Path, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bad")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    result = generate("a bird", bundle=folder)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert _files() == []


def test_cuda_that_is_not_there_gives_one_line(generate: Generate) -> None:
    if None in (backend_status(name).devices["cuda"] for name in ("onnxruntime", "pytorch")):
        pytest.skip("CUDA can be used here")
    result = generate("a bird", "--device", "cuda")
    assert result.exit_code == 2
    assert "device 'cuda' cannot be used here: onnxruntime (" in result.stderr
    assert result.stderr.count("\n") == 1
    assert _files() == []


def test_both_wheels_of_onnx_runtime_give_one_line(generate: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.0"}
    monkeypatch.setattr(onnxruntime, "installed_versions", lambda _: both)
    result = generate("a bird", "--backend", "onnxruntime")  # auto may take another that is whole
    assert result.exit_code == 2
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.0 are both installed" in result.stderr
    assert result.stderr.count("\n") == 1


@given(st.lists(st.tuples(st.integers(0, LARGEST_SEED), st.integers(0, 9), st.booleans()), min_size=1, max_size=5))
def test_seeds_are_read_as_they_are_written(parts: list[tuple[int, int, bool]]) -> None:
    ranges = [range(first, min(first + more, LARGEST_SEED) + 1) for first, more, _ in parts]
    texts = [
        f"{seeds[0]}-{seeds[-1]}" if len(seeds) > 1 or as_range else f"{seeds[0]}"
        for seeds, (_, _, as_range) in zip(ranges, parts, strict=True)
    ]
    assert parse_seeds(",".join(texts)) == [seed for seeds in ranges for seed in seeds]


@given(st.text(st.sampled_from("0123456789,- x\u0663"), max_size=30))
def test_any_text_for_seeds_is_read_or_an_option_error(text: str) -> None:
    try:
        seeds = parse_seeds(text)
    except OptionError:
        return
    assert all(0 <= seed <= LARGEST_SEED for seed in seeds)


def test_process_draws_and_warns(plain_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from t2i_engine.cli import main; main()", "generate", "a yello bird there"]
    result = subprocess.run(
        [*command, "--bundle", plain_bundle], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout == "a-yello-bird-there-0.png\n"
    said = [line.split(":")[0] for line in result.stderr.splitlines()]
    assert said == ["read 'yello' as 'yellow'", "warning", "bundle tiny"]


def test_command_line_and_package_load_nothing_heavy() -> None:
    script = "import sys, t2i_engine, t2i_engine.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "onnx", "onnxruntime", "openvino", "rich", "numpy", "PIL", "export", "training", "benchmarks"}
    assert not heavy & set(loaded)


def test_drawing_loads_neither_torch_nor_onnx_nor_rich(tiny_bundle: Path, tmp_path: Path) -> None:
    script = (
        "import sys, t2i_engine.cli\n"
        "try:\n    t2i_engine.cli.main()\n"
        "finally:\n    print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, "generate", "a bird", "--bundle", str(tiny_bundle)]
    loaded = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
    modules = set(loaded.splitlines()[-1].split())
    assert {"onnxruntime", "openvino"} & modules
    assert not {"torch", "onnx", "rich", "export", "training"} & modules


def test_version_is_the_package_s() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert CliRunner().invoke(main, ["--version"]).stdout == f"t2i-engine, version {project['version']}\n"
