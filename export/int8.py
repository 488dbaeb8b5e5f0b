"""Int8: the generator's convolutions in 8 bits, static and per channel (QDQ), with ranges found on real captions.

Weights are signed, activations unsigned: what the dot products of AVX-512 and AVX2 take.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.built import BuiltFile
from export.onnx_graphs import OPSET, build_generator, build_text_encoder, checked
from export.parity import LONGEST, image_feeds, one_thread, sentence_case
from t2i_engine.backends.base import Array
from t2i_engine.formats import GENERATOR, Format, find
from t2i_engine.tokenizer import pad
from training.models.text_to_image import TextToImage

PICTURES = 64
RANDOM = 32  # of words at random besides: a caption unlike the data set's is not cut off
FIRST_SEED = 1_000_000  # far from the gate's seeds: a format is not proved with what it was made from

# Convolutions that cost little and whose errors show most: of the smallest maps, shortcuts, and the image itself.
_EXACT = re.compile(r"generator\.(GBlocks\.[01]\.|GBlocks\.\d+\.c_sc\.|to_rgb\.|stem\.)")


def build(
    model: TextToImage, row: Format, captions: Sequence[Sequence[int]], files: Mapping[str, bytes | Path]
) -> Iterator[BuiltFile]:
    """Quantizes the generator, calibrated on pictures of `captions`, token ids each; the text encoder stays in fp32.

    The graph in fp32 is taken from `files`, where it is there.
    """
    with tempfile.TemporaryDirectory(prefix="t2i-engine-") as folder:
        exact, prepared, quantized = (Path(folder) / name for name in ("exact.onnx", "prepared.onnx", "quantized.onnx"))
        found = files.get(find("onnx").files[GENERATOR]) or build_generator(model, row.form).content
        exact.write_bytes(found if isinstance(found, bytes) else found.read_bytes())
        quant_pre_process(exact, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            _Calibration(model, captions),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "ConvTranspose"],
            nodes_to_exclude=_kept_exact(onnx.load(prepared).graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        content = checked(_without_unused_domains(onnx.load(quantized)))
    notes = {"form": row.form, "calibrated_on": f"{PICTURES} of {len(captions):,} captions, {RANDOM} of random words"}
    yield BuiltFile(row.files[GENERATOR], content, find("onnx-int8"), GENERATOR, OPSET, notes)
    yield build_text_encoder(model)


def _without_unused_domains(proto: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's preparation imports every set of operators that it knows."""
    used = {node.domain for node in proto.graph.node}
    imports = [one for one in proto.opset_import if one.domain in used]
    del proto.opset_import[:]
    proto.opset_import.extend(imports)
    return proto


def _kept_exact(graph: onnx.GraphProto) -> list[str]:
    return [node.name for node in graph.node if any(_EXACT.match(name) for name in node.input)]


class _Calibration:
    """Pictures to calibrate with, one at a time: captions spread over those given, each with a seed of its own."""

    def __init__(self, model: TextToImage, captions: Sequence[Sequence[int]]) -> None:
        spread = [captions[number * len(captions) // PICTURES] for number in range(PICTURES)]
        random = np.random.default_rng(0)
        words = [random.integers(1, model.sizes.vocabulary_size, 1 + number % LONGEST) for number in range(RANDOM)]
        self._feeds = (
            _feeds(model, ids, number) for number, ids in enumerate([*spread, *map(np.ndarray.tolist, words)])
        )

    def get_next(self) -> Mapping[str, Array] | None:
        """The inputs of the next picture; None behind the last."""
        return next(self._feeds, None)


def _feeds(model: TextToImage, caption: Sequence[int], number: int) -> Mapping[str, Array]:
    with one_thread():
        sentence = sentence_case(model, *pad([tuple(caption)])).expected["sentence"]
    return image_feeds(model, sentence, [FIRST_SEED + number])
