"""PyTorch: a bundle's weights in the code that trained them; every other backend is compared with it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING

from t2i_engine.backends.base import OUT_OF_MEMORY, Array, Runner, Status, check_feeds, cuda_device_count
from t2i_engine.bundle import Bundle
from t2i_engine.errors import BackendError, needs_extra
from t2i_engine.formats import Format
from t2i_engine.manifest import Graph, graphs_of

if TYPE_CHECKING:
    from torch import Tensor, device, nn

    from training.models.text_to_image import TextToImage

TITLE = "PyTorch"
PACKAGES = IMPORTS = ("torch",)

_cudnn = Lock()


class ModuleRunner:
    """A text encoder or a generator in its current state, on its current device, in evaluation mode, without TF32.

    With `one_thread`, sums have the same order on every machine, and runs do not wait for busy cores.
    """

    def __init__(self, module: "nn.Module", graph: Graph, one_thread: bool = False) -> None:
        self.module, self._graph, self._one_thread = module, graph, one_thread

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Computes the named outputs. Raises `ShapeError` if a feed does not fit the declared shape."""
        import torch

        check_feeds(self._graph, feeds, outputs)
        device = next(self.module.parameters()).device
        tensors = {name: torch.from_numpy(feed).to(device) for name, feed in feeds.items()}
        try:
            with torch.inference_mode(), exact_cudnn(device), _one_thread() if self._one_thread else nullcontext():
                computed = self._computed(tensors)
        except RuntimeError as error:
            if "can't allocate memory" in str(error):
                raise BackendError(f"{OUT_OF_MEMORY['cpu']} (PyTorch)") from error
            raise
        return {name: computed[name].cpu().numpy() for name in outputs}

    def _computed(self, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
        from training.models.pixels import to_pixels

        if "tokens" in tensors:
            return {"sentence": self.module(tensors["tokens"], tensors["lengths"]).sentence}
        image = self.module(tensors["noise"], tensors["sentence"], tensors.get("condition_noise")).image
        return {"image": image, "pixels": to_pixels(image).contiguous()}


def exact_runners(model: "TextToImage") -> dict[str, Runner]:
    """A runner per graph that other formats are compared with: the model on one CPU thread."""
    graphs = graphs_of(model.sizes).items()
    return {name: ModuleRunner(getattr(model, name), graph, one_thread=True) for name, graph in graphs}


def open_exact(bundle: Bundle) -> dict[str, Runner]:
    """`exact_runners` of a bundle's weights. Raises as `open_runner` does."""
    return exact_runners(_read_model(bundle))


def open_runner(bundle: Bundle, row: Format, graph: str, device: str, threads: int | None) -> ModuleRunner:
    """Opens a graph. Raises `BundleError` if its weights are bad and `MissingExtra` if PyTorch is missing."""
    model = _read_model(bundle)
    if threads:
        import torch

        torch.set_num_threads(threads)
    return ModuleRunner(getattr(model, graph).to(device), bundle.graphs[graph])


def status() -> Status:
    """Whether PyTorch is installed, and which devices it can use here."""
    from importlib.metadata import version
    from importlib.util import find_spec

    missing = [package for package in ("torch", "safetensors") if find_spec(package) is None]
    if missing:
        return Status(lacks=f'{" and ".join(missing)} not installed: pip install "t2i-engine[export]"')
    name = f"torch {version('torch')}"
    try:
        return Status(name, devices={"cuda": _cuda_lacks(), "cpu": None})
    except (ImportError, OSError) as error:  # OSError: a shared library that cannot be loaded
        return Status(name, f"{name} is damaged ({error}): pip install --force-reinstall torch")


def _read_model(bundle: Bundle) -> "TextToImage":
    with needs_extra("the backend 'pytorch'", "export"):
        import_module("torch")  # even if the module below is imported already
        from training.models.text_to_image import read_model
    return read_model(bundle)


def _cuda_lacks() -> str | None:
    lacks = "PyTorch finds no NVIDIA GPU: use --device cpu"
    if cuda_device_count() == 0:  # known without importing PyTorch, which takes longer than drawing a picture
        return lacks
    import torch

    return None if torch.cuda.is_available() else lacks


@contextmanager
def exact_cudnn(where: "device") -> Iterator[None]:
    """On a GPU, deterministic cuDNN without TF32, for one thread at a time: the settings are process-wide.

    Raises `BackendError` if the GPU is out of memory.
    """
    import torch

    if where.type != "cuda":
        yield
        return
    with _cudnn, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise BackendError(f"{OUT_OF_MEMORY['cuda']} (PyTorch)") from error


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
