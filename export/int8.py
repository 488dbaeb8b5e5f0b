"""Int8: the generator's large convolutions in 8 bits, quantized statically per channel (QDQ), calibrated on captions.

Weights are signed and activations unsigned, as the dot products of AVX-512 and AVX2 take them. The smallest maps,
shortcuts and the image itself stay in fp32. Where the rest together err too much, the layers that err most stay in
fp32, too, and the manifest names them.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.artifact import Artifact
from export.half_weights import is_half, store_in_half
from export.onnx_graphs import build_generator, build_text_encoder, convolution_nodes, to_artifact
from export.optimized_generator import block_convolutions
from t2i_engine.backends.base import Array, available_threads
from t2i_engine.backends.pytorch import exact_runners
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format, find
from t2i_engine.parity import GATE
from t2i_engine.sampler import generator_feeds, text_encoder_feeds
from training.models.text_to_image import TextToImage

PICTURES = 64  # to calibrate with, of captions spread over those given
RANDOM = 32  # more, of random words, so that captions unlike the data set's are not clipped
TRIED = 64  # pictures of random words that a choice of layers is tried on
FIRST_SEED = 1_000_000  # far from the gate's seeds: a format is not verified on what it was calibrated on
WANTED = 37.0  # dB of the worst tried picture
SMALLEST_MAPS = 2  # blocks that stay in fp32: they cost little, and their errors show most


def build(
    model: TextToImage, row: Format, captions: Sequence[Sequence[int]], files: Mapping[str, bytes | Path]
) -> Iterator[Artifact]:
    """Quantizes the generator, calibrated on pictures of `captions`, token ids each; the text encoder stays in fp32.

    The fp32 graph is taken from `files` if it is there.
    """
    with tempfile.TemporaryDirectory(prefix="t2i-engine-") as folder:
        fp32 = Path(folder) / "fp32.onnx"
        found = files.get(find("onnx").files[GENERATOR]) or build_generator(model, row.form).content
        fp32.write_bytes(found if isinstance(found, bytes) else found.read_bytes())
        quantization = _Quantization(model, captions, fp32)
        kept = choose_fp32_layers(quantization.layers, quantization.error, WANTED)
        quantized = [layer for layer in quantization.layers if layer not in kept]
        proto = onnx.load(quantization.write(quantized))
    used = {node.domain for node in proto.graph.node}
    for unused in [one for one in proto.opset_import if one.domain not in used]:
        proto.opset_import.remove(unused)  # ONNX Runtime's preparation imports every operator set it knows
    if is_half(model):
        store_in_half(proto)
    notes = {"form": row.form, "calibrated_on": f"{PICTURES} of {len(captions):,} captions, {RANDOM} of random words"}
    if kept:
        notes["kept_in_fp32"] = ", ".join(f"{layer} ({psnr:.1f} dB alone)" for layer, psnr in kept.items())
    yield to_artifact(proto, find("onnx-int8"), GENERATOR, notes)
    yield build_text_encoder(model)


class _Quantization:
    """An fp32 generator, any `layers` of which can be quantized on trial."""

    def __init__(self, model: TextToImage, captions: Sequence[Sequence[int]], fp32: Path) -> None:
        self._prepared, self._quantized = fp32.with_name("prepared.onnx"), fp32.with_name("quantized.onnx")
        quant_pre_process(fp32, self._prepared, skip_symbolic_shape=True)
        prepared = onnx.load(self._prepared)
        self.layers = [layer for block in block_convolutions(model.generator)[SMALLEST_MAPS:] for layer in block]
        self._nodes = {layer: convolution_nodes(prepared, layer) for layer in self.layers}
        spread = [captions[number * len(captions) // PICTURES] for number in range(PICTURES)]
        words = [*_random_words(model, RANDOM, seed=0), *_random_words(model, TRIED, seed=1)]
        feeds = [_feeds(model, ids, number) for number, ids in enumerate([*spread, *words])]
        self._calibration, self._tried = feeds[: PICTURES + RANDOM], feeds[PICTURES + RANDOM :]
        self._expected = self._images(fp32)

    def write(self, layers: Iterable[str]) -> Path:
        """Writes the graph with these layers in 8 bits, and returns its file."""
        quantize_static(
            self._prepared,
            self._quantized,
            _Reader(iter(self._calibration)),
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


def choose_fp32_layers(
    layers: Sequence[str], error: Callable[[Sequence[str]], float], wanted: float
) -> dict[str, float]:
    """The layers to keep in fp32 so that the worst picture has `wanted` dB, with the dB of each alone in 8 bits.

    `error` gives the mean square error with some layers in 8 bits. Errors nearly add up: the layers that err most are
    kept until the rest is within the bound. If no layer would be left, none is kept, and the gate rejects the format.
    """
    allowed = 4 / 10 ** (wanted / 10)  # images are in [−1, 1]
    if error(layers) <= allowed:
        return {}
    alone = {layer: error([layer]) for layer in layers}
    quantized = sorted(layers, key=alone.__getitem__)
    while quantized and (sum(alone[layer] for layer in quantized) > 2 * allowed or error(quantized) > allowed):
        quantized.pop()
    decibels = {layer: 10 * math.log10(4 / max(alone[layer], 4e-20)) for layer in layers}
    return {layer: decibels[layer] for layer in layers if quantized and layer not in quantized}


@dataclass(frozen=True)
class _Reader:
    """Inputs of pictures, one at a time, as ONNX Runtime asks for them."""

    feeds: Iterator[Mapping[str, Array]]

    def get_next(self) -> Mapping[str, Array] | None:
        """The inputs of the next picture; None after the last."""
        return next(self.feeds, None)


def _random_words(model: TextToImage, count: int, seed: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [
        random.integers(1, model.sizes.vocabulary_size, 1 + number % GATE.longest).tolist() for number in range(count)
    ]


def _feeds(model: TextToImage, caption: Sequence[int], number: int) -> Mapping[str, Array]:
    encoder = exact_runners(model)[TEXT_ENCODER]
    sentence = encoder.run(text_encoder_feeds([tuple(caption)]), ["sentence"])["sentence"]
    return generator_feeds(model.sizes, sentence, [FIRST_SEED + number])
