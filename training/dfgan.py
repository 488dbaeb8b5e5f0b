"""Converts the public checkpoints of DF-GAN (Tao et al., 2022) and its AttnGAN text encoder to our own.

Both generations of its code are supported. The newer one has our tensors under our names. In the first, the condition
is the sentence alone, and each residual has a factor `gamma`; both are rewritten exactly, with zero weights for the
noise, and by scaling the convolution before. The remaining differences are `ModelSizes.first_generation`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2i_engine.errors import UserError, listed, quoted
from t2i_engine.files import sha256
from t2i_engine.manifest import ModelSizes
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
    with _naming(generator):
        drawing = _read_tensors(generator, "netG")
        first_generation = _is_first_generation(drawing)
        widths = _generator_sizes(drawing, first_generation)
    with _naming(text_encoder):
        reading = _read_tensors(text_encoder)
        vocabulary_size, embedding_width = _shape(reading, "encoder.weight", 2)
        _, hidden_width = _shape(reading, "rnn.weight_hh_l0", 2)
        if widths["sentence_width"] != 2 * hidden_width:
            raise ValueError(
                f"gives sentences of width {2 * hidden_width}, and the generator expects sentences of width "
                f"{widths['sentence_width']}: they belong to different models"
            )
    with _naming(captions):
        words = _read_words(captions)
        if len(words) != vocabulary_size:
            raise ValueError(
                f"has {len(words):,} words, the text encoder {vocabulary_size:,}: they belong to different models; "
                "use the captions file of the same data set"
            )
    with _naming(generator, "has unsupported sizes: "):
        sizes = ModelSizes(
            **widths,
            embedding_width=embedding_width,
            vocabulary_size=vocabulary_size,
            conditioning_augmentation=False,
            adaptive_block=False,
            first_generation=first_generation,
        )
    with torch.device("meta"):
        model = TextToImage(sizes)
    with _naming(text_encoder):
        _check(reading, _shapes(model.text_encoder.state_dict()))
    ours = _shapes(model.generator.state_dict())
    with _naming(generator):
        _check(drawing, _first_generation_shapes(ours, sizes) if first_generation else ours)
    if first_generation:
        drawing = _rewritten(drawing, ours, sizes)
    weights = {f"text_encoder.{name}": tensor for name, tensor in reading.items()}
    weights |= {f"generator.{name}": tensor for name, tensor in drawing.items()}
    provenance = {
        "converted_from": "DF-GAN, first generation" if first_generation else "DF-GAN",
        "files": {file.name: sha256(file) for file in (generator, text_encoder)},
    }
    save_checkpoint(out, sizes, words, weights, provenance)
    return out


@contextmanager
def _naming(file: Path, fault: str = "") -> Iterator[None]:
    """Raises what was found wrong with a file, a `ValueError` or `OSError`, as `DfGanError` with the file's name."""
    try:
        yield
    except ValueError as error:
        raise DfGanError(f"{quoted(str(file), 200)} {fault}{error}") from error
    except OSError as error:
        raise DfGanError(f"{quoted(str(file), 200)} cannot be read ({error.strerror}); give a file of DF-GAN") from None


def _read_tensors(file: Path, network: str = "") -> Tensors:
    """The tensors of a PyTorch file by name, as float32; `network` is the part of a nested file to use."""
    if file.stat().st_size > LARGEST_WEIGHTS:
        raise ValueError(f"is larger than {LARGEST_WEIGHTS >> 30} GiB, unlike any of DF-GAN's files")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error of its own
        raise ValueError(
            "is truncated, or not a plain PyTorch file (nothing was executed); download it again"
        ) from error
    for key in ("model", network):
        if isinstance(content, dict) and key in content:
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError("holds no named tensors; expected a .pth file of DF-GAN")
    if strange := [str(name) for name, value in content.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"holds {quoted(strange[0])}, which is not a tensor; expected a .pth file of DF-GAN")
    tensors = {str(name).removeprefix("module."): value.detach().float() for name, value in content.items()}
    if broken := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"has non-finite values in {_named(broken)}; use another checkpoint")
    return tensors


