"""Is it worth scoring the best candidates again, each with its pair's correspondence?

    python benchmarks/training_cities.py --out data/ablation --train 8 --val 3 \\
        --size-m 500 --panoramas 450 --photos 0
    python benchmarks/rerank.py --train data/ablation/train/* --choose data/ablation/val/city_00 \\
        --test data/ablation/val/city_0[12]      # 20 minutes on two cores

The 48 patches most similar to a panorama, or to 90 degrees of one, are ordered again by the shipped network's
finer features: NCM's cells, which both views share (32 azimuths x 4 distances x 96 numbers, not averaged into
a descriptor), by their cosine or a learned weight of every channel; or the descriptor's azimuths (32 x 12
numbers, which a store holds anyway), by a small network. What is learned learns on the first cities; when to
stop and what the cosine weighs beside the similarity is chosen on another; the figures are of the last ones.
Writes OUT (JSON) and prints it as a table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from reporting import write_results
from torch import Tensor, nn
from torch.nn import functional

from cli.pairs import open_pairs
from cli.tables import markdown_table
from clnet_model.data import GeoPairs, nearest_rows
from clnet_model.encoder import TorchEncoder, load_encoder
from clnet_model.evaluate import NORTH_KNOWN, PHOTO_90, QuerySet, as_asked, embed_gallery
from clnet_model.model import View
from clnet_model.precision import mixed

ROOT = Path(__file__).resolve().parent.parent
CANDIDATES = 48
SIGMA_M = 6.0  # what the network itself was trained with
ASKED = (NORTH_KNOWN, PHOTO_90)
SEEDS = (0, 1, 2)
STEPS, CHOOSE_EVERY, BATCH = 400, 100, 24
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
Row = dict[str, Any]
Scorer = Callable[[Tensor, Tensor, Tensor], Tensor]  # street, candidates, similarity -> (Q, K)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Q street images of one city, asked one way, and the K most similar patches of each. Fields of features
    are (., A, F): F numbers for each of A azimuths."""

    street: dict[str, Tensor]  # by kind of features, (Q, A, F); 0 where the image does not look
    aerial: dict[str, Tensor]  # (P, A, F), of the patches that are anybody's candidates
    chosen: Tensor  # (Q, K) rows of these
    similarity: Tensor  # (Q, K), descending
    distance_m: Tensor  # (Q, K)
    nearest: Tensor  # (Q, K): this patch is the nearest to the camera

    def __len__(self) -> int:
        return len(self.chosen)


def main() -> None:
    args = parsed()
    encoder = load_encoder(args.checkpoint)
    train, choose, test = (
        [found for path in paths for found in candidates_of(path, encoder)]
        for paths in (args.train, [args.choose], args.test)
    )
    contenders = {
        "similarity": ("descriptor", [first_order]),
        "cells, cosine": ("cell", [weighed("cell", choose)]),
        "cells, learned weights": ("cell", [learned(Weights, "cell", train, choose, seed=k) for k in SEEDS]),
        "descriptor, network": (
            "descriptor",
            [learned(Network, "descriptor", train, choose, seed=k) for k in SEEDS],
        ),
    }
    rows = [row for asked in ASKED for row in rows_of(asked, contenders, test)]
    write_results(args.out, rows)
    print_table(rows)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--choose", type=Path, required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/rerank.json")
    return parser.parse_args()


def candidates_of(data: Path, encoder: TorchEncoder) -> list[Candidates]:
    """One entry for each of ASKED."""
    pairs = open_pairs(data, encoder.model.config, progress=lambda *_: None)
    gallery = torch.from_numpy(embed_gallery(encoder, pairs))
    return [candidates(pairs, gallery, asked, encoder) for asked in ASKED]


def candidates(pairs: GeoPairs, gallery: Tensor, asked: QuerySet, encoder: TorchEncoder) -> Candidates:
    rows = pairs.panoramas()
    canvases = np.stack([as_asked(pairs.canvases[row], asked, int(row)) for row in rows])
    street = features_of(canvases, encoder.model.view_ground, encoder)
    similarity, patches = (street["descriptor"].flatten(1) @ gallery.T).topk(CANDIDATES, dim=1)
    needed, chosen = patches.unique(return_inverse=True)
    at = torch.from_numpy(np.array(pairs.patch_xy_m))[patches]  # (Q, K, 2)
    nearest = nearest_rows(pairs.street_xy_m[rows], pairs.patch_xy_m, count=1)[0]
    return Candidates(
        street=street,
        aerial=features_of(pairs.centre_patches(needed.numpy()), encoder.model.view_aerial, encoder),
        chosen=chosen,
        similarity=similarity,
        distance_m=(at - torch.from_numpy(pairs.street_xy_m[rows])[:, None]).norm(dim=-1).float(),
        nearest=patches == torch.from_numpy(nearest.astype(np.int64)),
    )


