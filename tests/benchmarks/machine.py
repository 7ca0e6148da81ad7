"""What the machine can do at most, and what a network asks of it."""

import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(function: Callable[[], object], repeats: int = 10) -> float:
    """The shortest of several runs: what the machine can do when nobody else uses it."""
    times = []
    for _ in range(repeats + 2):
        synchronize()
        start = time.perf_counter()
        function()
        synchronize()
        times.append(time.perf_counter() - start)
    return min(times[2:])


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """What a function returns in a new process, forked from one that has only imported."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["ncsn.cli.commands"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *args).result()


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def peak_flops(size: int = 2048, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a matrix product, by default in float32."""
    a, b, c = torch.randn(3, size, size, device=DEVICE).to(dtype)
    return 2 * size**3 / seconds(lambda: torch.mm(a, b, out=c))


def peak_bandwidth(num: int = 2**27) -> float:
    """Bytes/s of reading and writing a tensor that no cache holds."""
    x = torch.ones(num, device=DEVICE)
    return 2 * x.nbytes / seconds(lambda: x.mul_(1.0))


def describe() -> str:
    """The machine, in a line."""
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor())
    known = {"avx512_f": "AVX512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}
    flags: Any = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.11 has none
    units = " and ".join(unit for flag, unit in known.items() if flags.get(flag)) or "no AVX512"
    return f"{name}, {units}, {torch.get_num_threads()} threads, torch {torch.__version__}"


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, if no cache helps."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = (leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor))
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return result


def flops_and_bytes(function: Callable[[], object]) -> tuple[int, int]:
    """Arithmetic of convolutions and matrix products, and bytes moved, of a function."""
    with FlopCounterMode(display=False) as arithmetic:
        function()
    with Traffic() as traffic:
        function()
    return arithmetic.get_total_flops(), traffic.bytes
