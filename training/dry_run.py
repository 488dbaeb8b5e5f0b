"""`t2i-engine train --dry-run`: the FLOPs and memory of a run, from steps on tensors without content.

The run's own phases run two steps of each phase in PyTorch's FakeTensorMode: nothing is computed, so networks that
would not fit this machine can be measured too.
"""

import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import yaml
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from t2i_engine.table import aligned
from training.config import DamsmConfig, GanConfig, RunConfig, model_sizes
from training.damsm import DamsmPhase
from training.data.feed import Batch
from training.data.loading import read_vocabulary
from training.initial import starting_model
from training.loop import Plan
from training.models.text_encoder import EncodedText, TextEncoder
from training.models.text_to_image import TextToImage
from training.phase import Phase, PhaseName
from training.precision import computed_precision
from training.stages import remaining_runs
from training.step import GanPhase

MIB = 1 << 20
HEAD: tuple[str, ...] = (
    "phase", "GFLOP/picture", "GFLOP/step", "weights", "gradients", "optimizer", "activations", "total, MiB",
)  # fmt: skip
METHOD = """\
Counted on tensors without content, in {precision} on {device}, with captions of max_words words.
FLOPs: convolutions and matrix products, forward and backward (torch.utils.flop_counter); a multiply-add counts as two.
A step is the mean over gradient_penalty_interval steps.
Memory: at a step's peak. Activations are everything but weights, gradients and optimizer state. Library workspaces, the
CUDA context (about 0.5 GiB) and fragmentation come on top.
"""


