"""Converts the public checkpoints of DF-GAN (Tao et al., 2022) and its AttnGAN text encoder to our own.

Both generations of its code are supported. The newer one has our tensors under our names. In the first, the condition
is the sentence alone, and each residual has a factor `gamma`; both are rewritten exactly, with zero weights for the
noise, and by scaling the convolution before. The remaining differences are `ModelSizes.first_generation`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2i_engine.bundle import ModelSizes
from t2i_engine.errors import UserError, listed, quoted
from t2i_engine.tokenizer import PADDING
from training.checkpoint import save_checkpoint
from training.models.generator import SMALLEST_SIDE
from training.models.text_to_image import TextToImage
from training.safe_pickle import SafePickleError, read_safe_pickle

LARGEST_WEIGHTS = 2 << 30
MOST_NAMED = 4  # tensors in one message

Tensors = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


class DfGanError(UserError):
    """A DF-GAN checkpoint or vocabulary that cannot be read or does not fit."""


def convert_dfgan(generator: Path, text_encoder: Path, captions: Path, out: Path) -> Path:
    """Writes `out`, a checkpoint like those of `t2i-engine train`, from DF-GAN's three files, and returns it.

    Nothing in the files is executed. Raises `DfGanError` if one cannot be read or they do not match.
    """
    drawing = _read_tensors(generator, "netG")
    reading = _read_tensors(text_encoder, None)
    first_generation = _is_first_generation(drawing, generator)
    sizes = _sizes(drawing, generator, reading, text_encoder, first_generation)
    words = _read_words(captions)
    if len(words) != sizes.vocabulary_size:
        raise DfGanError(
            f"{quoted(str(captions), 200)} has {len(words):,} words, the text encoder {sizes.vocabulary_size:,}: they "
            "belong to different models; use the captions file of the same data set"
        )
    with torch.device("meta"):
        model = TextToImage(sizes)
    _check(reading, _shapes(model.text_encoder.state_dict()), text_encoder)
    ours = _shapes(model.generator.state_dict())
    theirs = _first_generation_shapes(ours, sizes) if first_generation else ours
    _check(drawing, theirs, generator)
    if first_generation:
        drawing = _rewritten(drawing, ours, sizes)
    weights = {f"text_encoder.{name}": tensor for name, tensor in reading.items()}
    weights |= {f"generator.{name}": tensor for name, tensor in drawing.items()}
    provenance = {
        "converted_from": "DF-GAN, first generation" if first_generation else "DF-GAN",
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (generator, text_encoder)},
    }
    save_checkpoint(out, sizes, words, weights, provenance)
    return out


def _read_tensors(file: Path, network: str | None) -> Tensors:
    """The tensors of a PyTorch file by name, as float32; `network` is the part of a nested file to use."""
    shown = quoted(str(file), 200)
    try:
        if file.stat().st_size > LARGEST_WEIGHTS:
            raise DfGanError(f"{shown} is larger than {LARGEST_WEIGHTS >> 30} GiB, unlike any of DF-GAN's files")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DfGanError(f"{shown} cannot be read ({error.strerror}); give a .pth file of DF-GAN") from None
    except DfGanError:
        raise
    except Exception as error:  # torch.load has no error of its own
        raise DfGanError(f"{shown} is truncated, or not a plain PyTorch file; nothing was executed") from error
    for key in ("model", network):
        if isinstance(content, dict) and key in content:
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise DfGanError(f"{shown} holds no named tensors; expected a .pth file of DF-GAN")
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise DfGanError(f"{shown} holds {quoted(strange[0])}, which is not a tensor; expected a .pth file of DF-GAN")
    tensors = {str(name).removeprefix("module."): value.detach().float() for name, value in content.items()}
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise DfGanError(f"{shown} has non-finite values in {_named(broken)}; use another checkpoint")
    return tensors


def _is_first_generation(tensors: Tensors, file: Path) -> bool:
    found = [any(name.startswith(prefix) for name in tensors) for prefix in ("GBlocks.", "block0.")]
    if found.count(True) != 1:
        raise DfGanError(
            f"{quoted(str(file), 200)} is not a DF-GAN generator: expected tensors named GBlocks.* or block0.*, "
            f"found {_named(tensors)}"
        )
    return found[1]


def _sizes(drawing: Tensors, generator: Path, reading: Tensors, encoder: Path, first_generation: bool) -> ModelSizes:
    """The model's sizes, from the shapes of a few tensors; `_check` compares all of them."""
    output = "conv_img.1.weight" if first_generation else "to_rgb.1.weight"
    pattern = re.compile(r"block(\d+)\." if first_generation else r"GBlocks\.(\d+)\.")
    blocks = {match[1] for name in drawing if (match := pattern.match(name))}
    doublings = len(blocks) - 1 if first_generation else len(blocks)
    _, base_channels, *_ = _shape(drawing, output, 4, generator)
    _, noise_width = _shape(drawing, "fc.weight", 2, generator)
    vocabulary_size, embedding_width = _shape(reading, "encoder.weight", 2, encoder)
    _, hidden_width = _shape(reading, "rnn.weight_hh_l0", 2, encoder)
    first = "block0.affine0" if first_generation else "GBlocks.0.fuse1.affine0"
    _, condition_width = _shape(drawing, f"{first}.fc_gamma.linear1.weight", 2, generator)
    sentence_width = condition_width if first_generation else condition_width - noise_width
    if sentence_width != 2 * hidden_width:
        raise DfGanError(
            f"{quoted(str(generator), 200)} expects sentences of width {sentence_width}, and "
            f"{quoted(str(encoder), 200)} gives {2 * hidden_width}: they belong to different models"
        )
    try:
        return ModelSizes(
            resolution=SMALLEST_SIDE << min(doublings, 30),
            base_channels=base_channels,
            noise_width=noise_width,
            sentence_width=sentence_width,
            embedding_width=embedding_width,
            vocabulary_size=vocabulary_size,
            conditioning_augmentation=False,
            adaptive_block=False,
            first_generation=first_generation,
        )
    except ValueError as error:
        raise DfGanError(f"{quoted(str(generator), 200)} has unsupported sizes: {error}") from None


