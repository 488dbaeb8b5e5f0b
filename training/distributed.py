"""Data-parallel training: processes started by torchrun train one model, each on its share of every batch.

A step computes what a single process would with the whole batch: random numbers are drawn for the whole batch and
shared out, negatives come from all processes, and gradients are averaged (`DistributedDataParallel`).
"""

import inspect
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from t2i_engine.errors import Interrupted, UserError

LINGER = 10
"""Seconds that a process lingers once another has failed: torchrun then ends both after the other has said why."""

PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: the first may be drawing samples or measuring FID."""


class ProcessesError(UserError):
    """More processes than GPUs, or a process that has gone."""


def world() -> int:
    """The number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes and prints; valid before and after `joined` too."""
    return not _launched() or os.environ.get("RANK", "0") == "0"


def device() -> torch.device:
    """The device of this process: a GPU of its own, or the CPU if there is none. Raises `ProcessesError`."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number, found = int(os.environ.get("LOCAL_RANK", "0")) if _launched() else 0, torch.cuda.device_count()
    if number >= found:
        raise ProcessesError(
            f"process {number} on this machine has no GPU of its own: lower --nproc-per-node to {found}"
        )
    return torch.device("cuda", number)


@contextmanager
def joined() -> Iterator[None]:
    """Joins the process group that torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, …) describe, if any.

    An error in one process ends all of them; only the first to fail reports it. All are `Interrupted` together.
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
        raise ProcessesError(f"the processes cannot find each other ({error}); start them with torchrun") from error
    try:
        yield
    except Interrupted:
        _leave()
        raise
    except Exception as error:
        if not _fails_first(store, number):
            time.sleep(LINGER)
            os._exit(2)  # without cleaning up: a library's thread may still wait for the process that has gone
        if isinstance(error, RuntimeError) and "onnection" in str(error):
            raise ProcessesError("another process was killed; resume with --resume") from error
        raise
    else:
        _leave()


def share(whole: Tensor) -> Tensor:
    """The part (B, …) of this process in a whole batch (world · B, …)."""
    size = len(whole) // world()
    return whole[rank() * size : (rank() + 1) * size]


def gathered(part: Tensor) -> Tensor:
    """The equally shaped parts (B, …) of all processes, concatenated (world · B, …).

    Its gradient is that of the sum of all processes' losses; `replicated` turns that into the gradient of their mean.
    """
    if world() == 1:
        return part
    whole: Tensor = _Gathered.apply(part)
    return whole


class _Gathered(torch.autograd.Function):
    """`gathered`; torch's own differentiable collectives have another name from one version to the next."""

    @staticmethod
    def forward(context: FunctionCtx, part: Tensor) -> Tensor:
        part = part.contiguous()
        parts = [torch.empty_like(part) for _ in range(world())]
        distributed.all_gather(parts, part)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(context: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return share(total)


def agreed(number: int) -> int:
    """The largest number of any process, so that a signal to one of them stops all at the same step."""
    if world() == 1:
        return number
    largest = torch.tensor(number, device=device())
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    return int(largest)


def total(part: Tensor) -> Tensor:
    """The sum of a tensor over all processes, on the CPU."""
    if world() == 1:
        return part.cpu()
    whole = part.to(device(), copy=True)
    distributed.all_reduce(whole)
    return whole.cpu()


@contextmanager
def first_before_others() -> Iterator[None]:
    """Lets the first process through before the others, which find in the cache what it has put there."""
    if rank() > 0:
        agreed(0)
    yield
    if rank() == 0:
        agreed(0)


def replicated(network: nn.Module) -> nn.Module:
    """Wraps a network so that every backward pass averages its gradients over all processes."""
    if world() == 1:
        return network
    named = inspect.signature(DistributedDataParallel).parameters
    sync_buffers = "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"  # until 2.12
    flags: dict[str, Any] = {sync_buffers: False}
    return DistributedDataParallel(network, **flags)


def averaging(network: nn.Module, when: bool) -> AbstractContextManager[None]:
    """A context that averages a `replicated` network's gradients in backward passes, or only accumulates them."""
    if when or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()


def averaged(values: Tensor) -> Tensor:
    """The mean of `values` over all processes."""
    if world() > 1:
        distributed.all_reduce(values)
        values /= world()
    return values


class Dropout(nn.Dropout):
    """Drops what a single process would drop of the whole batch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (PyTorch's name)
        """Maps (B, …) to the same shape."""
        if world() == 1 or not self.training:
            return super().forward(input)
        return input * share(super().forward(input.new_ones(world() * len(input), *input.shape[1:])))


class BatchNorm2d(nn.BatchNorm2d):
    """Normalises by the statistics of the whole batch, on any device; SyncBatchNorm needs a GPU."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (PyTorch's name)
        """Maps (B, C, H, W) to the same shape."""
        if world() == 1 or not self.training:
            return super().forward(input)
        features = input.float()
        own = torch.stack(torch.var_mean(features, (0, 2, 3), correction=0))  # (2, C): variance and mean
        variances, averages = gathered(own[None]).unbind(1)
        mean = averages.mean(0)
        variance = variances.mean(0) + (averages - mean).square().mean(0)
        count = world() * input.numel() // input.shape[1]
        with torch.no_grad():
            assert self.momentum is not None
            self.get_buffer("num_batches_tracked").add_(1)
            self.get_buffer("running_mean").lerp_(mean, self.momentum)
            self.get_buffer("running_var").lerp_(variance * count / (count - 1), self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        normalised = (features - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(input.dtype)


def _leave() -> None:
    distributed.barrier()  # no process leaves, least of all the store's host, before all are done
    distributed.destroy_process_group()


def _launched() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _fails_first(store: Store, number: int) -> bool:
    """Whether this is the first process to fail; if the store's host is gone, it is not."""
    try:
        return bool(store.compare_set("failed", "", str(number)) == str(number).encode())
    except RuntimeError:
        return False
