"""The record of an engine's build: the precision of every layer, from the network and from the builder's own log.

An engine cannot be inspected without a GPU, and a flag proves nothing. So the record lists the layers that the builder
was given and those it reports having compiled, and an engine whose heavy layers are in another precision is rejected.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from t2i_engine.errors import BackendError
from t2i_engine.schema import read_dataclass, read_json

HALF, FLOAT = "Half", "Float"
DATATYPES = {"fp16": HALF, "fp32": FLOAT}

_FLOATING = {HALF, FLOAT, "BFloat16", "FP8"}
# The layers of a network that do the work. An LSTM is a loop of matrix products around recurrent states.
_HEAVY = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "RECURRENCE"}
# The same layers under the builder's names for what it compiled: a type, or part of the name of a fusion.
_HEAVY_COMPILED = {"gemm", "matmul", "convolution", "conv", "deconv", "correlation", "caskconvolution", "caskgemm"}
_HEAVY_FUSED = re.compile(r"Gemm|Fc|Corr|Conv(?!ert)|MatMul")
_NAMES = {"HALF": HALF, "FLOAT": FLOAT, "BF16": "BFloat16", "FP16": HALF, "FP32": FLOAT}
# In a log: "Half", or a sentence such as "Channel major FP16 format where channel % 8 == 0".
_NAMED = re.compile(rf"\b({'|'.join(sorted({*_NAMES, *_FLOATING}))})\b")


class PrecisionError(BackendError):
    """An engine that is not in the requested precision."""


@dataclass(frozen=True)
class Layer:
    """A layer and the datatypes of its inputs and outputs."""

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def datatypes(self) -> set[str]:
        """The floating-point datatypes it reads and writes."""
        return {*self.inputs, *self.outputs} & _FLOATING


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine; -1 stands for a dynamic size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EngineRecord:
    """How an engine was built: `key` says from what and for what, `network` and `compiled` prove its precision."""

    key: Mapping[str, str]
    sha256: str  # of the engine's file
    seconds: float  # that the build took
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    network: tuple[Layer, ...]  # that the builder was given
    compiled: tuple[Layer, ...]  # that its log says it compiled; empty for versions that do not log them
    exceptions: Mapping[str, str]  # floating-point layers in another precision -> why

    def summary(self) -> str:
        """The proof in one line."""
        datatype = DATATYPES[self.key["precision"]]
        heavy = sum(layer.datatypes == {datatype} for layer in _heavy(self.network))
        text = f"{heavy} heavy layers of {len(self.network)} in {datatype}"
        if self.compiled:
            compiled = sum(layer.datatypes == {datatype} for layer in _heavy_compiled(self.compiled))
            text += f", as compiled {compiled} of {len(self.compiled)}"
        return f"{text}; {len(self.exceptions)} light layers in another precision"

    def to_json(self) -> bytes:
        """The record's file."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "EngineRecord":
        """Reads a record's file. Raises `SchemaError`."""
        record = read_dataclass(cls, read_json(content))
        if "flavour" in record.key:  # what records of 0.1.0 called the variant
            key = {"variant" if name == "flavour" else name: value for name, value in record.key.items()}
            record = replace(record, key=key)
        return record


def network_layers(network: Any) -> tuple[Layer, ...]:  # noqa: ANN401  (TensorRT's INetworkDefinition)
    """Every layer of a parsed network except constants, which compute nothing."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return tuple(
        Layer(
            layer.name,
            layer.type.name,
            _datatypes(layer.get_input(i) for i in range(layer.num_inputs)),
            _datatypes(layer.get_output(i) for i in range(layer.num_outputs)),
        )
        for layer in layers
        if layer.type.name != "CONSTANT"
    )


def bindings(tensors: Iterable[Any]) -> tuple[Binding, ...]:
    """The inputs or outputs of a network."""
    return tuple(Binding(tensor.name, _spelled(tensor.dtype.name), tuple(tensor.shape)) for tensor in tensors)


def compiled_layers(log: Iterable[str]) -> tuple[Layer, ...]:
    """The layers listed in the builder's verbose log, which has them at detailed profiling verbosity."""
    return tuple(
        Layer(named[1], named[2], _logged_datatypes(line, "Inputs"), _logged_datatypes(line, "Outputs"))
        for message in log
        for line in message.splitlines()
        if (named := re.match(r"\s*Name: (.*?), LayerType: (\w+), ", line))
    )


def _logged_datatypes(text: str, part: str) -> tuple[str, ...]:
    # Constants do not count: the factors of a matrix product are Float scalars whatever the product's own datatype.
    found = re.search(
        rf"{part}: \[(.*?)\](?=, (?:Inputs|Constants|Outputs|ParameterType|TacticName|StreamId)\b|$)", text
    )
    described = re.findall(r"\b(?:Format/)?Datatype: ([^,}\]]+)", found[1]) if found else []
    return tuple(_spelled(match[1]) if (match := _NAMED.search(phrase)) else phrase.split()[0] for phrase in described)


def check_precision(network: Iterable[Layer], compiled: Iterable[Layer], precision: str) -> dict[str, str]:
    """The light layers in another precision, and why. Raises `PrecisionError` for a heavy one, or if none is heavy."""
    asked = DATATYPES[precision]
    network = list(network)
    heavy = list(_heavy(network))
    if not heavy:
        raise PrecisionError(f"cannot verify {precision}: the network has no convolution or matrix product")
    wrong = [layer for layer in [*heavy, *_heavy_compiled(compiled)] if layer.datatypes - {asked}]
    if wrong:
        found = ", ".join(sorted(wrong[0].datatypes - {asked}))
        raise PrecisionError(
            f"{precision} was requested, but {len(wrong)} heavy layers are not in {asked}: {wrong[0].name} "
            f"({wrong[0].type}) is in {found}; export the bundle again"
        )
    reason = f"in {FLOAT}: between the engine's float32 inputs or outputs and its fp16 layers"
    return {layer.name: f"{layer.type} {reason}" for layer in network if layer.datatypes - {asked}}


def _heavy(layers: Iterable[Layer]) -> Iterator[Layer]:
    """Heavy layers of a network. The recurrence of a loop's counter is not floating point, hence not heavy."""
    return (layer for layer in layers if layer.type in _HEAVY and layer.datatypes)


def _heavy_compiled(layers: Iterable[Layer]) -> Iterator[Layer]:
    for layer in layers:
        if layer.type.lower() in _HEAVY_COMPILED or (layer.type.endswith("fusion") and _HEAVY_FUSED.search(layer.name)):
            yield layer


def _datatypes(tensors: Iterable[Any]) -> tuple[str, ...]:
    return tuple(_spelled(tensor.dtype.name) for tensor in tensors if tensor is not None)


def _spelled(name: str) -> str:
    """A datatype as records spell it."""
    return _NAMES.get(name) or (name if name in _FLOATING else name.capitalize())
