"""Which numbers a step computes in, per device."""

from __future__ import annotations

import torch

from clnet_model.errors import BadConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the chip computes it natively, else float16 on a GPU, float32 on a processor.

    Raises:
        BadConfig: an unknown name, or float16 on a processor.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        # emulated bfloat16 is 6 to 35 times slower than float32
        return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    if precision not in DTYPES:
        raise BadConfig(f"precision is {precision!r}: choose auto, {', '.join(DTYPES)}")
    if precision == "fp16" and device.type == "cpu":
        raise BadConfig("precision is 'fp16', which processors emulate: choose auto, fp32 or bf16 there")
    return DTYPES[precision]


def mixed(precision: str, device: torch.device) -> torch.autocast:
    """The context that a forward pass runs in."""
    dtype = compute_dtype(precision, device)
    return torch.autocast(
        device.type,
        torch.bfloat16 if dtype == torch.float32 else dtype,
        enabled=dtype != torch.float32,
    )


def loss_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Keeps float16 gradients from vanishing; does nothing in the other precisions."""
    return torch.amp.GradScaler(device.type, enabled=compute_dtype(precision, device) == torch.float16)
