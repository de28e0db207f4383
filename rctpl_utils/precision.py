"""Which number format the matrix products run in, decided once a device."""

import torch


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the processor multiplies it natively, float32 elsewhere.

    On a CPU that means AVX-512 BF16 or AMX (oneDNN's fast paths); on CUDA, compute capability 8.0.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float32
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        native = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
        return torch.bfloat16 if native else torch.float32
    return torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Mixed precision for image towers: `fast_dtype` for products, float32 for the rest."""
    dtype = fast_dtype(device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)


def describe_device(device: torch.device) -> str:
    """A device in words, for records."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
