"""`t2i-engine convert-dfgan`: public checkpoints of both generations draw here what their own description says."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor
from torch.nn import functional as F

from export.pipeline import export_bundle
from t2i_engine.cli import main
from t2i_engine.engine import Engine
from tests.tiny_model import SMALL_GATE
from training.checkpoint import load_model

Tensors = dict[str, Tensor]

WORDS = ["<end>", "this", "bird", "is", "yellow", "with", "a", "red", "belly"]
NF, Z, S, E = 2, 5, 8, 7
SMALL_BLOCKS = [(16, 16), (16, 8), (8, 4), (4, 2)]  # R = 64
GENERATIONS = ["new", "first"]


def new_generation(
    nf: int = NF, noise: int = Z, sentence: int = S, blocks: list[tuple[int, int]] = SMALL_BLOCKS
) -> Tensors:
    """DF-GAN's layout of NetG, with random tensors."""
    shapes: dict[str, tuple[int, ...]] = {"fc": (8 * nf * 16, noise), "to_rgb.1": (3, blocks[-1][1], 3, 3)}
    for i, (wide, narrow) in enumerate(blocks):
        shapes |= {f"GBlocks.{i}.c1": (narrow, wide, 3, 3), f"GBlocks.{i}.c2": (narrow, narrow, 3, 3)}
        for fuse, n in (("fuse1", wide), ("fuse2", narrow)):
            for affine in ("affine0", "affine1"):
                for mlp in ("fc_gamma", "fc_beta"):
                    shapes[f"GBlocks.{i}.{fuse}.{affine}.{mlp}.linear1"] = (n, noise + sentence)
                    shapes[f"GBlocks.{i}.{fuse}.{affine}.{mlp}.linear2"] = (n, n)
        if wide != narrow:
            shapes[f"GBlocks.{i}.c_sc"] = (narrow, wide, 1, 1)
    return weights_and_biases(shapes)


def first_generation(
    nf: int = NF, noise: int = Z, sentence: int = S, blocks: list[tuple[int, int]] = SMALL_BLOCKS
) -> Tensors:
    """The layout of the first code's NetG, with random tensors."""
    shapes: dict[str, tuple[int, ...]] = {"fc": (8 * nf * 16, noise), "conv_img.1": (3, blocks[-1][1], 3, 3)}
    blocks = [(blocks[0][0], blocks[0][0]), *blocks]
    for i, (wide, narrow) in enumerate(blocks):
        shapes |= {f"block{i}.c1": (narrow, wide, 3, 3), f"block{i}.c2": (narrow, narrow, 3, 3)}
        for number, n in enumerate([wide, wide, narrow, narrow]):
            for mlp in ("fc_gamma", "fc_beta"):
                shapes[f"block{i}.affine{number}.{mlp}.linear1"] = (sentence, sentence)
                shapes[f"block{i}.affine{number}.{mlp}.linear2"] = (n, sentence)
        if wide != narrow:
            shapes[f"block{i}.c_sc"] = (narrow, wide, 1, 1)
    gammas = {f"block{i}.gamma": torch.tensor([0.4 + 0.1 * i]) for i in range(len(blocks))}
    return weights_and_biases(shapes) | gammas


def weights_and_biases(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:]))
        tensors[f"{name}.weight"] = torch.randn(shape, generator=random) / fan_in**0.5
        tensors[f"{name}.bias"] = torch.randn(shape[0], generator=random) * 0.3
        if "fc_gamma.linear2" in name:
            tensors[f"{name}.bias"] += 1
    return tensors


def text_encoder(words: int = len(WORDS), embedding: int = E, sentence: int = S) -> Tensors:
    random = torch.Generator().manual_seed(1)
    gates, hidden = 4 * sentence // 2, sentence // 2
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (gates, embedding), "weight_hh": (gates, hidden)}
    shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
    tensors = {"encoder.weight": torch.randn(words, embedding, generator=random)}
    for direction in ("", "_reverse"):
        for name, shape in shapes.items():
            tensors[f"rnn.{name}_l0{direction}"] = 0.5 * torch.randn(shape, generator=random)
    return tensors


def vocabulary(words: list[str]) -> list[Any]:
    return [[[1, 2]], [[3]], dict(enumerate(words)), {word: index for index, word in enumerate(words)}]


