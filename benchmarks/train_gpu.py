"""What a GPU makes of training and embedding: speed beside what the chip can do, and equality with a CPU.

    python benchmarks/train_gpu.py --device cuda            # --compile: torch.compile too (minutes)

Images are noise of several scales: the clock does not see what they show. A step is `train_step` as `clnet
train` runs it; assembling its batch (crops in one thread, augmentation on the device) is timed apart. Floors
are operations by the rate of a large bf16 matrix product, and the bytes that the operators read and write by
the rate of a large copy, both measured here. Writes benchmarks/results/train_gpu.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import cpu, write_results
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from clnet_model.augment import AugmentConfig, Augmenter, Batch, noise_field
from clnet_model.collective import World
from clnet_model.data import GeoPairs
from clnet_model.encoder import TorchEncoder, load_encoder
from clnet_model.model import CLNetConfig
from clnet_model.precision import mixed
from clnet_model.sampling import NeighbourhoodSampler, SamplerConfig
from clnet_model.train_config import TrainConfig
from clnet_model.train_step import TrainState, start, train_step

Row = dict[str, Any]
STREETS = 2500
PATH_STEPS = 8
PARTS = ("equality", "paths", "training", "embedding")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceilings:
    """What the device reaches on the plainest work."""

    bf16_flops: float  # a second
    fp32_flops: float
    copy_bytes: float  # a second, read and written


def main() -> None:
    """Every measurement in turn; rows are printed as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[48, 256, 1024])
    parser.add_argument("--embed-batches", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/train_gpu.json"))
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows: list[Row] = []
    for row in measured(args, device):
        rows.append(row)
        print(row, flush=True)
        name = torch.cuda.get_device_name() if device.type == "cuda" else ""
        write_results(args.out, rows, machine=f"{name}; {cpu()}", torch=torch.__version__)


def measured(args: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Rows of all kinds; the ceilings first, because the others are seen beside them."""
    large = 8192 if device.type == "cuda" else 512
    ceilings = Ceilings(
        bf16_flops=matmul_rate(device, torch.bfloat16, large),
        fp32_flops=matmul_rate(device, torch.float32, large),
        copy_bytes=copy_rate(device, large * large * 16),
    )
    yield {
        "what": "ceilings",
        "bf16_tflops": round(ceilings.bf16_flops / 1e12, 2),
        "fp32_tflops": round(ceilings.fp32_flops / 1e12, 2),
        "copy_gb_per_s": round(ceilings.copy_bytes / 1e9, 1),
    }
    if set(args.parts) != {"embedding"}:
        city = noise_city(STREETS if device.type == "cuda" else 4 * max(args.batches))
    for part in args.parts:
        match part:
            case "equality":
                yield from equality(city, device)
            case "paths":
                yield from paths(city, device)
            case "training":
                yield from training(city, device, args, ceilings)
            case "embedding":
                yield from embedding(device, args, ceilings)
            case _:
                raise AssertionError(part)


# The device on the plainest work


def matmul_rate(device: torch.device, dtype: torch.dtype, side: int) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device)


def copy_rate(device: torch.device, size: int) -> float:
    source = torch.randint(0, 255, (size,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device)


def seconds(call: Callable[[], object], device: torch.device, *, repeats: int = 10) -> float:
    """Median wall time of a call whose work has ended on the device; three calls come before."""
    for _ in range(3):
        call()
    times = []
    for _ in range(repeats):
        settle(device)
        started = time.perf_counter()
        call()
        settle(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# Images


def noise_city(streets: int) -> GeoPairs:
    """Street images 8 m apart along a line, each over a patch of its own with a margin."""
    dice = torch.Generator().manual_seed(0)
    spec = CLNetConfig().canvas
    rgb = scales_of_noise(streets, spec.height_px, spec.width_px, dice)
    places = np.stack([8.0 * np.arange(streets), np.zeros(streets)], axis=1)
    return GeoPairs(
        city="noise",
        canvases=np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1),
        street_xy_m=places,
        hfov_deg=np.full(streets, 360, np.float32),
        patches=scales_of_noise(streets, 160, 160, dice),
        patch_xy_m=places,
        margin_px=16,
    )


def scales_of_noise(count: int, height: int, width: int, dice: torch.Generator) -> Any:
    """Blocks of random colour in blocks of random colour: (N, H, W, 3) uint8."""
    image = torch.zeros(count, 3, height, width)
    for px in (1, 4, 16):
        small = torch.rand((count, 3, -(-height // px), -(-width // px)), generator=dice)
        image += small.repeat_interleave(px, 2).repeat_interleave(px, 3)[..., :height, :width]
    return (image * 85).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


# Equality


def equality(city: GeoPairs, device: torch.device, *, images: int = 128) -> Iterator[Row]:
    """The shipped network's vectors on the device beside those of the CPU in float32."""
    shown = {"ground": city.canvases[:images], "aerial": city.centre_patches(slice(0, images))}
    model = load_encoder(device="cpu").model
    right = TorchEncoder(model, digest="", precision="fp32")
    wanted = {view: embedded(right, view, shown[view]) for view in shown}
    gpu = device.type == "cuda"
    for precision, tf32 in (("fp32", False), *([("fp32", True)] if gpu else []), ("bf16", False)):
        torch.backends.cudnn.allow_tf32 = tf32  # torch's default for convolutions is True
        encoder = TorchEncoder(
            load_encoder(device="cpu").model, digest="", device=str(device), precision=precision
        )
        for view, vectors in wanted.items():
            own = embedded(encoder, view, shown[view])
            yield {
                "what": "equality with CPU fp32",
                "view": view,
                "precision": "tf32" if tf32 else precision,
                "images": images,
                "smallest_cosine": float(f"{(own * vectors).sum(axis=1).min():.7f}"),
                "greatest_difference": float(f"{np.abs(own - vectors).max():.1e}"),
            }
    torch.backends.cudnn.allow_tf32 = False


def embedded(encoder: TorchEncoder, view: str, images: Any) -> Any:
    return encoder.embed_ground(images) if view == "ground" else encoder.embed_aerial(images)


def paths(city: GeoPairs, device: torch.device) -> Iterator[Row]:
    """The same few batches through every path; their losses beside the CPU's in float32."""
    on_device = [
        ("fp32", False, device),
        ("fp32", True, device),
        ("bf16", False, device),
        ("bf16", True, device),
    ]
    if device.type == "cuda":
        on_device += [("fp16", False, device), ("fp16", True, device)]
    right: list[float] | None = None
    for precision, recompute, where in [("fp32", False, torch.device("cpu")), *on_device]:
        config = TrainConfig(
            sampler=SamplerConfig(queries=32), precision=precision, recompute=recompute, warmup_share=0.0
        )
        world = World(device=where)
        state = start(config, world)
        losses = [
            train_step(state, batch, config, share=0.5, spent_s=0.0, world=world).loss
            for batch in islice(batches(city, config, world), PATH_STEPS)
        ]
        right = right or losses
        yield {
            "what": "path",
            "device": where.type,
            "precision": precision,
            "recompute": recompute,
            "losses": [round(loss, 4) for loss in losses],
            "first_loss_off": float(f"{abs(losses[0] - right[0]):.1e}"),
            "last_loss_off": float(f"{abs(losses[-1] - right[-1]):.1e}"),
            "scale": state.scaler.get_scale(),
            "finite": bool(np.isfinite(losses).all()),
        }


def batches(city: GeoPairs, config: TrainConfig, world: World) -> Iterator[Batch]:
    """Batches as a run draws them, the same on every device."""
    sampler, model = NeighbourhoodSampler([city], config.sampler, seed=0), config.model
    noise = noise_field(0, world.device, canvas=model.canvas, patch_px=model.patch_px)
    for seed in count():
        augmenter = Augmenter(AugmentConfig(), model.canvas, seed=seed, world=world, noise=noise)
        yield augmenter(city, sampler.draw(1.0))


# Training


def training(
    city: GeoPairs, device: torch.device, args: argparse.Namespace, ceilings: Ceilings
) -> Iterator[Row]:
    """Step time by batch, precision and memory layout."""
    for batch in args.batches:
        for precision, layout, recompute in (
            ("fp32", "contiguous", False),
            ("bf16", "contiguous", False),
            ("bf16", "channels last", False),
            ("bf16", "contiguous", True),
        ):
            config = TrainConfig(
                sampler=SamplerConfig(queries=batch), precision=precision, recompute=recompute
            )
            yield step_row(city, device, config, ceilings, layout=layout, steps=args.steps)
        if args.compile:
            config = TrainConfig(sampler=SamplerConfig(queries=batch), precision="bf16")
            yield step_row(city, device, config, ceilings, steps=args.steps, compiled=True)


def step_row(
    city: GeoPairs,
    device: torch.device,
    config: TrainConfig,
    ceilings: Ceilings,
    *,
    layout: str = "contiguous",
    steps: int,
    compiled: bool = False,
) -> Row:
    world = World(device=device)
    state, drawn = start(config, world), batches(city, config, world)
    batch = next(drawn)
    images = len(batch.canvases) + len(batch.patches)
    if layout == "channels last":
        state.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = replace(batch, canvases=last(batch.canvases), patches=last(batch.patches))
    flops = flops_of(state, batch, config, world)
    started = time.perf_counter()
    if compiled:
        state.both_views = torch.compile(state.both_views, dynamic=False)
    train_step(state, batch, config, share=0.5, spent_s=0.0, world=world)
    settle(device)
    first_s = time.perf_counter() - started
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step_s = seconds(
        lambda: train_step(state, batch, config, share=0.5, spent_s=0.0, world=world), device, repeats=steps
    )
    peak = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else 0.0
    return {
        "what": "training step",
        "street_images": len(batch.canvases),
        "patches": len(batch.patches),
        "precision": config.precision,
        "layout": layout,
        "recompute": config.recompute,
        "compiled": compiled,
        "first_step_s": round(first_s, 1),
        "step_ms": round(1000 * step_s, 2),
        "assembly_ms": round(1000 * seconds(lambda: next(drawn), device, repeats=max(3, steps // 3)), 2),
        "images_per_s": round(images / step_s),
        "peak_mb": round(peak),
        "gflop": round(flops / 1e9, 1),
        "tflops": round(flops / step_s / 1e12, 2),
        "mfu_percent": round(100 * flops / step_s / ceilings.bf16_flops, 2),
    }


def last(images: Tensor) -> Tensor:
    return images.to(memory_format=torch.channels_last)


def flops_of(state: TrainState, batch: Batch, config: TrainConfig, world: World) -> int:
    """Of products and convolutions, forward and backward; recomputed ones do not count."""
    counted = start(replace(config, recompute=False), world)
    with FlopCounterMode(display=False) as counter:
        train_step(counted, batch, config, share=0.5, spent_s=0.0, world=world)
    return int(counter.get_total_flops())


# Embedding


class Traffic(TorchDispatchMode):
    """Counts operators and the bytes of the tensors they read and write, as if none stayed in a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.overloadpacket.__name__ not in {"empty", "empty_like"}:
            touched = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            self.operators += 1
            self.bytes += sum(x.numel() * x.element_size() for x in touched)
        return out


def embedding(device: torch.device, args: argparse.Namespace, ceilings: Ceilings) -> Iterator[Row]:
    """Images a second of both views, on the device alone and from main memory as services call it."""
    model = load_encoder(device="cpu").model.to(device).eval()
    spec, size = model.config.canvas, model.config.patch_px
    dice = torch.Generator().manual_seed(1)
    for view, (height, width) in {
        "ground": (spec.height_px, spec.width_px),
        "aerial": (size, size),
    }.items():
        pixels = scales_of_noise(max(args.embed_batches), height, width, dice)
        if view == "ground":
            pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)
        for batch in args.embed_batches:
            for precision in ("fp32", "bf16"):
                yield embed_row(model, view, pixels[:batch], precision, ceilings)
            if args.compile:
                yield embed_row(model, view, pixels[:batch], "bf16", ceilings, compiled=True)


def embed_row(
    model: Any,
    view: str,
    pixels: Any,
    precision: str,
    ceilings: Ceilings,
    *,
    compiled: bool = False,
) -> Row:
    device = model.log_scale.device
    embed = getattr(model, f"embed_{view}")
    call = torch.compile(embed, dynamic=False) if compiled else embed
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).to(device)
    encoder = TorchEncoder(model, digest="", device=str(device), precision=precision, batch_size=len(pixels))
    with torch.inference_mode(), mixed(precision, device):
        alone_s = seconds(lambda: call(images), device)
    with torch.no_grad(), mixed(precision, device), FlopCounterMode(display=False) as counter:
        embed(images)
    with torch.no_grad(), mixed(precision, device), Traffic() as traffic:
        embed(images)
    whole_s = seconds(lambda: embedded(encoder, view, pixels), device, repeats=5)
    many, flops = len(pixels), counter.get_total_flops()
    rate = ceilings.bf16_flops if precision == "bf16" else ceilings.fp32_flops
    return {
        "what": "embedding",
        "view": view,
        "batch": many,
        "precision": precision,
        "compiled": compiled,
        "images_per_s": round(many / alone_s),
        "from_main_memory_per_s": None if compiled else round(many / whole_s),
        "mflop_per_image": round(flops / many / 1e6, 1),
        "mb_per_image": round(traffic.bytes / many / 1e6, 2),
        "operators": traffic.operators,
        "arithmetic_floor_per_s": round(many / (flops / rate)),
        "traffic_floor_per_s": round(many / (traffic.bytes / ceilings.copy_bytes)),
        "of_bf16_matmul_percent": round(100 * flops / alone_s / ceilings.bf16_flops, 2),
    }


if __name__ == "__main__":
    main()
