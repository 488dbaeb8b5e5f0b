"""A config of several runs: each starts from the one before, and all of them resume as one."""

import shlex
import shutil
import signal
from pathlib import Path

import pytest
from click.testing import Result

from tests.training.runs import TINY, assert_same, config_file, train
from training.checkpoint import load_checkpoint, load_model
from training.config import ConfigError, load_config, staged
from training.loop import Run
from training.phase import PhaseName, StepLosses
from training.state import write_state
from training.step import GanPhase

STEP = GanPhase.step
SMALL = {"name": "small", "data": {"resolution": 32}, "model": {"base_channels": 4, "max_channel_multiple": 8}}
LARGE = {"data": {"resolution": 64}, "model": {"base_channels": 2, "max_channel_multiple": 16}}


def staged_config(folder: Path, **changes: object) -> Path:
    """A tiny model that grows from 32² to 64²."""
    return config_file(folder, **{**LARGE, "stages": [SMALL], **changes})


@pytest.fixture(scope="module", autouse=True)
def _few_growing_steps() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.initial.GROWING_STEPS", 2)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a stage; not to be changed."""
    folder = tmp_path_factory.mktemp("stages")
    result = train(staged_config(folder), "--out", folder / "run")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(folder / "run" / "checkpoint.pt")
    return folder / "run"


def networks(checkpoint: Path) -> dict[str, object]:
    content = load_checkpoint(checkpoint)
    return {"words": content["words"], "gan": content["state"]["gan"]}


def test_stages_train_what_separate_runs_with_init_would(straight: Path, whole: Path, tmp_path: Path) -> None:
    result = train(config_file(tmp_path, **LARGE), "--out", tmp_path / "run", "--init", straight / "checkpoint.pt")
    assert result.exit_code == 0, result.output
    assert_same(networks(straight / "checkpoint.pt"), networks(whole / "stages" / "small" / "checkpoint.pt"))
    assert_same(networks(tmp_path / "run" / "checkpoint.pt"), networks(whole / "checkpoint.pt"))


def test_the_provenance_tells_all_stages(whole: Path) -> None:
    provenance = load_model(whole / "checkpoint.pt").provenance
    initial = provenance["initial"]
    assert (provenance["run"], provenance["steps"]) == ("tiny", {"damsm": 0, "gan": 6})
    assert (initial["run"], initial["steps"]) == ("small", {"damsm": 4, "gan": 6})
    assert (provenance["config"]["data"]["resolution"], initial["config"]["data"]["resolution"]) == (64, 32)
    assert [segment["steps"] for segment in initial["segments"]] == [{"damsm": [0, 4], "gan": [0, 6]}]


@pytest.mark.parametrize("resolution", [32, 64])
def test_a_stopped_stage_resumes_by_the_command_that_is_printed_to_the_same_end(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolution: int
) -> None:
    def interrupted(phase: GanPhase, number: int) -> StepLosses:
        if number == 2 and phase.config.data.resolution == resolution:
            signal.raise_signal(signal.SIGINT)
        return STEP(phase, number)

    monkeypatch.setattr(GanPhase, "step", interrupted)
    stopped = train(staged_config(tmp_path, gan={"steps": 4}), "--out", tmp_path / "run", "--set", "gan.steps=6")
    assert (tmp_path / "run" / "checkpoint.pt").exists() is (resolution == 64)
    monkeypatch.setattr(GanPhase, "step", STEP)
    assert_resumes(stopped, tmp_path / "run", whole)


def test_ctrl_c_while_a_stage_is_saved_for_the_last_time_is_not_lost(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Run._save

    def interrupted(run: Run, name: PhaseName, step: int, signalled: int) -> None:
        save(run, name, step, signalled)
        if (name, step) == ("gan", 6):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "_save", interrupted)
    stopped = train(staged_config(tmp_path), "--out", tmp_path / "run")
    assert not (tmp_path / "run" / "config.yaml").exists()
    monkeypatch.setattr(Run, "_save", save)
    assert_resumes(stopped, tmp_path / "run", whole)


def assert_resumes(stopped: Result, folder: Path, whole: Path) -> None:
    """The command that a stopped run printed trains it to the same end."""
    assert stopped.exit_code == 130
    *_, command = stopped.stderr.strip().splitlines()
    resumed = train(*shlex.split(command.removeprefix("Resume:"))[2:])
    assert resumed.exit_code == 0, resumed.output
    assert_same(networks(whole / "checkpoint.pt"), networks(folder / "checkpoint.pt"))


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_stage_before(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole / "stages", folder / "stages")
    shutil.copyfile(whole / "config.yaml", folder / "config.yaml")
    result = train(staged_config(tmp_path), "--out", folder, "--resume")
    assert result.exit_code == 0, result.output
    assert_same(networks(whole / "checkpoint.pt"), networks(folder / "checkpoint.pt"))


def test_a_state_continues_its_stage_and_then_the_others(straight: Path, tmp_path: Path) -> None:
    state = write_state(straight / "checkpoint.pt", tmp_path / "tiny.safetensors")
    stage = {**SMALL, "name": "tiny", "gan": {"steps": 8}}
    result = train(staged_config(tmp_path, name="large", stages=[stage]), "--out", tmp_path / "run", "--init", state)
    assert result.exit_code == 0, result.output
    provenance = load_model(tmp_path / "run" / "checkpoint.pt").provenance
    assert [one["steps"]["gan"] for one in provenance["initial"]["segments"]] == [[0, 6], [6, 8]]


