"""PyTorch: the model that was trained, run from the bundle's weights; what every other backend is compared with."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from t2i_engine.backends.base import Array, Status, check_feeds
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BundleError, MissingExtra
from t2i_engine.formats import TEXT_ENCODER, Format

if TYPE_CHECKING:
    from torch import Tensor


class PyTorchRunner:
    """One half of the model on one device, without TF32."""

    def __init__(self, bundle: Bundle, file: str, graph: str, device: str, threads: int | None) -> None:
        try:
            import torch
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            from training.models.text_to_image import TextToImage
        except ImportError:
            raise MissingExtra("the backend 'pytorch'", "PyTorch and safetensors", "export") from None

        if threads:
            torch.set_num_threads(threads)
        self._name, self._graph, self._device = graph, bundle.graphs[graph], device
        with torch.device("meta"):  # no memory and no random numbers for weights that are replaced at once
            self._module = getattr(TextToImage(bundle.sizes), graph)
        prefix = f"{graph}."
        try:
            weights = load_file(bundle.path(file))
            self._module.load_state_dict(
                {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)},
                assign=True,
            )
        except (SafetensorError, RuntimeError) as error:
            raise BundleError(f"{bundle.folder / file} does not hold the weights of its model: {error}") from None
        self._module.eval().to(device)

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
    return PyTorchRunner(bundle, row.files[graph], graph, device, threads)


def status() -> Status:
    """Whether PyTorch is installed, and which devices it can use here."""
    from importlib.util import find_spec

    missing = [package for package in ("torch", "safetensors") if find_spec(package) is None]
    if missing:
        return Status(lacks=f'{" and ".join(missing)} not installed: pip install "t2i-engine[export]"')
    import torch

    cuda = None if torch.cuda.is_available() else "PyTorch finds no NVIDIA GPU: use --device cpu"
    return Status(f"torch {torch.__version__}", devices={"cuda": cuda, "cpu": None})