def _shape(tensors: Tensors, name: str, dimensions: int, file: Path) -> tuple[int, ...]:
    if name not in tensors or tensors[name].dim() != dimensions:
        fault = f"has no tensor {name}" if name not in tensors else f"has {name} of shape {tuple(tensors[name].shape)}"
        raise DfGanError(
            f"{quoted(str(file), 200)} {fault}, expected {dimensions} dimensions; it has {_named(tensors)}"
        )
    return tuple(tensors[name].shape)


def _shapes(tensors: Mapping[str, Any]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check(tensors: Tensors, expected: Shapes, file: Path) -> None:
    """Raises `DfGanError`, naming the tensors that are missing, unexpected, or of another shape."""
    faults = [
        ("lacks", [name for name in expected if name not in tensors]),
        ("has unknown", [name for name in tensors if name not in expected]),
        (
            "has other shapes in",
            [
                f"{name} {tuple(tensors[name].shape)} instead of {shape}"
                for name, shape in expected.items()
                if name in tensors and tuple(tensors[name].shape) != shape
            ],
        ),
    ]
    found = [f"{fault} {_named(names)}" for fault, names in faults if names]
    if found:
        raise DfGanError(f"{quoted(str(file), 200)} was not written by DF-GAN's code: it {', '.join(found)}")


def _first_generation_name(name: str) -> str:
    """The first generation's name of one of our generator's tensors."""
    name = name.replace("to_rgb.", "conv_img.").replace("stem.", "block0.")
    name = re.sub(r"GBlocks\.(\d+)\.", lambda match: f"block{int(match[1]) + 1}.", name)
    return re.sub(r"fuse([12])\.affine([01])", lambda match: f"affine{2 * (int(match[1]) - 1) + int(match[2])}", name)


def _first_generation_shapes(ours: Shapes, sizes: ModelSizes) -> Shapes:
    shapes = {_first_generation_name(name): shape for name, shape in ours.items()}
    for name, (rows, *columns) in shapes.items():
        if name.endswith("linear1.weight"):
            shapes[name] = (rows, columns[0] - sizes.noise_width)
    blocks = dict.fromkeys(name.partition(".")[0] for name in shapes if name.startswith("block"))
    return shapes | {f"{block}.gamma": (1,) for block in blocks}


def _rewritten(theirs: Tensors, ours: Iterable[str], sizes: ModelSizes) -> Tensors:
    """The first generation's tensors as ours: zero weights for the noise, `gamma` in the last convolution."""
    tensors = {}
    for name in ours:
        old = _first_generation_name(name)
        tensor = theirs[old]
        if old.endswith("linear1.weight"):
            tensor = torch.cat([tensor.new_zeros(len(tensor), sizes.noise_width), tensor], dim=1)
        elif ".c2." in old:
            gamma = theirs[f"{old.partition('.')[0]}.gamma"]
            tensor = (gamma.double() * tensor.double()).float()
        tensors[name] = tensor
    return tensors


def _read_words(file: Path) -> tuple[str, ...]:
    """The vocabulary by token id, from [train captions, test captions, words by id, ids by word]."""
    shown = quoted(str(file), 200)
    try:
        content = read_safe_pickle(file)
    except OSError as error:
        raise DfGanError(f"{shown} cannot be read ({error.strerror}); give DF-GAN's captions file") from None
    except SafePickleError as error:
        raise DfGanError(f"{shown} is not a captions file of DF-GAN: {error}; nothing was executed") from None
    if not isinstance(content, list | tuple) or len(content) != 4 or not all(isinstance(x, dict) for x in content[2:]):
        raise DfGanError(f"{shown} is not a captions file of DF-GAN: expected two lists and two dictionaries")
    by_id, by_word = content[2:]
    if by_id.keys() != set(range(len(by_id))):
        raise DfGanError(f"{shown} does not number its words from 0 without gaps; use DF-GAN's own captions file")
    words = [by_id[index] for index in range(len(by_id))]
    odd = [word for word in words if not isinstance(word, str) or not word]
    if odd:
        raise DfGanError(f"{shown} has {quoted(repr(odd[0]))} as a word; use DF-GAN's own captions file")
    twice = [word for word, count in Counter(words).items() if count > 1]
    if twice:
        raise DfGanError(f"{shown} has several ids for {_named(twice)}; use DF-GAN's own captions file")
    if not words or words[0] != PADDING:
        raise DfGanError(f"{shown} has {quoted(words[0]) if words else 'no word'} at id 0; expected {PADDING!r}")
    if by_word != {word: index for index, word in enumerate(words)}:
        raise DfGanError(f"{shown} contradicts itself: its two dictionaries differ; use DF-GAN's own captions file")
    return tuple(words)


def _named(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return (
        listed(name if name.isprintable() and len(name) < 120 else quoted(name) for name in names[:MOST_NAMED]) + more
    )
