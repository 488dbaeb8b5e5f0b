"""ONNX graphs in fp32: text encoder and optimized generator, with the names, dtypes and shapes of `graphs_of`."""

import copy
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from types import MappingProxyType

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from export.artifact import Artifact
from export.half_weights import is_half, store_in_half
from export.optimized_generator import optimize
from t2i_engine.backends.base import Array
from t2i_engine.formats import GENERATOR, TEXT_ENCODER, Form, Format, find
from t2i_engine.manifest import Graph, TensorSpec, graphs_of
from training.models.generator import Generator
from training.models.pixels import to_pixels
from training.models.text_encoder import TextEncoder
from training.models.text_to_image import TextToImage

OPSET = 18  # torchlib's own, so that no conversion runs

_ROW = find("onnx")

Message = onnx.ModelProto | onnx.GraphProto | onnx.NodeProto | onnx.TensorProto | onnx.ValueInfoProto

# Sizes to trace with: at least two and all different, or the exporter takes them for constants.
_TRACED = {"B": 2, "T": 5}


class TextEncoderGraph(nn.Module):
    """The text encoder with ONNX's own LSTM, which stops at each caption's length in both directions.

    `nn.LSTM` itself exports for one T only, and packed sequences do not export at all.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        lstm = encoder.rnn
        self.hidden_width = lstm.hidden_size
        self.embedding = nn.Parameter(encoder.encoder.weight.detach())
        self.weights = nn.Parameter(_both_directions(lstm, "weight_ih_l0"))
        self.recurrence = nn.Parameter(_both_directions(lstm, "weight_hh_l0"))
        biases = [_both_directions(lstm, "bias_ih_l0"), _both_directions(lstm, "bias_hh_l0")]
        self.biases = nn.Parameter(torch.cat(biases, dim=1))

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Maps `tokens` int64 (B, T) and `lengths` int64 (B) to sentence vectors, float (B, S)."""
        embedded = F.embedding(tokens.t(), self.embedding)
        time, batch, hidden = embedded.shape[0], embedded.shape[1], self.hidden_width
        states = (2, batch, hidden)
        _, last_states, _ = torch.onnx.ops.symbolic_multi_out(
            "LSTM",
            (embedded, self.weights, self.recurrence, self.biases, lengths.to(torch.int32)),
            {"hidden_size": hidden, "direction": "bidirectional"},
            dtypes=(embedded.dtype,) * 3,
            shapes=((time, *states), states, states),
        )
        return last_states.transpose(0, 1).flatten(1)


class GeneratorGraph(nn.Module):
    """The generator in one of its forms, in `dtype` between float32 inputs and outputs; outputs pixels, too."""

    def __init__(self, generator: Generator, form: Form, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = self.condition_dtype = dtype
        self.generator = optimize(generator, form)
        if dtype != torch.float32:
            self.generator = copy.deepcopy(self.generator).to(dtype)

    def forward(self, noise: Tensor, sentence: Tensor, condition_noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns `image` float32 (B, 3, R, R) in [−1, 1] and `pixels` uint8 (B, R, R, 3), rounded half to even."""
        epsilon = None if condition_noise is None else condition_noise.to(self.condition_dtype)
        image = self.generator(noise.to(self.dtype), sentence.to(self.condition_dtype), epsilon).image.float()
        return image, self.to_pixels(image)

    def to_pixels(self, image: Tensor) -> Tensor:
        """Maps `image` to `pixels`."""
        return to_pixels(image)


def build(model: TextToImage, row: Format) -> Iterator[Artifact]:
    """Exports both graphs."""
    yield build_text_encoder(model)
    yield build_generator(model, row.form)


def build_text_encoder(model: TextToImage) -> Artifact:
    """Exports the text encoder in fp32; several formats share it."""
    encoder = traced(TextEncoderGraph(model.text_encoder), graphs_of(model.sizes)[TEXT_ENCODER])
    if is_half(model):
        store_in_half(encoder)
    return to_artifact(encoder, _ROW, TEXT_ENCODER)


def build_generator(model: TextToImage, form: Form) -> Artifact:
    """Exports the generator in fp32, in one of its forms."""
    generator = traced(GeneratorGraph(model.generator, form), graphs_of(model.sizes)[GENERATOR])
    if is_half(model):
        store_in_half(generator, phase_kernels(model.generator) if form == Form.PHASES else {})
    return to_artifact(generator, _ROW, GENERATOR, {"form": form})


def phase_kernels(generator: Generator) -> dict[str, Array]:
    """The trained kernels, float32 (out, in, 3, 3), of what a `GeneratorGraph` computes in phases, by layer."""
    layers = [f"GBlocks.{number}.c1" for number in range(len(generator.GBlocks))]
    return {f"generator.{layer}": generator.get_parameter(f"{layer}.weight").detach().numpy() for layer in layers}


def to_artifact(
    proto: onnx.ModelProto, row: Format, graph: str, notes: Mapping[str, object] = MappingProxyType({})
) -> Artifact:
    """The file of a graph, checked by ONNX with full shape inference and stripped of notes on where it was made."""
    proto.producer_name, proto.producer_version = "t2i-engine", version("t2i-engine")
    _clear_notes(proto)
    onnx.checker.check_model(proto, full_check=True)
    return Artifact(row.files[graph], proto.SerializeToString(deterministic=True), row, graph, OPSET, notes)


def _both_directions(lstm: nn.LSTM, name: str) -> Tensor:
    """Stacks a tensor of both directions, with gates in ONNX's order i, o, f, c instead of PyTorch's i, f, c, o."""
    tensors = []
    for suffix in ("", "_reverse"):
        i, f, c, o = getattr(lstm, name + suffix).detach().chunk(4)
        tensors.append(torch.cat([i, o, f, c]))
    return torch.stack(tensors)


def traced(module: nn.Module, graph: Graph) -> onnx.ModelProto:
    """Exports a module with the inputs and outputs of `graph`; B and T stay dynamic."""
    dims = {letter: Dim(letter) for letter in _TRACED}
    with warnings.catch_warnings(), torch.inference_mode():
        # B occurs in several inputs; the exporter warns that it names the axis only once.
        warnings.filterwarnings("ignore", message=r"# The axis name: \w+ will not be used")
        program = torch.onnx.export(
            module.eval(),
            tuple(example(tensor) for tensor in graph.inputs),
            dynamo=True,
            dynamic_shapes={
                tensor.name: {axis: dims[letter] for axis, letter in dynamic_axes(tensor).items()}
                for tensor in graph.inputs
            },
            input_names=[tensor.name for tensor in graph.inputs],
            output_names=[tensor.name for tensor in graph.outputs],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def example(tensor: TensorSpec) -> Tensor:
    """A tensor to trace with."""
    shape = [_TRACED[size] if isinstance(size, str) else size for size in tensor.shape]
    return torch.ones(shape, dtype=getattr(torch, tensor.dtype))


def dynamic_axes(tensor: TensorSpec) -> dict[int, str]:
    """The axes of a tensor whose size may vary, and their letters."""
    return {axis: size for axis, size in enumerate(tensor.shape) if isinstance(size, str)}


def _clear_notes(message: Message) -> None:
    """Removes what the exporter notes about where it ran: stack traces with paths, on every level of the graph."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in [value] if hasattr(value, "ListFields") else value:
                _clear_notes(child)
