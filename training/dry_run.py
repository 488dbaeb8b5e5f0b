"""`t2i-engine train --dry-run`: the FLOPs and memory of a run, from steps on tensors without content.

The run's own trainers run two steps of each phase in PyTorch's FakeTensorMode: nothing is computed, so networks that
would not fit this machine can be measured too.
"""

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from t2i_engine.table import aligned
from training.config import RunConfig
from training.damsm import DamsmTrainer
from training.data.corpus import Batch
from training.data.hard_negatives import MAX_HARD_NEGATIVES
from training.data.loading import read_vocabulary
from training.gan import GanTrainer
from training.initial import starting_model
from training.models.text_encoder import EncodedText, TextEncoder
from training.models.text_to_image import TextToImage
from training.run import Plan, model_sizes
from training.stepping import Trainer, multiplies_in_bf16

MIB = 1 << 20
METHOD = """\
Counted on tensors without content, in {precision} on {device}, with captions of max_words words.
FLOPs: convolutions and matrix products, forward and backward (torch.utils.flop_counter); a multiply-add counts as two.
A step is the mean over gradient_penalty_interval steps.
Memory: at a step's peak. Activations are everything but weights, gradients and optimizer state. Library workspaces, the
CUDA context (about 0.5 GiB) and fragmentation come on top.
"""


@dataclass(frozen=True)
class Cost:
    """The cost of a step of a phase; memory in bytes."""

    flops: float
    pictures: int
    weights: int
    gradients: int
    """Those alive at the peak."""
    optimizer: int
    peak: int
    """Everything but the weights."""


def describe(config: RunConfig) -> str:
    """The resolved config as YAML, with network sizes, FLOPs and memory as comments. Writes nothing.

    Raises `UserError` of the config, its data or its initial model.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    initial = starting_model(config)
    if initial and config.damsm.finetune:
        initial = initial.knowing(read_vocabulary(config.data))
    words = initial.words if initial else read_vocabulary(config.data)
    plan = Plan.of(config, initial)
    model = TextToImage(model_sizes(config, len(words)))
    model.text_encoder = _Unpadded(len(words), config.model.embedding_width, config.model.sentence_width)
    shapes = _Shapes(config)
    damsm = DamsmTrainer(config, shapes, model.text_encoder, device, plan.train_text_encoder, pretrained=False)
    trained = {"text encoder": plan.train_text_encoder, "image encoder": plan.train_image_encoder}
    networks: dict[str, nn.Module] = {"text encoder": damsm.text_encoder, "image encoder": damsm.image_encoder}
    learning = {name: _learning(net) if trained[name] else 0 for name, net in networks.items()}
    gan = GanTrainer(config, shapes, damsm.text_encoder, damsm.image_encoder, model.generator, device)
    networks |= {"generator": gan.generator, "discriminator": gan.discriminator}
    learning |= {name: _learning(networks[name]) for name in ("generator", "discriminator")}
    costs = _measure(config, plan, damsm, gan, (*networks.values(), gan.average))
    precision = "bf16" if multiplies_in_bf16(device.type) else "fp32"
    precision = precision if config.precision == "auto" else config.precision
    told = METHOD.format(precision=precision, device=device.type).splitlines()
    told += ["", *_sizes(networks, learning, len(words)), "", *_costs(costs)]
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return settings + "\n" + "".join(f"# {line}".rstrip() + "\n" for line in told)


def _measure(
    config: RunConfig, plan: Plan, damsm: DamsmTrainer, gan: GanTrainer, networks: Iterable[nn.Module]
) -> dict[str, Cost]:
    weights = {id(tensor): tensor for net in networks for tensor in (*net.parameters(), *net.buffers())}.values()
    interval = config.gan.gradient_penalty_interval
    # Regular steps: after the warm-up, and every interval-th with the penalty.
    regular = interval * (-(-config.gan.discriminator_warmup // interval) + 1)
    costs: dict[str, Cost] = {}
    # Without these libraries, an LSTM consists of matrix products, which are counted.
    with (
        warnings.catch_warnings(action="ignore"),  # switching them back on warns about Intel GPUs
        torch.backends.mkldnn.flags(enabled=False),
        torch.backends.cudnn.flags(enabled=False),
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        _Watch(mode, weights) as watch,
    ):
        optimizers: list[torch.optim.Optimizer] = []
        if plan.train_image_encoder:
            optimizers += [damsm.optimizer]
            costs["damsm"] = _cost(damsm, (1, 0), 1, config.damsm.batch_size, weights, optimizers, watch)
        gan.freeze_encoders()
        optimizers += [gan.generator_optimizer, gan.discriminator_optimizer]  # DAMSM's state stays in memory
        numbers = (regular + 1, regular)
        costs["gan"] = _cost(gan, numbers, interval, config.gan.batch_size, weights, optimizers, watch)
    return costs


def _cost(
    trainer: Trainer,
    numbers: tuple[int, int],
    interval: int,
    pictures: int,
    weights: Iterable[Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    watch: "_Watch",
) -> Cost:
    """Runs a plain step, which creates the optimizers' states, then the heaviest one, whose peak counts."""
    flops = []
    for number in numbers:
        watch.peak = watch.live
        flops.append(flops_of(lambda: trainer.step(number)))  # noqa: B023  (called at once)
    states = [optimizer.state.values() for optimizer in optimizers]
    return Cost(
        flops=(flops[0] * (interval - 1) + flops[1]) / interval,
        pictures=pictures,
        weights=_bytes(weights),
        gradients=watch.gradients,
        optimizer=_bytes(tensor for state in states for part in state for tensor in part.values()),
        peak=watch.peak,
    )


