"""The config.pbtxt of each model in a repository for NVIDIA Triton: its `ModelConfig` in protobuf's text format."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from t2i_engine.bundle import Bundle
from t2i_engine.formats import GENERATOR
from t2i_engine.manifest import TensorSpec
from t2i_engine.tensorrt.builder import Profile

FRONT = "front"
SHORTEST = 16
"""The front pads captions to 16, 32, 64 … tokens, because Triton batches only requests of equal shapes.

Except in OpenVINO, the text encoder reads no token past a caption's length, so its sentence vector stays the same.
"""
PROFILE = Profile()
WARM_CAPTION, WARM_LENGTH = "caption", "length"
"""Files in the folder `warmup` of the front and of the text encoder; all else is zeros there."""

Message = Mapping[str, object]


class Keyword(str):
    """A value that has no quotes in text format."""


@dataclass(frozen=True)
class Backend:
    """One of Triton's backends: the formats it runs, of which the first one in a bundle is taken, and what it needs."""

    formats: tuple[str, ...]
    config: Message = field(default_factory=dict)
    largest_batch: int = 16
    shortest: int | None = SHORTEST  # in tokens, with padding; None: captions are not padded
    longest: int | None = None  # in tokens


_NO_TF32 = {"name": "cuda", "parameters": {"key": "use_tf32", "value": "0"}}  # it is outside of fp32's tolerance
BACKENDS = {
    "onnxruntime": Backend(
        ("onnx",), {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": _NO_TF32}}}
    ),
    # It computes every batch as if it were the largest, and its LSTM does not stop at the padding.
    "openvino": Backend(("openvino",), {"default_model_filename": "model.onnx"}, largest_batch=1, shortest=None),
    "tensorrt": Backend(
        ("tensorrt-fp16", "tensorrt-fp32"), largest_batch=PROFILE.batch.maximum, longest=PROFILE.tokens.maximum
    ),
}

_DTYPES = {"int64": "TYPE_INT64", "float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
_REQUEST: list[Message] = [
    {"name": "CAPTION", "data_type": Keyword("TYPE_STRING"), "dims": [1]},
    {"name": "SEED", "data_type": Keyword("TYPE_UINT32"), "dims": [1]},
    {"name": "TRUNCATION", "data_type": Keyword("TYPE_FP64"), "dims": [1], "optional": True},
]
_PICTURE = "PIXELS"


def drawn(bundle: Bundle) -> tuple[TensorSpec, ...]:
    """What the front passes to the graphs: all of their inputs except the sentence vector."""
    inputs = (tensor for graph in bundle.graphs.values() for tensor in graph.inputs)
    return tuple(tensor for tensor in inputs if tensor.name != "sentence")


def configs(bundle: Bundle, backend_name: str) -> dict[str, Message]:
    """The config of each model by its name: the ensemble, named after the bundle, its front, and the graphs."""
    backend, graphs = BACKENDS[backend_name], bundle.graphs
    [pixels] = [tensor for tensor in graphs[GENERATOR].outputs if tensor.name == "pixels"]
    request = [str(tensor["name"]) for tensor in _REQUEST]
    steps = [_step(bundle, FRONT, request, {tensor.name: tensor.name for tensor in drawn(bundle)})]
    models = {
        FRONT: {
            "backend": "python",
            "instance_group": {"kind": Keyword("KIND_CPU")},
            "input": _REQUEST,
            "output": [_tensor(tensor) for tensor in drawn(bundle)],
            **_batching(backend, _REQUEST, {"CAPTION": WARM_CAPTION}),
        }
    }
    for name, graph in graphs.items():
        inputs, outputs = [_tensor(tensor) for tensor in graph.inputs], [_tensor(tensor) for tensor in graph.outputs]
        given = {pixels.name: _PICTURE} if name == GENERATOR else {tensor.name: tensor.name for tensor in graph.outputs}
        steps.append(_step(bundle, name, [tensor.name for tensor in graph.inputs], given))
        models[name] = {
            "backend": backend_name,
            **backend.config,
            "input": inputs,
            "output": outputs,
            **_batching(backend, inputs, {"lengths": WARM_LENGTH}),
        }
    ensemble = {
        "platform": "ensemble",
        "input": _REQUEST,
        "output": [{**_tensor(pixels), "name": _PICTURE}],
        "ensemble_scheduling": {"step": steps},
    }
    named = {bundle.name: ensemble} | {f"{bundle.name}_{name}": model for name, model in models.items()}
    return {name: {"name": name, "max_batch_size": backend.largest_batch, **model} for name, model in named.items()}


def text_format(message: Message, indent: str = "") -> str:
    """A message in protobuf's text format."""
    lines: list[str] = []
    for name, value in message.items():
        for one in value if isinstance(value, list) and value and isinstance(value[0], Mapping) else [value]:
            if isinstance(one, Mapping):
                lines += [f"{indent}{name} {{", text_format(one, f"{indent}  "), f"{indent}}}"]
            else:
                lines.append(f"{indent}{name}: {one if isinstance(one, Keyword) else json.dumps(one)}")
    return "\n".join(line for line in lines if line)


def _tensor(tensor: TensorSpec) -> dict[str, object]:
    """A tensor without its batch; one number per caption or picture is a vector of one to Triton."""
    dims = [-1 if isinstance(size, str) else size for size in tensor.shape[1:]]
    shape = {"dims": dims} if dims else {"dims": [1], "reshape": {"shape": []}}
    return {"name": tensor.name, "data_type": Keyword(_DTYPES[tensor.dtype]), **shape}


def _batching(backend: Backend, inputs: Sequence[Message], files: Mapping[str, str]) -> Message:
    """Dynamic batching, where a batch may be larger than one, and what warms a model up before it is ready."""
    warm = [
        {
            "key": tensor["name"],
            "value": {
                "data_type": tensor["data_type"],
                "dims": [SHORTEST] if tensor["dims"] == [-1] else tensor["dims"],
                **({"input_data_file": files[name]} if (name := str(tensor["name"])) in files else {"zero_data": True}),
            },
        }
        for tensor in inputs
        if "optional" not in tensor
    ]
    sizes = sorted({1, backend.largest_batch})
    warmup = [{"name": f"batch of {size}", "batch_size": size, "inputs": warm} for size in sizes]
    return {"model_warmup": warmup} | ({"dynamic_batching": {}} if backend.largest_batch > 1 else {})


def _step(bundle: Bundle, name: str, inputs: Iterable[str], outputs: Mapping[str, str]) -> Message:
    """A step of the ensemble; the tensors that it passes on have the names of the graphs' inputs and outputs."""
    return {
        "model_name": f"{bundle.name}_{name}",
        "model_version": -1,
        "input_map": [{"key": tensor, "value": tensor} for tensor in inputs],
        "output_map": [{"key": key, "value": value} for key, value in outputs.items()],
    }