def features_of(
    images: NDArray[np.uint8], view: Callable[[Tensor], View], encoder: TorchEncoder
) -> dict[str, Tensor]:
    """Descriptor (N, A, 12), and NCM's cells (N, A, 4 * 96) of length 1 each, 0 where nothing was seen."""
    azimuths = encoder.model.config.latent_azimuths
    cells, descriptors = [], []
    with torch.inference_mode(), mixed(encoder.precision, torch.device("cpu")):
        for start in range(0, len(images), encoder.batch_size):
            block = np.ascontiguousarray(images[start : start + encoder.batch_size].transpose(0, 3, 1, 2))
            found = view(torch.from_numpy(block))
            own = functional.normalize(found.features.float(), dim=-1) * found.observed[..., None].float()
            cells.append(own.unflatten(1, (azimuths, -1)).flatten(2).half())
            descriptors.append(found.descriptor.float().unflatten(1, (azimuths, -1)))
    return {"cell": torch.cat(cells).clone(), "descriptor": torch.cat(descriptors).clone()}


class Weights(nn.Module):
    """A weight for every channel of the product of both views, beside the similarity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.0145), dtype=torch.float32))
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, street: Tensor, aerial: Tensor, similarity: Tensor) -> Tensor:
        scale = street.square().sum(dim=(1, 2)).clamp(min=1e-6)[:, None]
        products = torch.einsum("qaf,qkaf->qkf", street, aerial) / scale[..., None]
        return similarity * self.log_scale.exp() + products @ self.weight


class Network(nn.Module):
    """Products at each azimuth and its neighbours, two circular convolutions, mean and maximum."""

    def __init__(self, width: int, *, channels: int = 64) -> None:
        super().__init__()
        self.reach = 3  # azimuths by which a pair may be off
        self.log_scale = nn.Parameter(torch.tensor(np.log(1 / 0.0145), dtype=torch.float32))
        self.mix = nn.Linear(width * (2 * self.reach + 1), channels)
        self.near = nn.Conv1d(channels, channels, 3, padding=1, padding_mode="circular")
        self.far = nn.Conv1d(channels, channels, 5, padding=2, padding_mode="circular")
        self.drop = nn.Dropout(0.2)
        self.score = nn.Linear(2 * channels, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, street: Tensor, aerial: Tensor, similarity: Tensor) -> Tensor:
        unit = street.shape[1] ** 0.5 / street.flatten(1).norm(dim=1).clamp(min=1e-6)
        street = (street * unit[:, None, None])[:, None]  # (Q, 1, A, F)
        aerial = aerial * (aerial.shape[2] ** 0.5 / aerial.flatten(2).norm(dim=2))[..., None, None]
        shifts = range(-self.reach, self.reach + 1)
        mixed_ = self.mix(torch.cat([street * aerial.roll(shift, 2) for shift in shifts], dim=-1))
        x = functional.gelu(mixed_).flatten(0, 1).transpose(1, 2)  # (Q * K, C, A)
        x = x + functional.gelu(self.near(x))
        x = x + functional.gelu(self.far(x))
        seen = (street.square().sum(dim=-1) > 1e-6).float().expand(aerial.shape[:3]).flatten(0, 1)[:, None]
        mean = (x * seen).sum(dim=2) / seen.sum(dim=2).clamp(min=1)
        found = self.score(self.drop(torch.cat([mean, x.amax(dim=2)], dim=1)))
        return similarity * self.log_scale.exp() + found.view_as(similarity)


def learned(
    make: Callable[[int], nn.Module],
    features: str,
    train: Sequence[Candidates],
    choose: Sequence[Candidates],
    *,
    seed: int,
) -> nn.Module:
    """Trained on `train`, as good as it was on `choose` at its best step; the first is before any."""
    torch.manual_seed(seed)
    dice = np.random.default_rng(seed)
    scorer = make(train[0].street[features].shape[-1])
    optimiser = torch.optim.AdamW(scorer.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=STEPS)
    best, kept = -1.0, deepcopy(scorer.state_dict())
    for step in range(STEPS + 1):
        if step % CHOOSE_EVERY == 0:
            reached = standing(scorer.eval(), features, choose)
            if reached > best:
                best, kept = reached, deepcopy(scorer.state_dict())
            scorer.train()
        if step == STEPS:
            break
        city = train[int(dice.integers(len(train)))]
        rows = torch.from_numpy(dice.choice(len(city), BATCH, replace=False))
        wanted = torch.exp(-(city.distance_m[rows] ** 2) / (2 * SIGMA_M**2))
        share = wanted / wanted.sum(dim=1, keepdim=True).clamp(min=0.05)  # nothing near: nothing to learn
        loss = -(share * scored(scorer, features, city, rows).log_softmax(dim=1)).sum(dim=1).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    scorer.load_state_dict(kept)
    return scorer.eval()


def weighed(features: str, choose: Sequence[Candidates]) -> Scorer:
    """The cosine of the features beside the similarity, both in standard deviations over the candidates; its
    share is the best of SHARES on `choose`."""

    def with_share(share: float) -> Scorer:
        return lambda street, aerial, similarity: (
            (1 - share) * standard(similarity) + share * standard(cosine(street, aerial))
        )

    return max(map(with_share, SHARES), key=lambda scorer: standing(scorer, features, choose))


def first_order(street: Tensor, aerial: Tensor, similarity: Tensor) -> Tensor:
    """As the search found them."""
    return similarity


def cosine(street: Tensor, aerial: Tensor) -> Tensor:
    """Over what the street image shows, (Q, K)."""
    seen = aerial * (street != 0)[:, None]
    lengths = street.flatten(1).norm(dim=1)[:, None] * seen.flatten(2).norm(dim=2)
    return torch.einsum("qaf,qkaf->qk", street, aerial) / lengths.clamp(min=1e-6)


def standard(scores: Tensor) -> Tensor:
    return (scores - scores.mean(dim=1, keepdim=True)) / scores.std(dim=1, keepdim=True).clamp(min=1e-9)


def scored(scorer: Scorer, features: str, city: Candidates, rows: Tensor) -> Tensor:
    aerial = city.aerial[features][city.chosen[rows]].float()
    return scorer(city.street[features][rows].float(), aerial, city.similarity[rows])


def standing(scorer: Scorer, features: str, cities: Sequence[Candidates]) -> float:
    """What is chosen by: R@1 and the share within 25 m, over all ways of asking."""
    hits = [np.concatenate(first_of(scorer, features, city)) for city in cities]
    return float(np.concatenate(hits).mean())


@torch.no_grad()
def first_of(scorer: Scorer, features: str, city: Candidates) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the best scored candidate of each query is the nearest patch, and whether it is within 25 m."""
    best = torch.cat(
        [scored(scorer, features, city, rows).argmax(dim=1) for rows in torch.arange(len(city)).split(64)]
    )[:, None]
    nearest, near = city.nearest.gather(1, best), city.distance_m.gather(1, best) <= 25.0
    return nearest[:, 0].numpy(), near[:, 0].numpy()


