"""Int8: the generator's convolutions in 8 bits, static and per channel (QDQ), with ranges found on real captions.

Weights are signed, activations unsigned: what the dot products of AVX-512 and AVX2 take. Where all of them together
miss what the format allows, those that err most stay in fp32, and the manifest says which.
"""

import math
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.built import BuiltFile
from export.onnx_graphs import OPSET, build_generator, build_text_encoder, checked
from t2i_engine.backends.base import Array, available_threads
from t2i_engine.backends.pytorch import reference_runners
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format, find
from t2i_engine.parity import GATE
from t2i_engine.sampler import generator_feeds, text_encoder_feeds
from training.models.text_to_image import TextToImage

PICTURES = 64
RANDOM = 32  # of words at random besides: a caption unlike the data set's is not cut off
TRIED = 64  # pictures that a choice of layers is tried on, of words at random
FIRST_SEED = 1_000_000  # far from the gate's seeds: a format is not proved with what it was made from
MARGIN = 2.0  # dB that the worst of those pictures must be better than the gate, which sees more, asks for

# Convolutions that cost little and whose errors show most: of the smallest maps, shortcuts, and the image itself.
_EXACT = re.compile(r"generator\.(GBlocks\.[01]\.|GBlocks\.\d+\.c_sc\.|to_rgb\.|stem\.)")
_LAYER = re.compile(r"generator\.(GBlocks\.\d+\.c\d)\.")


def build(
    model: TextToImage, row: Format, captions: Sequence[Sequence[int]], files: Mapping[str, bytes | Path]
) -> Iterator[BuiltFile]:
    """Quantizes the generator, calibrated on pictures of `captions`, token ids each; the text encoder stays in fp32.

    The graph in fp32 is taken from `files`, where it is there.
    """
    with tempfile.TemporaryDirectory(prefix="t2i-engine-") as folder:
        exact = Path(folder) / "exact.onnx"
        found = files.get(find("onnx").files[GENERATOR]) or build_generator(model, row.form).content
        exact.write_bytes(found if isinstance(found, bytes) else found.read_bytes())
        quantization = _Quantization(model, captions, exact)
        kept = choose_exact(quantization.layers, quantization.error, (row.tolerance.psnr or 0) + MARGIN)
        chosen = [layer for layer in quantization.layers if layer not in kept]
        content = checked(_without_unused_domains(onnx.load(quantization.write(chosen))))
    notes = {"form": row.form, "calibrated_on": f"{PICTURES} of {len(captions):,} captions, {RANDOM} of random words"}
    if kept:
        notes["kept_in_fp32"] = ", ".join(f"{layer} ({psnr:.1f} dB alone)" for layer, psnr in kept.items())
    yield BuiltFile(row.files[GENERATOR], content, find("onnx-int8"), GENERATOR, OPSET, notes)
    yield build_text_encoder(model)


class _Quantization:
    """A generator in fp32, some of whose layers can be quantized and tried."""

    def __init__(self, model: TextToImage, captions: Sequence[Sequence[int]], exact: Path) -> None:
        self._model, self._captions = model, captions
        self._prepared, self._quantized = exact.with_name("prepared.onnx"), exact.with_name("quantized.onnx")
        quant_pre_process(exact, self._prepared, skip_symbolic_shape=True)
        self._nodes: dict[str, list[str]] = {}  # of each layer; four convolutions are one in phases
        for node in onnx.load(self._prepared).graph.node:
            weights = [name for name in node.input if _LAYER.match(name) and not _EXACT.match(name)]
            if node.op_type in ("Conv", "ConvTranspose") and weights:
                self._nodes.setdefault(_LAYER.match(weights[0])[1], []).append(node.name)  # type: ignore[index]
        words = _random_words(model, TRIED, seed=1)
        self._tried = [_feeds(model, ids, PICTURES + RANDOM + number) for number, ids in enumerate(words)]
        self._expected = self._images(exact)

    @property
    def layers(self) -> list[str]:
        """Those that can be quantized, in the order of the graph."""
        return list(self._nodes)

    def write(self, layers: Iterable[str]) -> Path:
        """Writes the graph with these layers in 8 bits, and returns its file."""
        quantize_static(
            self._prepared,
            self._quantized,
            _Calibration(self._model, self._captions),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=[node for layer in layers for node in self._nodes[layer]],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return self._quantized

    def error(self, layers: Iterable[str]) -> float:
        """The mean square error of the worst picture with these layers in 8 bits."""
        pairs = zip(self._images(self.write(layers)), self._expected, strict=True)
        return max(float(np.square(found - expected, dtype=np.float64).mean()) for found, expected in pairs)

    def _images(self, file: Path) -> list[Array]:
        options = SessionOptions()
        options.intra_op_num_threads = available_threads()
        session = InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return [session.run(["image"], dict(feeds))[0] for feeds in self._tried]


def choose_exact(layers: Sequence[str], error: Callable[[Sequence[str]], float], wanted: float) -> dict[str, float]:
    """The layers to keep in fp32 so that the worst picture has `wanted` dB, with the dB of each alone in 8 bits.

    `error` tells the mean square error of some layers in 8 bits. Errors add up, nearly: layers that err most are kept,
    until the others are within what is allowed. Where none would be left, none is kept, for the gate to refuse them.
    """
    allowed = 4 / 10 ** (wanted / 10)  # an image is in [−1, 1]
    if error(layers) <= allowed:
        return {}
    alone = {layer: error([layer]) for layer in layers}
    chosen = sorted(layers, key=alone.__getitem__)
    while chosen and (sum(alone[layer] for layer in chosen) > 2 * allowed or error(chosen) > allowed):
        chosen.pop()
    return {layer: _decibels(alone[layer]) for layer in layers if chosen and layer not in chosen}


def _decibels(squares: float) -> float:
    return 10 * math.log10(4 / max(squares, 4e-20))


def _without_unused_domains(proto: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's preparation imports every set of operators that it knows."""
    used = {node.domain for node in proto.graph.node}
    imports = [one for one in proto.opset_import if one.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    return proto


class _Calibration:
    """Pictures to calibrate with, one at a time: captions spread over those given, each with a seed of its own."""

    def __init__(self, model: TextToImage, captions: Sequence[Sequence[int]]) -> None:
        spread = [captions[number * len(captions) // PICTURES] for number in range(PICTURES)]
        words = _random_words(model, RANDOM, seed=0)
        self._feeds = (_feeds(model, ids, number) for number, ids in enumerate([*spread, *words]))

    def get_next(self) -> Mapping[str, Array] | None:
        """The inputs of the next picture; None behind the last."""
        return next(self._feeds, None)


def _random_words(model: TextToImage, count: int, seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [
        random.integers(1, model.sizes.vocabulary_size, 1 + number % GATE.longest).tolist() for number in range(count)
    ]


def _feeds(model: TextToImage, caption: Sequence[int], number: int) -> Mapping[str, Array]:
    encoder = reference_runners(model)[TEXT_ENCODER]
    sentence = encoder.run(text_encoder_feeds([tuple(caption)]), ["sentence"])["sentence"]
    return generator_feeds(model.sizes, sentence, [FIRST_SEED + number])
