"""Images per second of embedding, by runtime: what the default per device is chosen by.

    pip install onnx onnxscript onnxruntime openvino     # optional; runtimes that are missing are left out
    python benchmarks/embed.py

Runtimes take turns, several rounds, so that a noisy machine is noisy for all; what counts is the ratio to
torch in float32 in the same round. Every runtime's vectors are compared with it: usable is
what differs by no more than 1e-3 (1e-1 in bfloat16). Writes benchmarks/results/embed.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from reporting import cpu, write_results

ALLOWED = {"torch bf16": 1e-1}
Run = Callable[[Any], Any]


def main() -> None:
    """Measure both views with every runtime at hand."""
    import torch

    from cli.tables import markdown_table
    from clnet_model.encoder import load_encoder

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/embed.json"))
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for threads in args.threads:
        torch.set_num_threads(threads)
        encoder = load_encoder(args.checkpoint, device=args.device)
        for view, images in inputs(encoder.model.config, args.batch, args.device).items():
            rows += measure(encoder.model, view, images, threads=threads, rounds=args.rounds)
    machine = torch.cuda.get_device_name() if args.device == "cuda" else cpu()
    write_results(args.out, rows, machine=machine)
    header = (
        "view",
        "threads",
        "runtime",
        "images/s",
        "against torch fp32",
        "greatest difference",
        "usable",
        "start-up s",
    )
    names = ("view", "threads", "runtime", "images_per_s", "ratio", "difference", "usable", "startup_s")
    print(markdown_table(header, [[str(row[name]) for name in names] for row in rows]))


def inputs(config: Any, batch: int, device: str) -> dict[str, Any]:
    """Noise in the shape of both views' images, 0 to 255."""
    import torch

    dice = torch.Generator().manual_seed(0)
    size, canvas = config.patch_px, config.canvas
    patches = torch.randint(0, 256, (batch, 3, size, size), generator=dice).float()
    canvases = torch.randint(0, 256, (batch, 4, canvas.height_px, canvas.width_px), generator=dice).float()
    canvases[:, 3] = 255
    return {"aerial": patches.to(device), "ground": canvases.to(device)}


def measure(model: Any, view: str, images: Any, *, threads: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each runtime."""
    one_view = view_of(model, view)
    ready: dict[str, tuple[Run, float]] = {}
    for name, build in runtimes(one_view, images, threads):
        started = time.perf_counter()
        run = build()
        run(images)
        ready[name] = run, time.perf_counter() - started
    right = to_numpy(ready["torch fp32"][0](images))
    times: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, (run, _) in ready.items():
            started = time.perf_counter()
            to_numpy(run(images))  # fetching the result waits for a GPU
            times[name].append(time.perf_counter() - started)
    rows = []
    for name, (run, startup_s) in ready.items():
        difference = float(np.abs(to_numpy(run(images)) - right).max())
        ratios = [base / own for base, own in zip(times["torch fp32"], times[name], strict=True)]
        rows.append(
            {
                "view": view,
                "threads": threads,
                "runtime": name,
                "images_per_s": round(len(images) / median(times[name]), 1),
                "ratio": round(median(ratios), 2),
                "difference": float(f"{difference:.1e}"),
                "usable": difference <= ALLOWED.get(name, 1e-3),
                "startup_s": round(startup_s, 1),
            }
        )
        print(rows[-1], flush=True)
    return rows


def view_of(model: Any, view: str) -> Any:
    """One branch of the network as a module with a single input and output."""
    import torch

    class OneView(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = getattr(self.model, f"embed_{view}")(images)
            return found

    return OneView().eval()


def runtimes(module: Any, images: Any, threads: int) -> Iterator[tuple[str, Callable[[], Run]]]:
    """What is at hand on this machine, torch in float32 first."""
    import torch

    yield "torch fp32", lambda: inference(module)
    yield "torch channels last", lambda: channels_last(module)
    if images.is_cuda or torch.cpu._is_avx512_bf16_supported():
        yield "torch bf16", lambda: inference(module, bf16=True)
    yield "torch compiled", lambda: inference(torch.compile(module, dynamic=False))
    if images.is_cuda:
        return
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        yield "ONNX Runtime", lambda: onnx_runtime(module, images, threads)
    if find_spec("openvino"):
        yield "OpenVINO", lambda: openvino(module, images, threads)


def inference(module: Any, *, bf16: bool = False) -> Run:
    import torch

    def run(images: Any) -> Any:
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            return module(images)

    return run


def channels_last(module: Any) -> Run:
    import copy

    import torch

    run = inference(copy.deepcopy(module).to(memory_format=torch.channels_last))
    return lambda images: run(images.to(memory_format=torch.channels_last))


def onnx_runtime(module: Any, images: Any, threads: int) -> Run:
    import onnxruntime
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "view.onnx"
        with torch.no_grad():
            torch.onnx.export(module, (images,), dynamo=True, verbose=False).save(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch.numpy()})[0]


def openvino(module: Any, images: Any, threads: int) -> Run:
    import openvino as ov

    graph = ov.convert_model(module, example_input=images, input=list(images.shape))
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = ov.Core().compile_model(graph, "CPU", options)
    return lambda batch: compiled(batch.numpy())[0]


def to_numpy(vectors: Any) -> Any:
    return vectors if isinstance(vectors, np.ndarray) else vectors.float().cpu().numpy()


if __name__ == "__main__":
    main()