def test_the_state_of_a_finished_stage_starts_the_run_after_it(straight: Path, tmp_path: Path) -> None:
    state = write_state(straight / "checkpoint.pt", tmp_path / "tiny.safetensors")
    config = staged_config(tmp_path, name="large", stages=[{**SMALL, "name": "tiny"}])
    result = train(config, "--out", tmp_path / "run", "--init", state)
    assert result.exit_code == 0, result.output
    assert f"starting at step 0 from the weights of '{state}', a state of the run 'tiny'" in result.stderr
    assert not (tmp_path / "run" / "stages").exists()
    assert load_model(tmp_path / "run" / "checkpoint.pt").provenance["initial"]["run"] == "tiny"


def test_a_stage_continued_from_a_state_resumes_without_it(straight: Path, tmp_path: Path) -> None:
    state = write_state(straight / "checkpoint.pt", tmp_path / "tiny.safetensors")
    stage = {**SMALL, "name": "tiny", "gan": {"steps": 8}}
    config = staged_config(tmp_path, name="large", stages=[stage], init_from=str(state))
    assert train(config, "--out", tmp_path / "run").exit_code == 0
    state.unlink()
    assert train(config, "--out", tmp_path / "run", "--resume").exit_code == 0


@pytest.mark.parametrize("encoders", [False, True])
def test_other_weights_and_encoders_start_the_first_run(straight: Path, tmp_path: Path, encoders: bool) -> None:
    checkpoint = str(straight / "checkpoint.pt")
    initial = {"damsm": {"init_from": checkpoint}} if encoders else {"init_from": checkpoint}
    result = train(staged_config(tmp_path, **initial), "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    last = load_model(tmp_path / "run" / "checkpoint.pt").provenance["initial"]
    assert (last["run"], last["initial"]["run"]) == ("small", "tiny")
    assert train(staged_config(tmp_path, **initial), "--out", tmp_path / "run", "--resume").exit_code == 0


def test_a_run_may_have_another_kind_of_discriminator_than_its_stage(tmp_path: Path) -> None:
    stage = {**SMALL, "gan": {"discriminator": "projected", "steps": 2}}
    config = staged_config(tmp_path, stages=[stage], gan={"discriminator_warmup": 1})
    result = train(config, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    before = tmp_path / "run" / "stages" / "small" / "checkpoint.pt"
    assert f"the discriminator starts from scratch: '{before}' has one of another kind" in result.stderr


def test_a_dry_run_counts_every_run_and_prints_what_can_be_run(tmp_path: Path) -> None:
    config = staged_config(tmp_path)
    result = train(config, "--dry-run")
    assert result.exit_code == 0, result.output
    (tmp_path / "printed.yaml").write_text(result.stdout, encoding="utf-8")
    assert load_config(tmp_path / "printed.yaml") == load_config(config)
    small, large = result.stdout.split("# tiny:")
    assert "# small:" in small
    assert "# damsm" in small
    assert "# damsm" not in large


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([{"gan": {"stepz": 3}, "name": "a"}], "stage 1': unknown key gan.stepz; did you mean gan.steps?"),
        ([{"gan": {"steps": 3}}], "stages need names of their own; these runs are tiny, tiny"),
        ([{"name": "a", "stages": [{"name": "b"}]}], "a stage cannot have stages; list all of them in order"),
        (["a"], "stages.0: input should be a valid dictionary"),
        ([{"name": "a"}, {"name": "b", "init_from": "birds"}], "stage 2': it starts from the stage before"),
        ([{"name": "a", "data": {"resolution": 64}}], "'a' does not fit the config: it has resolution 64"),
        ([{"name": "a", "model": {"noise_width": 9}}], "'a' does not fit the config: it has noise_width 9 instead of"),
        ([{"name": "a", "damsm": {"image_encoder": "efficientnet-lite0"}}], "need the same damsm.image_encoder"),
        ([{"name": "a", "gan": {"discriminator": "projected"}}], "set its gan.discriminator_warmup, to 300"),
    ],
)
def test_a_faulty_stage_is_an_error_before_anything_is_trained(tmp_path: Path, stages: list[object], said: str) -> None:
    result = train(config_file(tmp_path, stages=stages), "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_started_where_a_stage_has_begun(whole: Path, tmp_path: Path) -> None:
    small = tmp_path / "run" / "stages" / "small"
    shutil.copytree(whole / "stages" / "small", small)
    result = train(staged_config(tmp_path), "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert f"'{small}' already holds a run; resume it with --resume" in result.stderr


def test_the_command_line_overrides_every_run_that_does_not_say_otherwise(tmp_path: Path) -> None:
    config = staged_config(tmp_path, stages=[{**SMALL, "gan": {"steps": 5}}])
    small, large = staged(load_config(config, ["gan.steps=9", "gan.batch_size=4"]))
    assert (small.gan.steps, large.gan.steps) == (5, 9)
    assert small.gan.batch_size == large.gan.batch_size == 4


def test_a_config_without_stages_is_one_run() -> None:
    config = load_config(TINY)
    assert staged(config) == (config,)
    with pytest.raises(ConfigError, match="stages need names"):
        load_config(TINY, ["stages=[{}]"])
