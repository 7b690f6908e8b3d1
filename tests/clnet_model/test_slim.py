"""What a layer can do without, and what is made of the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from clnet_model.slim import as_before


def maps(channels: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, 6, 5, generator=generator) for _ in range(3)]


def mapped(parts: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    return [torch.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None] for x in parts]


def test_channels_that_others_make_up_for_are_left_out_and_nothing_is_lost() -> None:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(9, 5, generator=generator)
    inner = [torch.einsum("kc,bchw->bkhw", mix, x) + 0.5 for x in maps(5, 1)]  # nine channels of rank five
    weight, bias = torch.randn(4, 9, generator=generator), torch.randn(4, generator=generator)
    wanted = mapped(inner, weight, bias)
    kept, new_weight, new_bias = as_before(inner, wanted, 5)
    assert kept.shape == (5,)
    for got, want in zip(mapped([x[:, kept] for x in inner], new_weight, new_bias), wanted, strict=True):
        torch.testing.assert_close(got, want, atol=2e-2, rtol=1e-2)


def test_the_channel_that_matters_least_goes_first() -> None:
    inner = maps(4, 2)
    weight = torch.tensor([[1.0, 0.01, -2.0, 0.5], [0.3, -0.02, 1.0, 0.7]])
    kept, _, _ = as_before(inner, mapped(inner, weight, torch.zeros(2)), 3)
    assert kept.tolist() == [0, 2, 3]


def test_what_is_left_is_fitted_anew_to_make_up_for_the_loss() -> None:
    first = maps(1, 3)
    inner = [torch.cat([x, x + 0.1 * torch.randn(x.shape)], dim=1) for x in first]
    wanted = mapped(inner, torch.tensor([[1.0, 1.0]]), torch.tensor([3.0]))
    kept, weight, bias = as_before(inner, wanted, 1)
    assert kept.shape == (1,)
    assert abs(float(weight) - 2.0) < 0.1
    assert abs(float(bias) - 3.0) < 0.1