def _is_first_generation(tensors: Tensors) -> bool:
    new, first = (any(name.startswith(prefix) for name in tensors) for prefix in ("GBlocks.", "block0."))
    if new == first:
        raise ValueError(
            f"is not a DF-GAN generator: expected tensors named GBlocks.* or block0.*, found {_named(tensors)}"
        )
    return first


def _generator_sizes(tensors: Tensors, first_generation: bool) -> dict[str, int]:
    """The generator's sizes, from the shapes of a few tensors; `_check` compares all of them."""
    pattern = re.compile(r"block(\d+)\." if first_generation else r"GBlocks\.(\d+)\.")
    blocks = {match[1] for name in tensors if (match := pattern.match(name))}
    doublings = len(blocks) - first_generation
    _, base_channels, *_ = _shape(tensors, "conv_img.1.weight" if first_generation else "to_rgb.1.weight", 4)
    _, noise_width = _shape(tensors, "fc.weight", 2)
    affine = "block0.affine0" if first_generation else "GBlocks.0.fuse1.affine0"
    _, condition_width = _shape(tensors, f"{affine}.fc_gamma.linear1.weight", 2)
    return {
        "resolution": SMALLEST_SIDE << min(doublings, 30),
        "base_channels": base_channels,
        "noise_width": noise_width,
        "sentence_width": condition_width if first_generation else condition_width - noise_width,
    }


def _shape(tensors: Tensors, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in tensors or tensors[name].dim() != dimensions:
        raise ValueError(f"has no tensor {name} of {dimensions} dimensions; it has {_named(tensors)}")
    return tuple(tensors[name].shape)


def _shapes(tensors: Mapping[str, Any]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _check(tensors: Tensors, expected: Shapes) -> None:
    """Raises `ValueError`, naming the tensors that are missing, unexpected, or of another shape."""
    found = _shapes(tensors)
    other = {name: shape for name, shape in expected.items() if found.get(name, shape) != shape}
    faults = {
        "lacks": expected.keys() - found.keys(),
        "has unknown": found.keys() - expected.keys(),
        "has other shapes in": [f"{name} {found[name]} instead of {shape}" for name, shape in other.items()],
    }
    if problems := [f"{fault} {_named(sorted(names))}" for fault, names in faults.items() if names]:
        raise ValueError(f"was not written by DF-GAN's code: it {', '.join(problems)}")


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
    cure = "use DF-GAN's own captions file"
    try:
        content = read_safe_pickle(file)
    except SafePickleError as error:
        raise ValueError(f"is not a captions file of DF-GAN: {error}; nothing was executed") from None
    if not isinstance(content, list | tuple) or len(content) != 4 or not all(isinstance(x, dict) for x in content[2:]):
        raise ValueError("is not a captions file of DF-GAN: expected two lists and two dictionaries")
    by_id, by_word = content[2:]
    if by_id.keys() != set(range(len(by_id))):
        raise ValueError(f"does not number its words from 0 without gaps; {cure}")
    words = [by_id[index] for index in range(len(by_id))]
    if odd := [word for word in words if not isinstance(word, str) or not word]:
        raise ValueError(f"has {quoted(repr(odd[0]))} as a word; {cure}")
    if twice := [word for word, count in Counter(words).items() if count > 1]:
        raise ValueError(f"has several ids for {_named(twice)}; {cure}")
    if not words or words[0] != PADDING:
        raise ValueError(f"has {quoted(words[0]) if words else 'no word'} at id 0; expected {PADDING!r}")
    if by_word != {word: index for index, word in enumerate(words)}:
        raise ValueError(f"contradicts itself: its two dictionaries differ; {cure}")
    return tuple(words)


def _named(names: Iterable[str]) -> str:
    shown = [name if name.isprintable() and len(name) < 120 else quoted(name) for name in names]
    more = f" and {len(shown) - MOST_NAMED:,} more" if len(shown) > MOST_NAMED else ""
    return listed(shown[:MOST_NAMED]) + more
