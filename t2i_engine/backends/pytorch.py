"""PyTorch: the model that was trained, run from the bundle's weights; what every other backend is compared with."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from t2i_engine.backends.base import Array, Status, check_feeds, cuda_device_count
from t2i_engine.bundle import Bundle
from t2i_engine.errors import MissingExtra
from t2i_engine.formats import TEXT_ENCODER, Format

if TYPE_CHECKING:
    from torch import Tensor


class PyTorchRunner:
    """One half of the model on one device, without TF32."""

    def __init__(self, bundle: Bundle, graph: str, device: str, threads: int | None) -> None:
        try:
            import torch

            from training.weights import read_model
        except ImportError:
            raise MissingExtra("the backend 'pytorch'", "PyTorch and safetensors", "export") from None

        if threads:
            torch.set_num_threads(threads)
        self._name, self._graph, self._device = graph, bundle.graphs[graph], device
        self._module = getattr(read_model(bundle), graph).to(device)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs. Raises `ShapeError` where a feed does not fit the declared shape."""
        import torch

        check_feeds(self._graph, feeds, outputs)
        tensors = {name: torch.from_numpy(feed).to(self._device) for name, feed in feeds.items()}
        with torch.inference_mode(), torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
            computed = self._sentence(tensors) if self._name == TEXT_ENCODER else self._pictures(tensors)
        return {name: computed[name].cpu().numpy() for name in outputs}

    def _sentence(self, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        return {"sentence": self._module(tensors["tokens"], tensors["lengths"]).sentence}

    def _pictures(self, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        from training.models.pixels import to_pixels

        image = self._module(tensors["noise"], tensors["sentence"], tensors.get("condition_noise")).image
        return {"image": image, "pixels": to_pixels(image).contiguous()}


def open_runner(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> PyTorchRunner:
    """Opens a graph. Raises `BundleError` where its weights are bad and `MissingExtra` where PyTorch is missing."""
    return PyTorchRunner(bundle, graph, device, threads)


def status() -> Status:
    """Whether PyTorch is installed, and which devices it can use here."""
    from importlib.metadata import version
    from importlib.util import find_spec

    missing = [package for package in ("torch", "safetensors") if find_spec(package) is None]
    if missing:
        return Status(lacks=f'{" and ".join(missing)} not installed: pip install "t2i-engine[export]"')
    return Status(f"torch {version('torch')}", devices={"cuda": _cuda_lacks(), "cpu": None})


def _cuda_lacks() -> str | None:
    lacks = "PyTorch finds no NVIDIA GPU: use --device cpu"
    if cuda_device_count() == 0:  # known without importing PyTorch, which takes longer than to draw a picture
        return lacks
    import torch

    return None if torch.cuda.is_available() else lacks