def describe(config: RunConfig) -> str:
    """The resolved config as YAML, with network sizes, FLOPs and memory of each of its runs as comments.

    Writes nothing. Raises `UserError` of the config, its data or its initial model.
    """
    first, *later = remaining_runs(config)
    initial = starting_model(first)
    if initial and first.damsm.finetune:
        initial = initial.knowing(read_vocabulary(first.data))
    words = initial.words if initial else read_vocabulary(first.data)
    plan = Plan(**initial.plan) if initial and initial.plan else Plan.of(first, initial)
    plans = [plan, *(Plan(run.damsm.finetune, run.damsm.finetune, None) for run in later)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = computed_precision(device, config.precision)
    comments = METHOD.format(precision=precision, device=device.type).splitlines()
    for run, planned in zip([first, *later], plans, strict=True):
        comments += ["", *([f"{run.name}:", ""] if later else []), *_counted(run, planned, len(words), device)]
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return settings + "\n" + "".join(f"# {line}".rstrip() + "\n" for line in comments)


def _counted(config: RunConfig, plan: Plan, vocabulary_size: int, device: torch.device) -> list[str]:
    """Network sizes, FLOPs and memory of a run, as lines."""
    model = TextToImage(model_sizes(config, vocabulary_size))
    model.text_encoder = _Unpadded(vocabulary_size, config.model.embedding_width, config.model.sentence_width)
    eager = config.model_copy(update={"cuda_graph": False})  # nothing to replay
    damsm = DamsmPhase(config, model.text_encoder, device, plan.train_text_encoder, pretrained=False)
    if not plan.train_image_encoder:
        damsm.image_encoder.requires_grad_(False)
    gan = GanPhase(eager, damsm.text_encoder, damsm.image_encoder, model.generator, device)
    networks = {
        "text encoder": damsm.text_encoder,
        "image encoder": damsm.image_encoder,
        "generator": gan.generator,
        "discriminator": gan.discriminator,
    }
    rows = [("network", "parameters", "trained")]
    for name, network in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        vocabulary = f" (a vocabulary of {vocabulary_size:,})" if name == "text encoder" else ""
        rows.append((name, f"{count:,}", f"{trained:,}{vocabulary}"))
    return [*aligned(rows), "", *aligned(_costs(config, plan, damsm, gan))]


def _costs(config: RunConfig, plan: Plan, damsm: DamsmPhase, gan: GanPhase) -> list[tuple[str, ...]]:
    """FLOPs and memory of a step of each phase, as rows of a table."""
    networks = (damsm.networks, gan.generator, gan.discriminator, gan.average)
    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    optimizers = [*damsm.optimizers.values(), *gan.optimizers.values()]
    interval = config.gan.gradient_penalty_interval
    # Regular steps: after the warm-up, and every interval-th with the penalty.
    regular = interval * (-(-config.gan.discriminator_warmup // interval) + 1)
    phases: list[tuple[PhaseName, Phase, tuple[int, int], int, int]] = [
        ("gan", gan, (regular + 1, regular), interval, config.gan.batch_size * config.gan.gradient_accumulation)
    ]
    if plan.train_image_encoder:
        phases.insert(0, ("damsm", damsm, (1, 0), 1, config.damsm.batch_size))
    rows = [HEAD]
    # Without these libraries, an LSTM consists of matrix products, which are counted.
    with (
        warnings.catch_warnings(action="ignore"),  # switching them back on warns about Intel GPUs
        torch.backends.mkldnn.flags(enabled=False),
        torch.backends.cudnn.flags(enabled=False),
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        _Watch(mode, weights) as watch,
    ):
        for name, phase, numbers, interval, pictures in phases:
            if phase is gan:
                with unset_fake_temporarily():  # which cannot copy a network
                    gan.begin(_Shapes(config, name, gan.device), None)
                gan.sentences = torch.zeros(config.gan.batch_size, config.model.sentence_width, device=gan.device)
            else:
                damsm.begin(_Shapes(config, name, damsm.device))
            flops = []
            for number in numbers:  # the first creates the optimizers' states; the last is the heaviest
                watch.peak = watch.live
                flops.append(flops_of(partial(phase.step, number)))
            mean = (flops[0] * (interval - 1) + flops[1]) / interval
            states = [state for optimizer in optimizers for state in optimizer.state.values()]
            moments = _bytes(tensor for state in states for tensor in state.values())
            activations = watch.peak - watch.gradients - moments
            parts = (_bytes(weights), watch.gradients, moments, activations, _bytes(weights) + watch.peak)
            memory = (f"{part / MIB:,.1f}" for part in parts)
            rows.append((name, f"{mean / pictures / 1e9:,.2f}", f"{mean / 1e9:,.1f}", *memory))
    return rows


def flops_of(work: Callable[[], object]) -> int:
    """The FLOPs of the convolutions and matrix products in `work`."""
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Whole()
    with counter:
        work()
    return counter.get_total_flops()


class _Watch(TorchDispatchMode):
    """Tracks the memory of live tensors."""

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
        made = func(*args, **(kwargs or {}))
        for storage in [leaf.untyped_storage() for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]:
            if storage in self._known:
                continue
            self._known.add(storage)
            self.live += storage.nbytes()
            if self.live > self.peak:
                self.peak, self.gradients = self.live, _bytes(weight.grad for weight in self._real)
            weakref.finalize(storage, self._forget, storage.nbytes())
        return made

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
    phase: PhaseName
    device: torch.device

    def batch(self, number: int) -> Batch:
        """The same for every step."""
        settings: GanConfig | DamsmConfig = getattr(self.config, self.phase)
        size, resolution, words = settings.batch_size, self.config.data.resolution, self.config.data.max_words
        image = torch.empty(size, 3, resolution, resolution, device=self.device)
        tokens, numbers = torch.ones(size, words, dtype=torch.int64), torch.arange(size, device=self.device)
        negatives = torch.ones(size, settings.hard_negatives, words, dtype=torch.int64)
        lengths = torch.full((size, 1 + settings.hard_negatives), words)
        channels_last = image.contiguous(memory_format=torch.channels_last)
        valid = torch.ones(size, settings.hard_negatives, dtype=torch.bool, device=self.device)
        masks = numbers.new_ones(size, 0)
        return Batch(
            channels_last, tokens, lengths[:, 0], numbers, numbers, masks, masks, negatives, lengths[:, 1:], valid
        )


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))
