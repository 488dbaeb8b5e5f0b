"""The front of an ensemble, for Triton's Python backend: captions and seeds to what the graphs take.

It needs only NumPy. Tokenizer and noise are t2i-engine's own modules, copied into this folder when it was written.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as backend

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # before a t2i-engine that may be installed

from t2i_engine import latents  # noqa: E402
from t2i_engine.errors import CaptionError, UserError  # noqa: E402
from t2i_engine.tokenizer import Tokenizer, pad  # noqa: E402


class TritonPythonModel:
    """What Triton calls; `front.json` has the bundle's sizes."""

    def initialize(self, _: object) -> None:
        """Reads the files next to this one."""
        front = json.loads((HERE / "front.json").read_bytes())
        self.widths: tuple[int, int] = (front["noise_width"], front["sentence_width"])
        self.outputs: list[str] = front["outputs"]
        self.shortest: int | None = front["shortest"]
        self.longest: int | None = front["longest"]
        tokenizer = Tokenizer.from_json((HERE / "vocabulary.json").read_bytes(), examples=front["examples"])
        near = HERE / "near_words.json"
        self.tokenizer = tokenizer.with_near_words(near.read_bytes()) if near.exists() else tokenizer

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request: a request that cannot be drawn is an error, and the others of its batch are not."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:  # noqa: ANN401
        try:
            feeds = self._feeds(*(_values(request, name) for name in ("CAPTION", "SEED", "TRUNCATION")))
        except UserError as error:
            return backend.InferenceResponse(error=backend.TritonError(error.message))
        return backend.InferenceResponse([backend.Tensor(name, feeds[name]) for name in self.outputs])

    def _feeds(self, captions: list[bytes], seeds: list[int], truncations: list[float]) -> dict[str, Any]:
        tokens, lengths = pad([self._ids(caption) for caption in captions])
        steps = self.shortest or tokens.shape[1]
        while steps < tokens.shape[1]:
            steps *= 2
        drawn = [
            latents.draw([seed], *self.widths, truncation)
            for seed, truncation in zip(seeds, truncations or [1.0] * len(seeds), strict=True)
        ]
        return {
            "tokens": np.pad(tokens, ((0, 0), (0, steps - tokens.shape[1]))),
            "lengths": lengths,
            "noise": np.concatenate([one.noise for one in drawn]),
            "condition_noise": np.concatenate([one.condition_noise for one in drawn]),
        }

    def _ids(self, caption: bytes) -> tuple[int, ...]:
        try:
            ids = self.tokenizer.encode(caption.decode()).ids
        except UnicodeDecodeError:
            raise CaptionError("the caption is not UTF-8; encode it as UTF-8") from None
        if self.longest and len(ids) > self.longest:
            raise CaptionError(f"the caption has {len(ids)} known words; shorten it to {self.longest} at most")
        return ids


def _values(request: Any, name: str) -> list[Any]:  # noqa: ANN401
    """An input's value for each picture; none if it was left out."""
    tensor = backend.get_input_tensor_by_name(request, name)
    return tensor.as_numpy()[:, 0].tolist() if tensor else []
