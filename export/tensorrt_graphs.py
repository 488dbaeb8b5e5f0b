"""ONNX graphs from which TensorRT builds engines on the machine that runs them.

TensorRT takes the precision of every layer from the graph, so the fp16 graphs compute in fp16 between fp32 inputs and
outputs. Its parser rejects an fp16 LSTM with lengths. So the backward direction is a forward LSTM over each caption
reversed within its own length, and the final states are gathered at the captions' ends.
"""

import io
import warnings
from collections.abc import Iterator
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn

from export import onnx_graphs
from export.artifact import Artifact
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Format
from t2i_engine.manifest import Graph, graphs_of
from t2i_engine.tensorrt.builder import RTX_TARGETS, build_engine
from t2i_engine.tensorrt.engines import PROFILE, RECORD, engine_file, engine_key
from t2i_engine.tensorrt.variant import load_variant
from training.models.pixels import to_levels
from training.models.text_encoder import TextEncoder
from training.models.text_to_image import TextToImage

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class FlippedTextEncoder(nn.Module):
    """The text encoder as two forward LSTMs; what they compute past a caption's end is ignored."""

    def __init__(self, encoder: TextEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(encoder.encoder.weight.detach().to(dtype))
        self.directions = nn.ModuleList(_one_direction(encoder.rnn, suffix, dtype) for suffix in ("", "_reverse"))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Maps `tokens` int64 (B, T) and `lengths` int64 (B) to sentence vectors, float32 (B, S)."""
        last = lengths[:, None] - 1
        places = torch.arange(tokens.shape[1], device=tokens.device)[None]
        flipped = torch.gather(tokens, 1, (last - places).clamp(min=0))
        ends = []
        for lstm, ids in zip(self.directions, (tokens, flipped), strict=True):
            states = lstm(self.embedding(ids))[0]
            at_end = last[:, :, None].expand(-1, 1, states.shape[2])
            ends.append(torch.gather(states, 1, at_end)[:, 0])
        return torch.cat(ends, dim=1).float()


class TensorRtGenerator(onnx_graphs.GeneratorGraph):
    """A `GeneratorGraph` that casts to uint8 last: an engine supports uint8 only as an output."""

    def to_pixels(self, image: Tensor) -> Tensor:
        """Maps `image` to `pixels`."""
        return to_levels(image).permute(0, 2, 3, 1).to(torch.uint8)


def build(model: TextToImage, row: Format) -> Iterator[Artifact]:
    """Exports both graphs in the row's precision."""
    dtype, graphs = _DTYPES[row.precision], graphs_of(model.sizes)
    encoder = _flipped(FlippedTextEncoder(model.text_encoder, dtype).eval(), graphs[TEXT_ENCODER])
    yield onnx_graphs.to_artifact(encoder, row, TEXT_ENCODER)
    generator = onnx_graphs.traced(TensorRtGenerator(model.generator, row.form, dtype), graphs[GENERATOR])
    yield onnx_graphs.to_artifact(generator, row, GENERATOR)


def build_with_engines(model: TextToImage, row: Format) -> Iterator[Artifact]:
    """Exports both graphs and builds an engine of each for `RTX_TARGETS`, with its record. Needs no GPU."""
    variant, graphs = load_variant(row.backend), graphs_of(model.sizes)
    for file in build(model, row):
        yield file
        assert file.graph is not None
        key = engine_key(file.entry.sha256, row, variant) | {"targets": " ".join(RTX_TARGETS)}
        built = build_engine(variant, file.content, graphs[file.graph], row.precision, PROFILE, key, RTX_TARGETS)
        notes = {"targets": RTX_TARGETS, "precision": built.record.summary()}
        engine = engine_file(row, file.graph)
        yield Artifact(engine, built.content, row, file.graph, notes=notes)
        yield Artifact(engine + RECORD, built.record.to_json(), row)


def _one_direction(lstm: nn.LSTM, suffix: str, dtype: torch.dtype) -> nn.LSTM:
    single = nn.LSTM(lstm.input_size, lstm.hidden_size, batch_first=True, dtype=dtype)
    names = [name for name, _ in single.named_parameters()]
    single.load_state_dict({name: getattr(lstm, name + suffix).detach() for name in names})
    return single


def _flipped(encoder: nn.Module, graph: Graph) -> onnx.ModelProto:
    """Traces the encoder with PyTorch's older exporter, which keeps T dynamic in an LSTM; the newer one does not."""
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # that exporter is deprecated, and warns of an LSTM's dynamic batch size
        torch.onnx.export(
            encoder,
            tuple(onnx_graphs.example(tensor) for tensor in graph.inputs),
            cast("Any", file),  # that exporter also accepts a file
            dynamo=False,
            input_names=[tensor.name for tensor in graph.inputs],
            output_names=[tensor.name for tensor in graph.outputs],
            dynamic_axes={tensor.name: onnx_graphs.dynamic_axes(tensor) for tensor in (*graph.inputs, *graph.outputs)},
            opset_version=onnx_graphs.OPSET,
        )
    return onnx.load_from_string(file.getvalue())
