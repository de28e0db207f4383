"""Which number format the matrix products run in: training may be fast, evaluation is exact."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, float32 elsewhere.

    On a CPU that means AVX-512 BF16 or AMX (oneDNN's fast paths); on CUDA, compute capability 8.0.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(False)
    else:
        has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        native = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
    return torch.bfloat16 if native else torch.float32


@contextmanager
def evaluation(device: torch.device) -> Iterator[None]:
    """Float32 products, whatever surrounds them, for all that a table is computed from.

    Between two instruction sets float32 features differ by 1e-6 of the largest, bfloat16 ones by
    1e-2; the number of threads changes neither (`tests/rounding.py`). On CUDA, cuDNN's
    convolutions would take TensorFloat-32 otherwise, which keeps 10 bits.
    """
    cudnn = torch.backends.cudnn
    exact = cudnn.flags(enabled=cudnn.enabled, deterministic=True, allow_tf32=False)
    with torch.autocast(device.type, enabled=False), exact:
        yield


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision for training: `fast_dtype` for products, float32 for the rest."""
    dtype = fast_dtype(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


def describe_device(device: torch.device) -> str:
    """A device in words, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
