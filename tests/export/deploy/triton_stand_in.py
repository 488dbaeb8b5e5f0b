"""A graph in Triton's Python backend, where there is no onnxruntime backend: batches as that one would make them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as backend


class TritonPythonModel:
    """What Triton calls."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Opens the graph next to this file."""
        config = json.loads(arguments["model_config"])
        self.inputs, self.outputs = ([one["name"] for one in config[key]] for key in ("input", "output"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), options)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Runs all requests as one batch."""
        given = [
            [backend.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs] for request in requests
        ]
        feeds = {
            name: np.concatenate(arrays) for name, arrays in zip(self.inputs, zip(*given, strict=True), strict=True)
        }
        ends = np.cumsum([len(first) for first, *_ in given])[:-1]
        results = [np.split(array, ends) for array in self.session.run(self.outputs, feeds)]
        return [
            backend.InferenceResponse(
                [
                    backend.Tensor(name, array)
                    for name, array in zip(self.outputs, arrays, strict=True)
                    if name in request.requested_output_names()
                ]
            )
            for request, arrays in zip(requests, zip(*results, strict=True), strict=True)
        ]
