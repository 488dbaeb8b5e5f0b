"""The training benchmark: its reference is this project's own step, and its table says what was timed."""

import copy
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import record_function

from benchmarks import training
from benchmarks.reference_step import ReferenceStep
from benchmarks.step_profile import stage_times
from benchmarks.training import Measured, Row, all_rows, as_table, main
from t2i_engine.manifest import ModelSizes
from tests.training.runs import TINY, train
from training.config import ContrastiveConfig, parse_config
from training.losses import generator_loss, nt_xent
from training.models.conditioning import kl_to_standard_normal
from training.models.discriminator import Discriminator
from training.models.generator import Generator
from training.models.image_encoder import ImageEncoder, open_backbone
from training.precision import loss_scaler
from training.step import Critic, Inputs

BATCH, NOISE, SENTENCE = 4, 6, 10
CONTRASTIVE = ContrastiveConfig(text_weight=0.3, image_weight=0.2, temperature=0.5)


Network = TypeVar("Network", bound=nn.Module)


class Pair:
    """Our networks with random weights, and the reference that starts from them."""

    def __init__(self, full: bool) -> None:
        torch.manual_seed(0)
        sizes = ModelSizes(32, 4, NOISE, SENTENCE, 8, 9, conditioning_augmentation=full, adaptive_block=full)
        self.generator = randomised(Generator(sizes, folded=True))
        self.discriminator = randomised(Discriminator(32, 4, SENTENCE))
        self.image_encoder = ImageEncoder(open_backbone("cnn"), SENTENCE).eval().requires_grad_(False) if full else None
        self.reference = ReferenceStep(
            sizes,
            self.generator.state_dict(),
            self.discriminator.state_dict(),
            torch.device("cpu"),
            self.image_encoder,
            CONTRASTIVE,
            kl_weight=0.7,
        )
        self.real = 2 * torch.rand(BATCH, 3, 32, 32) - 1
        self.sentence, self.noise = torch.randn(BATCH, SENTENCE), torch.randn(BATCH, NOISE)

    def double(self) -> "Pair":
        """Everything in float64, except the image encoder, which always computes in float32."""
        for network in (self.generator, self.discriminator, self.reference.generator, self.reference.discriminator):
            network.double()
        self.real, self.sentence, self.noise = self.real.double(), self.sentence.double(), self.noise.double()
        return self


def randomised(network: Network) -> Network:
    for parameter in network.parameters():  # DF-GAN's residual branches start at 0, which would hide them
        nn.init.normal_(parameter, std=0.3 if parameter.dim() == 1 else 1.2 * parameter[0].numel() ** -0.5)
    return network


def gradients(loss: Tensor, network: nn.Module) -> dict[str, Tensor]:
    names, parameters = zip(*network.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters, retain_graph=True), strict=True))


