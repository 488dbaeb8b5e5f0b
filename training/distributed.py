"""Processes that train one model together, each on its share of every batch, as torchrun starts them; or one alone.

What a step computes is what one process would compute with all of their batches: random numbers are drawn for the whole
batch and shared out, negatives come from all processes, and gradients are averaged (`DistributedDataParallel`).
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from t2i_engine.errors import UserError
from training.interruption import Interrupted

LINGER = 10
"""Seconds that a process stays once another has failed, for torchrun to end it after the other has said why."""

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: the first may be drawing samples, or measuring them."""


class ProcessesError(UserError):
    """Processes that do not fit the machine, or of which one has gone."""


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that writes and prints; also before and after they are `joined`."""
    return not _launched() or os.environ.get("RANK", "0") == "0"


def device() -> torch.device:
    """What this process computes on: a GPU of its own, or the CPU where there is none. Raises `ProcessesError`."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, found = int(os.environ.get("LOCAL_RANK", "0")) if _launched() else 0, torch.cuda.device_count()
    if number >= found:
        raise ProcessesError(
            f"process {number} of this machine has no GPU of its own: lower --nproc-per-node to {found}"
        )
    return torch.device("cuda", number)


@contextmanager
def joined() -> Iterator[None]:
    """Joins the other processes, where torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, …) say that there are any.

    An error of one ends all of them: the first to fail says why, the others say nothing. All are `Interrupted` at once.
    Raises `ProcessesError`.
    """
    if not _launched():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(device())
    try:
        store, number, count = next(iter(rendezvous("env://")))
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE, store=store, rank=number, world_size=count)
    except (RuntimeError, ValueError) as error:
        raise ProcessesError(f"the processes do not find each other ({error}); start them with torchrun") from error
    try:
        yield
    except Interrupted:
        _leave()
        raise
    except Exception as error:
        if not _fails_first(store, number):
            time.sleep(LINGER)
            os._exit(2)  # quietly: a library's thread may still wait for the process that is gone
        if isinstance(error, RuntimeError) and "onnection" in str(error):
            raise ProcessesError("another process is gone, ended from outside; go on with --resume") from error
        raise
    else:
        _leave()


def share(whole: Tensor) -> Tensor:
    """Takes this process's part (B, …) of what belongs to the whole batch (world · B, …)."""
    size = len(whole) // world()
    return whole[rank() * size : (rank() + 1) * size]


def gathered(part: Tensor) -> Tensor:
    """The parts (B, …) of all processes, one behind the other (world · B, …); of equal shapes.

    Its gradient is that of the sum of all processes' losses, which `replicated` makes the gradient of their mean.
    """
    if world() == 1:
        return part
    whole: Tensor = _Gather.apply(part)
    return whole


def agreed(number: int) -> int:
    """The largest number that any process gives: what one of them was told holds for all, at the same step."""
    if world() == 1:
        return number
    largest = torch.tensor(number, device=device())
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def padded_alike(tokens: Tensor) -> Tensor:
    """Pads int64 (…, T) behind with 0 to the largest T of all processes."""
    if world() == 1:
        return tokens
    longest = torch.tensor(tokens.shape[-1], device=tokens.device)
    distributed.all_reduce(longest, distributed.ReduceOp.MAX)
    return F.pad(tokens, (0, int(longest) - tokens.shape[-1]))


def replicated(network: nn.Module) -> nn.Module:
    """The network, its gradients averaged over all processes in every backward pass."""
    if world() == 1:
        return network
    return DistributedDataParallel(network, forward_sync_buffers=False)


def averaging(network: nn.Module, when: bool) -> AbstractContextManager[None]:
    """Around forward and backward pass: whether a `replicated` network's gradients are averaged, or only added up."""
    if when or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


def means(losses: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Every loss, a scalar each, averaged over the parts of a batch and over all processes."""
    names = list(losses[0])
    values = torch.stack([torch.stack([part[name].detach().float() for part in losses]).mean() for name in names])
    if world() > 1:
        distributed.all_reduce(values)
        values /= world()
    return dict(zip(names, values.tolist(), strict=True))


class Dropout(nn.Dropout):
    """Drops what one process alone would drop of the whole batch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (PyTorch's name)
        """Maps (B, …) to the same shape."""
        if world() == 1 or not self.training:
            return super().forward(input)
        return input * share(super().forward(input.new_ones(world() * len(input), *input.shape[1:])))


class BatchNorm2d(nn.BatchNorm2d):
    """Normalises by the statistics of the whole batch, on any device; PyTorch's SyncBatchNorm needs a GPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (PyTorch's name)
        """Maps (B, C, H, W) to the same shape."""
        if world() == 1 or not self.training:
            return super().forward(input)
        features = input.float()
        own = torch.stack(torch.var_mean(features, (0, 2, 3), correction=0))  # (2, C): variance and mean
        variances, averages = gathered(own[None]).unbind(1)
        mean = averages.mean(0)
        variance = variances.mean(0) + (averages - mean).square().mean(0)
        self._remember(mean.detach(), variance.detach(), world() * input.numel() // input.shape[1])
        scale = (variance + self.eps).rsqrt() * self.weight
        normalised = (features - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


class _Gather(torch.autograd.Function):
    """Gathers forward, and gathers the gradients of all processes' losses backward."""

    @staticmethod
    def forward(context: FunctionCtx, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(world())]
        distributed.all_gather(parts, part.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: FunctionCtx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        distributed.all_reduce(gradient)
        return share(gradient)


def _leave() -> None:
    distributed.barrier()  # nobody leaves, the store's host least of all, before everybody is done
    distributed.destroy_process_group()


def _launched() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _fails_first(store: Store, number: int) -> bool:
    """Whether no other process has failed before this one; without the store's host, another has."""
    try:
        return bool(store.compare_set("failed", "", str(number)) == str(number).encode())
    except RuntimeError:
        return False
