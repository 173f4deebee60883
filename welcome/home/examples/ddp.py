"""Training in several processes, one for each GPU: DistributedDataParallel (DDP).

    torchrun --standalone --nproc-per-node=2 ddp.py

Without enough GPUs the processes compute on the CPU. Ends with an error if the model
did not learn, or if the processes do not hold the same model afterwards.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from made_data import make_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

EPOCHS = 3
IMAGES = 8_000  # for each process: with more processes, more data
BATCH = 128  # of each process


def main() -> None:
    # torchrun starts this file once per process and tells each who it is.
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpus = torch.cuda.device_count() >= int(os.environ["LOCAL_WORLD_SIZE"])
    device = torch.device(f"cuda:{local_rank}" if on_gpus else "cpu")
    if on_gpus:
        torch.cuda.set_device(device)
    backend = "nccl" if on_gpus else "gloo"  # gloo is for CPUs
    dist.init_process_group(backend)
    name = torch.cuda.get_device_name(device) if on_gpus else "CPU"
    say(f"process {rank} of {world}: {device} ({name}), {backend}")
    try:
        train(rank, world, device)
    finally:
        dist.destroy_process_group()


def train(rank: int, world: int, device: torch.device) -> None:
    torch.manual_seed(0)
    data = TensorDataset(*make_digits(IMAGES * world, seed=1))
    # Each process gets its own part of the data, shuffled anew in every epoch.
    sampler = DistributedSampler(data)
    loader = DataLoader(data, batch_size=BATCH, sampler=sampler)
    # DDP sends the gradients around during backward(): all take the same step.
    model = DistributedDataParallel(make_model().to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for epoch in range(1, EPOCHS + 1):
        sampler.set_epoch(epoch)
        start, total = time.perf_counter(), torch.zeros((), device=device)
        for images, labels in loader:
            loss = F.cross_entropy(model(images.to(device)), labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        losses.append(mean_of_all(total / len(loader)))
        if rank == 0:
            seconds = time.perf_counter() - start
            speed = f"{seconds:.1f} s, {len(data) / seconds:,.0f} images/s"
            say(f"epoch {epoch}: loss {losses[-1]:.3f}, {speed}")
    accuracy = mean_of_all(measure(model, rank, device))
    apart = difference(model)
    if rank == 0:
        say(f"accuracy {accuracy:.1%}, processes differ by {apart:.1e}")
    assert losses[-1] < losses[0] / 2, "the loss did not fall"
    assert accuracy > 0.95, f"the model did not learn: accuracy {accuracy:.1%}"
    assert apart == 0, "the processes do not hold the same model"


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


@torch.no_grad()
def measure(model: nn.Module, rank: int, device: torch.device) -> torch.Tensor:
    """This process's accuracy, on fresh images of its own."""
    images, labels = make_digits(2_000, seed=1_000 + rank)
    found = model(images.to(device)).argmax(1)
    return (found == labels.to(device)).float().mean()


def mean_of_all(value: torch.Tensor) -> float:
    """The mean over all processes; every process must call this."""
    value = value.clone()
    dist.all_reduce(value)
    return value.item() / dist.get_world_size()


def difference(model: nn.Module) -> float:
    """The largest distance of this model from process 0's, over all processes."""
    mine = torch.cat([one.detach().flatten() for one in model.parameters()])
    first = mine.clone()
    dist.broadcast(first, src=0)
    apart = (mine - first).abs().max()
    dist.all_reduce(apart, op=dist.ReduceOp.MAX)
    return apart.item()


def say(text: str) -> None:
    """Print a line in one piece: all processes write to the same place."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if "RANK" not in os.environ:
        sys.exit("Start me with: torchrun --standalone --nproc-per-node=2 ddp.py")
    main()