def flops_of(work: Callable[[], object]) -> int:
    """The FLOPs of the convolutions and matrix products in `work`."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Whole()
    with counter:
        work()
    return counter.get_total_flops()


class _Watch(TorchDispatchMode):
    """Tracks the memory of live tensors, and answers 1 when a step reads a tensor without content."""

    def __init__(self, mode: FakeTensorMode, weights: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.gradients = 0
        """The weights' gradients at the peak."""
        self._real = tuple(weights)
        # Fake copies of weights take no new memory.
        self._weights = [mode.from_tensor(weight) for weight in weights]
        self._known = weakref.WeakSet(weight.untyped_storage() for weight in self._weights)

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        if func is torch.ops.aten._local_scalar_dense.default:
            return True if args[0].dtype == torch.bool else 1
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self.live += storage.nbytes()
        if self.live > self.peak:
            self.peak, self.gradients = self.live, _bytes(weight.grad for weight in self._real)
        weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self.live -= size


class _Whole(ModuleTracker):
    """Attributes every operation to one root; PyTorch's tracker cannot follow the gradient penalty through modules."""

    def __enter__(self) -> "_Whole":
        return self

    def __exit__(self, *of: object) -> None:
        pass


class _Unpadded(TextEncoder):
    """The text encoder for captions that are all of full length, without reading the lengths."""

    def forward(self, tokens: Tensor, lengths: Tensor) -> EncodedText:
        """As `TextEncoder`."""
        words, (last_states, _) = self.rnn(self.dropout(self.encoder(tokens)))
        return EncodedText(words.transpose(1, 2), torch.cat(last_states.unbind(0), dim=1))


@dataclass(frozen=True)
class _Shapes:
    """Batches without content."""

    config: RunConfig

    def batch(self, seed: int, step: int, size: int, rank: int = 0, world: int = 1) -> Batch:
        side, words = self.config.data.resolution, self.config.data.max_words
        image = torch.empty(size, 3, side, side).contiguous(memory_format=torch.channels_last)
        tokens = torch.ones(size, words, dtype=torch.int64)
        lengths, versions = torch.full((size,), words), tokens[:, None].repeat(1, MAX_HARD_NEGATIVES, 1)
        return Batch(
            image, tokens, lengths, torch.arange(size), versions, lengths[:, None].repeat(1, MAX_HARD_NEGATIVES)
        )

    def require(self, size: int) -> None:
        """Does nothing."""


def _learning(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def _sizes(networks: Mapping[str, nn.Module], learning: Mapping[str, int], words: int) -> list[str]:
    rows = [("network", "parameters", "trained")]
    for name, network in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        noted = f" (a vocabulary of {words:,})" if name == "text encoder" else ""
        rows.append((name, f"{count:,}", f"{learning[name]:,}{noted}"))
    return aligned(rows)


def _costs(costs: Mapping[str, Cost]) -> list[str]:
    head = (
        "phase",
        "GFLOP/picture",
        "GFLOP/step",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "total, MiB",
    )
    rows: list[tuple[str, ...]] = [head]
    for phase, cost in costs.items():
        parts = (cost.weights, cost.gradients, cost.optimizer, cost.peak - cost.gradients - cost.optimizer)
        memory = (f"{part / MIB:,.1f}" for part in (*parts, cost.weights + cost.peak))
        rows.append((phase, f"{cost.flops / cost.pictures / 1e9:,.2f}", f"{cost.flops / 1e9:,.1f}", *memory))
    return aligned(rows)