@pytest.mark.parametrize("full", [False, True], ids=["DF-GAN", "full method"])
def test_reference_step_has_this_projects_losses_and_gradients(full: bool) -> None:
    pair = Pair(full).double()
    torch.manual_seed(1)
    drawn, divergence = pair.reference.generator(pair.noise, pair.sentence)
    torch.manual_seed(1)
    ours = pair.generator(pair.noise, pair.sentence, torch.randn_like(pair.sentence) if full else None)
    torch.testing.assert_close(drawn, ours.image)

    config = parse_config({"name": "equal"}, "test")
    critic, fake = Critic(pair.discriminator, config, loss_scaler(torch.device("cpu"), "fp32")), ours.image.detach()
    own = torch.eye(BATCH, dtype=torch.bool)
    mismatched = pair.sentence.roll(1, 0)[:, None]  # DF-GAN's code shifts the pictures instead
    unused = [torch.empty(3, 0)] * 4
    inputs = Inputs(pair.real, pair.sentence, own, own, mismatched, own.any(1, keepdim=True), *unused)
    loss = torch.stack(list(critic(inputs, fake, None, penalised=True).values())).sum()
    mine, theirs = (
        gradients(loss, pair.discriminator),
        pair.reference.discriminator_loss(pair.real, fake, pair.sentence),
    )
    torch.testing.assert_close(theirs.float(), loss.float())
    assert_same(gradients(theirs, pair.reference.discriminator), mine)

    loss = generator_loss(pair.discriminator(ours.image, pair.sentence))
    if full:
        assert pair.image_encoder
        assert ours.mean is not None
        encoded, real = pair.image_encoder(ours.image).picture, pair.image_encoder(pair.real).picture
        loss = (
            loss
            + 0.7 * kl_to_standard_normal(ours.mean, ours.log_variance)
            + 0.3 * nt_xent(encoded, pair.sentence, own, 0.5)
            + 0.2 * nt_xent(encoded, real, own, 0.5)
        )
    theirs = pair.reference.generator_loss(drawn, divergence, pair.real, pair.sentence)
    torch.testing.assert_close(theirs.float(), loss.float())
    assert_same(gradients(theirs, pair.reference.generator), gradients(loss, pair.generator))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Up to the rounding of this project's losses, which are float32, relative to each tensor's largest gradient."""
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = float(expected[name].abs().max())
        assert scale > 0, name
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * scale, msg=name)


def test_reference_step_trains_both_networks() -> None:
    pair = Pair(full=True)
    before = copy.deepcopy((pair.reference.generator.state_dict(), pair.reference.discriminator.state_dict()))
    pair.reference(pair.real, pair.sentence)
    for old, network in zip(before, (pair.reference.generator, pair.reference.discriminator), strict=True):
        assert all(not torch.equal(old[name], now) for name, now in network.state_dict().items())
    assert all(torch.equal(before[0][name], now) for name, now in pair.generator.state_dict().items())


def measured(row: Row, reference: tuple[float, ...], ours: tuple[float, ...]) -> Measured:
    return Measured(row, [[ms] for ms in reference], [[ms] for ms in ours], 150.0, 90.0, 200.0, (0.0, 0.25, 0.1))


def test_table_says_what_the_times_say() -> None:
    fp32, bf16 = Row(False, 64, 16, "fp32", "cpu"), Row(False, 64, 16, "bf16", "cpu")
    full = Row(True, 128, 16, "bf16", "cpu")
    lines = as_table(
        [
            measured(fp32, (1600.0, 1500.0, 1700.0), (1000.0, 1000.0, 1000.0)),
            measured(bf16, (1600.0, 1600.0, 1600.0), (800.0, 800.0, 800.0)),
            measured(full, (3200.0,), (800.0,)),
        ]
    ).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in rows] == [
        "DF-GAN 64², batch 16, fp32",
        "DF-GAN 64², batch 16, bf16",
        "full method 128², batch 16, bf16",
    ]
    assert rows[0][1:] == ["10.0", "16.0", "1.60 (1.50–1.70)", "≥ 1.35: met", "150", "90", "90", "45 %", "0.25"]
    assert rows[1][1:5] == ["10.0", "20.0", "2.00 (2.00–2.00)", "≥ 2.5: missed"]
    assert rows[2][3:5] == ["4.00", ""]


def test_rows_fit_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {row.precision for row in all_rows("cpu")} >= {"fp32"}
    monkeypatch.setattr(training, "multiplies_in_bf16", lambda device: False)
    assert [row.name for row in all_rows("cpu")] == ["dfgan-64-16-fp32", "full-64-16-fp32", "full-128-16-fp32"]
    assert [(row.resolution, row.batch, row.bar) for row in all_rows("cuda")] == [
        (128, 32, 4.0),
        (128, 64, 4.0),
        (256, 32, 4.0),
        (256, 64, 4.0),
    ]


def test_unknown_row_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(SystemExit):
        main(["--rows", "dfgan-64-16-fp23"])
    assert "did you mean 'dfgan-64-16-fp32'?" in capsys.readouterr().err


def test_command_prints_a_measured_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = Row(True, 32, 4, "fp32", "cpu")
    monkeypatch.setattr(training, "all_rows", lambda kind: [row])
    monkeypatch.setattr(training, "SECONDS", {"cpu": 0.0})
    monkeypatch.setattr(training, "product_peak", lambda precision, device: 100.0)
    main(["--rounds", "1", "--json", str(tmp_path / "rows.json")])
    printed = capsys.readouterr().out
    assert row.title in printed
    assert "torch.mm reaches 100 GFLOP/s in fp32" in printed
    assert '"reference"' in (tmp_path / "rows.json").read_text()


def test_rows_measured_before_one_failed_are_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def measure(row: Row, rounds: int) -> training.Measured:
        if row.batch == 8:
            raise torch.OutOfMemoryError
        return original(row, rounds)

    original = training.measure
    monkeypatch.setattr(training, "measure", measure)
    monkeypatch.setattr(training, "all_rows", lambda kind: [Row(True, 32, size, "fp32", "cpu") for size in (4, 8)])
    monkeypatch.setattr(training, "SECONDS", {"cpu": 0.0})
    monkeypatch.setattr(training, "product_peak", lambda precision, device: 100.0)
    with pytest.raises(SystemExit) as ended:
        main(["--rounds", "1", "--json", str(tmp_path / "rows.json")])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert "does not fit the GPU's memory" in printed.err
    assert Row(True, 32, 4, "fp32", "cpu").title in printed.out
    assert '"reference"' in (tmp_path / "rows.json").read_text()


def test_stages_exclude_the_stages_inside_them() -> None:
    def step() -> None:
        with record_function("discriminator"):
            with record_function("penalty"):
                work(8)
            work(1)
        with record_function("Optimizer.step#Adam.step"):
            work(1)

    def work(times: int) -> None:
        for _ in range(times):
            torch.ones(200, 200) @ torch.ones(200, 200)

    work(3)
    with torch.profiler.profile() as profiler:
        step()
    whole = next(event for event in profiler.events() or [] if event.name == "discriminator")
    stages = stage_times(profiler.events() or [], "cpu")
    assert list(stages) == ["discriminator", "penalty"]
    assert stages["discriminator"] > 0
    assert sum(stages.values()) == pytest.approx(whole.time_range.elapsed_us())


def test_profile_fits_one_screen_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.step_profile.product_peak", lambda precision, device: 100.0)
    result = train(TINY, "--profile", 2)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("tiny: 32², 8 pictures per step")
    assert "ms/step" in lines[1]
    assert "GFLOP/step" in lines[1]
    assert any(line.startswith("stage ") for line in lines)
    heaviest = lines[lines.index(next(line for line in lines if line.startswith("operator "))) + 1 :]
    assert len(heaviest) == 10
    assert any("convolution" in line for line in heaviest)
    assert len(lines) <= 40
    assert not list(tmp_path.iterdir())
