"""The record of an engine: every layer's precision, as the network and the builder's own log tell it.

An engine cannot be asked on a machine without a GPU, and a flag proves nothing; so what the builder was given and what
it says it compiled are written down, and an engine whose heavy layers are in another precision is refused.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from t2i_engine.errors import BackendError
from t2i_engine.schema import SchemaError, read_dataclass

HALF, FLOAT = "Half", "Float"
DATATYPES = {"fp16": HALF, "fp32": FLOAT}

_FLOATING = {HALF, FLOAT, "BFloat16", "FP8"}
# Layers of a network in which the work is done; an LSTM is a loop of matrix products with states that recur.
_HEAVY = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM", "RECURRENCE"}
# The same as the builder names what it compiled: by type, or in the name of several layers made one.
_HEAVY_COMPILED = {"gemm", "matmul", "convolution", "conv", "deconv", "correlation", "caskconvolution", "caskgemm"}
_HEAVY_FUSED = re.compile(r"Gemm|Fc|Corr|Conv(?!ert)|MatMul")
_NAMES = {"HALF": HALF, "FLOAT": FLOAT, "BF16": "BFloat16"}
_AT_THE_BORDER = "between the engine's float32 inputs or outputs and its layers in half"


class PrecisionError(BackendError):
    """A build that is not in the precision that was asked for."""


@dataclass(frozen=True)
class Layer:
    """A layer with the datatypes of its inputs and outputs."""

    name: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def datatypes(self) -> set[str]:
        """The floating-point datatypes that it reads and writes."""
        return {*self.inputs, *self.outputs} & _FLOATING


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine; -1 is a size that may vary."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EngineRecord:
    """What is known of an engine. `key` fixes what it was built from and for; `network` and `compiled` prove it."""

    key: Mapping[str, str]
    sha256: str
    """Of the engine's file."""
    seconds: float
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    network: tuple[Layer, ...]
    """The layers that the builder was given."""
    compiled: tuple[Layer, ...]
    """The layers that its log says it compiled; none where a version's log does not tell."""
    exceptions: Mapping[str, str]
    """Floating-point layers in another precision, with the reason."""

    def summary(self) -> str:
        """The proof in one line."""
        heavy, compiled = [sum(1 for _ in found) for found in (_heavy(self.network), _heavy_compiled(self.compiled))]
        datatype = DATATYPES[self.key["precision"]]
        text = f"{heavy} heavy layers of {len(self.network)} in {datatype}"
        if self.compiled:
            text += f", as compiled {compiled} of {len(self.compiled)}"
        return f"{text}; {len(self.exceptions)} light layers in another precision"

    def to_json(self) -> bytes:
        """The record's file."""
        return json.dumps(asdict(self), separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> "EngineRecord":
        """Reads a record's file. Raises `SchemaError`."""
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise SchemaError(f"it is not JSON ({error})") from None
        return read_dataclass(cls, found)


def network_layers(network: Any) -> tuple[Layer, ...]:  # noqa: ANN401  (TensorRT's INetworkDefinition)
    """Every layer of a parsed network but for constants, which compute nothing."""
    return tuple(layer for layer in _layers(network) if layer.type != "CONSTANT")


def _layers(network: Any) -> Iterator[Layer]:  # noqa: ANN401
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = (layer.get_input(i) for i in range(layer.num_inputs))
        outputs = (layer.get_output(i) for i in range(layer.num_outputs))
        yield Layer(
            layer.name,
            layer.type.name,
            *(tuple(_datatype(tensor) for tensor in tensors if tensor is not None) for tensors in (inputs, outputs)),
        )


def bindings(tensors: Iterable[Any]) -> tuple[Binding, ...]:
    """The inputs or outputs of a network."""
    return tuple(Binding(tensor.name, _datatype(tensor), tuple(tensor.shape)) for tensor in tensors)


def compiled_layers(log: Iterable[str]) -> tuple[Layer, ...]:
    """The layers in the builder's verbose log, which it writes with detailed profiling verbosity."""
    return tuple(layer for line in log for layer in _compiled(line))


def _compiled(line: str) -> Iterator[Layer]:
    for text in line.splitlines():
        named = re.match(r"\s*Name: (.*?), LayerType: (\w+), ", text)
        if named:
            yield Layer(named[1], named[2], _datatypes(text, "Inputs"), _datatypes(text, "Outputs"))


def _datatypes(text: str, part: str) -> tuple[str, ...]:
    # Constants are left out: the factors of a matrix product are scalars in Float whatever the product is in.
    found = re.search(
        rf"{part}: \[(.*?)\](?=, (?:Inputs|Constants|Outputs|ParameterType|TacticName|StreamId)\b|$)", text
    )
    return tuple(re.findall(r"(?:Datatype|Format/Datatype): (\w+)", found[1])) if found else ()


def check_precision(network: Iterable[Layer], compiled: Iterable[Layer], precision: str) -> dict[str, str]:
    """The light layers in another precision, with the reason. Raises `PrecisionError` for a heavy one, or for none."""
    asked = DATATYPES[precision]
    network = list(network)
    heavy = list(_heavy(network))
    if not heavy:
        raise PrecisionError(f"nothing proves {precision}: the network has no convolution and no matrix product")
    wrong = [layer for layer in [*heavy, *_heavy_compiled(compiled)] if layer.datatypes - {asked}]
    if wrong:
        found = ", ".join(sorted(wrong[0].datatypes - {asked}))
        raise PrecisionError(
            f"{precision} was asked for, but {len(wrong)} heavy layers are not in {asked}: {wrong[0].name} "
            f"({wrong[0].type}) is in {found}; export the bundle again"
        )
    others = [layer for layer in network if layer.datatypes - {asked}]
    return {layer.name: f"{layer.type} in {FLOAT}: {_AT_THE_BORDER}" for layer in others}


def _heavy(layers: Iterable[Layer]) -> Iterator[Layer]:
    """Heavy layers of a network; recurrences of a loop's counter are not floating point, and not heavy."""
    return (layer for layer in layers if layer.type in _HEAVY and layer.datatypes)


def _heavy_compiled(layers: Iterable[Layer]) -> Iterator[Layer]:
    for layer in layers:
        if layer.type.lower() in _HEAVY_COMPILED or (layer.type.endswith("fusion") and _HEAVY_FUSED.search(layer.name)):
            yield layer


def _datatype(tensor: Any) -> str:  # noqa: ANN401
    name: str = tensor.dtype.name
    return _NAMES.get(name, name.capitalize())