def rows_of(
    asked: QuerySet, contenders: dict[str, tuple[str, list[Scorer]]], test: Sequence[Candidates]
) -> list[Row]:
    """Gains are paired by query, each query's hits averaged over seeds first."""
    cities = test[ASKED.index(asked) :: len(ASKED)]
    rows: list[Row] = []
    base: dict[str, NDArray[np.float64]] = {}
    for name, (features, of_seeds) in contenders.items():
        found = [[first_of(scorer, features, city) for city in cities] for scorer in of_seeds]
        hits = {
            key: np.mean([np.concatenate([city[k] for city in seed]) for seed in found], axis=0)
            for k, key in enumerate(("recall_at_1", "recall_25m"))
        }
        base = base or hits
        row: Row = {
            "asked": asked.name,
            "scored_by": name,
            "seeds": len(of_seeds),
            "queries": len(base["recall_at_1"]),
        }
        for key, values in hits.items():
            gain = values - base[key]
            row[key] = round(float(values.mean()), 4)
            row[f"gain_{key}"] = round(float(gain.mean()), 4)
            row[f"gain_{key}_95"] = round(1.96 * float(gain.std()) / len(gain) ** 0.5, 4)
        stored = cities[0].aerial[features]
        extra = 2 * stored[0].numel() if features == "cell" else 0  # float16
        rows.append(
            {
                **row,
                "bytes_more_per_patch": extra,
                "ms": round(milliseconds(of_seeds[0], features, cities[0]), 2),
            }
        )
    return rows


@torch.no_grad()
def milliseconds(scorer: Scorer, features: str, city: Candidates) -> float:
    """Median time to score one query's candidates, their features at hand."""
    took = []
    for row in torch.arange(40).split(1):
        started = time.perf_counter()
        scored(scorer, features, city, row)
        took.append(1e3 * (time.perf_counter() - started))
    return float(np.median(took))


def print_table(rows: Sequence[Row]) -> None:
    """As Markdown, for docs/training.md."""
    header = ["asked", "scored by", "R@1", "gain", "within 25 m", "gain", "ms", "bytes more a patch"]
    print(markdown_table(header, [cells_of(row) for row in rows]))


def cells_of(row: Row) -> list[str]:
    def points(key: str) -> list[str]:
        gain, spread = (100 * row[f"gain_{key}{end}"] for end in ("", "_95"))
        return [f"{100 * row[key]:.1f}", f"{gain:+.1f} ± {spread:.1f}" if spread else ""]

    return [
        row["asked"],
        row["scored_by"],
        *points("recall_at_1"),
        *points("recall_25m"),
        f"{row['ms']:.1f}",
        f"{row['bytes_more_per_patch']:,}",
    ]


if __name__ == "__main__":
    main()