def affine(tensors: Tensors, name: str, features: Tensor, condition: Tensor) -> Tensor:
    scale, shift = (
        F.linear(
            F.linear(condition, tensors[f"{name}.{mlp}.linear1.weight"], tensors[f"{name}.{mlp}.linear1.bias"]).relu(),
            tensors[f"{name}.{mlp}.linear2.weight"],
            tensors[f"{name}.{mlp}.linear2.bias"],
        )[:, :, None, None]
        for mlp in ("fc_gamma", "fc_beta")
    )
    return F.leaky_relu(scale * features + shift, 0.2)


def convolve(tensors: Tensors, name: str, features: Tensor) -> Tensor:
    if f"{name}.weight" not in tensors:  # a shortcut that changes nothing
        return features
    weight = tensors[f"{name}.weight"]
    return F.conv2d(features, weight, tensors[f"{name}.bias"], padding=weight.shape[-1] // 2)


def doubled(features: Tensor) -> Tensor:
    return features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def read_new_generation(tensors: Tensors, noise: Tensor, sentence: Tensor) -> Tensor:
    condition = torch.cat([noise, sentence], dim=1)
    features = F.linear(noise, tensors["fc.weight"], tensors["fc.bias"]).view(len(noise), -1, 4, 4)
    for i in range(len(SMALL_BLOCKS)):
        features = residual = doubled(features)
        for fuse, convolution in (("fuse1", "c1"), ("fuse2", "c2")):
            for number in ("affine0", "affine1"):
                residual = affine(tensors, f"GBlocks.{i}.{fuse}.{number}", residual, condition)
            residual = convolve(tensors, f"GBlocks.{i}.{convolution}", residual)
        features = convolve(tensors, f"GBlocks.{i}.c_sc", features) + residual
    return convolve(tensors, "to_rgb.1", F.leaky_relu(features, 0.2)).tanh()


def read_first_generation(tensors: Tensors, noise: Tensor, sentence: Tensor) -> Tensor:
    features = F.linear(noise, tensors["fc.weight"], tensors["fc.bias"]).view(len(noise), -1, 4, 4)
    for i in range(len(SMALL_BLOCKS) + 1):
        features = residual = features if i == 0 else doubled(features)
        for numbers, convolution in (((0, 1), "c1"), ((2, 3), "c2")):
            for number in numbers:
                residual = affine(tensors, f"block{i}.affine{number}", residual, sentence)
            residual = convolve(tensors, f"block{i}.{convolution}", residual)
        features = convolve(tensors, f"block{i}.c_sc", features) + tensors[f"block{i}.gamma"] * residual
    return convolve(tensors, "conv_img.1", F.leaky_relu(features, 0.2)).tanh()


def read_caption(tensors: Tensors, ids: list[int]) -> Tensor:
    """[forward | backward] final hidden states of one caption, with initial states of zero."""
    ends = []
    for direction, order in (("", ids), ("_reverse", ids[::-1])):
        weights = {name: tensors[f"rnn.{name}_l0{direction}"] for name in ("weight_ih", "weight_hh")}
        bias = tensors[f"rnn.bias_ih_l0{direction}"] + tensors[f"rnn.bias_hh_l0{direction}"]
        state = cell = bias.new_zeros(len(bias) // 4)
        for index in order:
            gates = weights["weight_ih"] @ tensors["encoder.weight"][index] + weights["weight_hh"] @ state + bias
            i, f, g, o = gates.chunk(4)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            state = o.sigmoid() * cell.tanh()
        ends.append(state)
    return torch.cat(ends)


GENERATORS: dict[str, Callable[..., Tensors]] = {"new": new_generation, "first": first_generation}
READINGS = {"new": read_new_generation, "first": read_first_generation}


def double(tensors: Tensors) -> Tensors:
    return {name: tensor.double() for name, tensor in tensors.items()}


class Files:
    """The three public files in a folder, and where the checkpoint is to go."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "model.pt"
        self.generator, self.encoder = folder / "netG_550.pth", folder / "text_encoder200.pth"
        self.captions = folder / "captions.pickle"
        self.write(new_generation(), text_encoder(), vocabulary(WORDS))

    def write(self, generator: object = None, encoder: object = None, captions: object = None) -> None:
        for content, file in ((generator, self.generator), (encoder, self.encoder)):
            if content is not None:
                torch.save(content, file)
        if captions is not None:
            self.captions.write_bytes(pickle.dumps(captions, protocol=2))

    def convert(self) -> Result:
        files = {"generator": self.generator, "text-encoder": self.encoder, "captions": self.captions}
        options = [text for option, file in files.items() for text in (f"--{option}", str(file))]
        return CliRunner().invoke(main, ["convert-dfgan", *options, "--out", str(self.out)])

    def refused(self) -> str:
        """The one line that says why there is no checkpoint."""
        result = self.convert()
        assert result.exit_code == 2, result.output
        assert not self.out.exists()
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        return result.stderr


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_converted_model_draws_what_its_description_says(files: Files, generation: str) -> None:
    tensors, encoder = GENERATORS[generation](), text_encoder()
    files.write(tensors, encoder)
    result = files.convert()
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{files.out}\n"
    model = load_model(files.out).model.double()
    captions = [[4, 2, 6], [1, 2, 3, 4, 5, 6, 7, 8], [7]]
    tokens = torch.zeros(3, 8, dtype=torch.int64)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption)] = torch.tensor(caption)
    expected = torch.stack([read_caption(double(encoder), caption) for caption in captions])
    with torch.no_grad():
        sentence = model.text_encoder(tokens, torch.tensor([3, 8, 1])).sentence
        torch.testing.assert_close(sentence, expected, rtol=0, atol=1e-6)
        noise = torch.randn(3, Z, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        image = model.generator(noise, sentence).image
        drawn = READINGS[generation](double(tensors), noise, expected)
    torch.testing.assert_close(image, drawn, rtol=0, atol=1e-6)
    assert image.shape == (3, 3, 64, 64)
    assert drawn.std() > 0.2
    assert (drawn[0] - drawn[1]).abs().max() > 0.1


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_converted_model_is_exported_like_ours(files: Files, generation: str) -> None:
    files.write(GENERATORS[generation]())
    assert files.convert().exit_code == 0
    bundle = export_bundle(files.out, files.folder / "bundle", "dfgan", lambda _: None, gate_size=SMALL_GATE).folder
    yellow, red = Engine.open(bundle, backend="onnxruntime", precision="fp32").generate_all(
        ["this bird is yellow", "a red belly"], [0]
    )
    assert (yellow.pixels != red.pixels).any()


def test_files_of_the_public_sizes_fit(files: Files) -> None:
    """226 tensors with 9.74 million parameters, as the public checkpoints have them."""
    blocks = [(256, 256)] * 3 + [(256, 128), (128, 64), (64, 32)]
    tensors = new_generation(nf=32, noise=100, sentence=256, blocks=blocks)
    assert len(tensors) == 226
    assert round(sum(tensor.numel() for tensor in tensors.values()) / 1e6, 2) == 9.74
    files.write(tensors, text_encoder(embedding=300, sentence=256))
    assert files.convert().exit_code == 0, files.convert().output
    sizes = load_model(files.out).model.sizes
    assert (sizes.resolution, sizes.base_channels, sizes.noise_width, sizes.sentence_width) == (256, 32, 100, 256)


def test_nested_files_and_prefixes_are_understood(files: Files) -> None:
    assert files.convert().exit_code == 0
    plain = load_model(files.out).model.state_dict()
    prefixed = {f"module.{name}": tensor for name, tensor in new_generation().items()}
    files.write({"model": {"netG": prefixed, "netD": {}, "netC": {}}, "optimizers": {}, "epoch": 1220})
    assert files.convert().exit_code == 0
    for name, tensor in load_model(files.out).model.state_dict().items():
        assert torch.equal(tensor, plain[name])


def test_the_checkpoint_says_where_it_comes_from(files: Files) -> None:
    files.write(first_generation())
    files.convert()
    provenance = load_model(files.out).provenance
    assert provenance["converted_from"] == "DF-GAN, first generation"
    assert provenance["files"].keys() == {"netG_550.pth", "text_encoder200.pth"}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_missing_and_extra_tensors_are_named(files: Files, generation: str) -> None:
    tensors = GENERATORS[generation]()
    missing = next(name for name in tensors if "c2.weight" in name)
    del tensors[missing]
    files.write({**tensors, "attention.weight": torch.zeros(1)})
    line = files.refused()
    assert files.generator.name in line
    assert f"lacks {missing}" in line
    assert "has unknown attention.weight" in line


@pytest.mark.parametrize("generation", GENERATIONS)
def test_another_shape_is_named_as_the_file_has_it(files: Files, generation: str) -> None:
    tensors = GENERATORS[generation]()
    name = [name for name in tensors if name.endswith("linear1.weight")][-1]
    shape = tuple(tensors[name].shape)
    files.write({**tensors, name: torch.zeros(shape[0] + 1, shape[1])})
    assert f"{name} {(shape[0] + 1, shape[1])} instead of {shape}" in files.refused()


def test_missing_tensors_of_the_text_encoder_are_named(files: Files) -> None:
    encoder = text_encoder()
    del encoder["rnn.bias_hh_l0_reverse"]
    files.write(encoder=encoder)
    assert f"{files.encoder.name}' was not written by DF-GAN's code: it lacks rnn.bias_hh_l0_reverse" in files.refused()


def test_files_given_in_the_wrong_order_are_told_apart(files: Files) -> None:
    files.write(text_encoder(), new_generation())
    assert "expected tensors named GBlocks.* or block0.*, found encoder.weight" in files.refused()


def test_a_generator_for_other_sentences_is_refused(files: Files) -> None:
    files.write(encoder=text_encoder(sentence=S + 4))
    assert f"expects sentences of width {S}" in files.refused()


def test_a_vocabulary_of_another_data_set_is_refused(files: Files) -> None:
    files.write(captions=vocabulary(WORDS[:-1]))
    assert f"has {len(WORDS) - 1} words, the text encoder {len(WORDS)}" in files.refused()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([[], []], "expected two lists and two dictionaries"),
        ({"words": 1}, "expected two lists and two dictionaries"),
        ([[], [], {1: "<end>", 2: "bird"}, {}], "from 0 without gaps"),
        (vocabulary(["the", *WORDS[1:]]), "'the' at id 0; expected '<end>'"),
        ([[], [], {0: "<end>", 1: "bird", 2: "bird"}, {"<end>": 0, "bird": 2}], "several ids for bird"),
        (vocabulary(["<end>", ""]), "as a word"),
        ([[], [], {0: "<end>", 1: 5}, {"<end>": 0, 5: 1}], "'5' as a word"),
        ([[], [], {0: "<end>", 1: "bird"}, {"<end>": 1, "bird": 0}], "contradicts itself"),
        ([[], [], {}, {}], "no word at id 0"),
    ],
)
def test_an_odd_vocabulary_is_refused_with_what_is_odd(files: Files, content: object, message: str) -> None:
    files.write(captions=content)
    line = files.refused()
    assert message in line
    assert files.captions.name in line


def test_values_that_are_not_finite_are_named(files: Files) -> None:
    tensors = new_generation()
    tensors["GBlocks.1.c1.bias"][3] = torch.nan
    files.write(tensors)
    assert "non-finite values in GBlocks.1.c1.bias" in files.refused()


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("which", ["generator", "encoder", "captions"])
def test_nothing_in_a_file_is_executed(files: Files, which: str) -> None:
    folder = files.folder / "executed"
    files.write(**{which: [[], [], {0: "<end>"}, Payload(folder)]})
    assert "nothing was executed" in files.refused()
    assert not folder.exists()


@pytest.mark.parametrize("which", ["generator", "encoder", "captions"])
@pytest.mark.parametrize("damage", ["missing", "cut", "text"])
def test_a_file_that_cannot_be_read_is_named(files: Files, which: str, damage: str) -> None:
    file: Path = getattr(files, which)
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:90] if damage == "cut" else b"a text")
    assert file.name in files.refused()


def test_a_folder_that_cannot_be_written_is_named(files: Files) -> None:
    (files.folder / "file").touch()
    files.out = files.folder / "file" / "model.pt"
    assert "choose another --out" in files.refused()


def test_sizes_out_of_range_are_refused(files: Files) -> None:
    files.write(new_generation(blocks=SMALL_BLOCKS[:2]))
    assert "has unsupported sizes: resolution is 16" in files.refused()
