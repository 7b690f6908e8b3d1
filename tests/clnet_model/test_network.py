"""What every combination of modules must keep: one view alone, deterministic, unit vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from clnet_model.checkpoint import SHIPPED
from clnet_model.encoder import TorchEncoder, load_encoder
from clnet_model.errors import BadConfig
from clnet_model.model import SWITCHES, BackboneConfig, CLNet, CLNetConfig, polar_grid
from clnet_model.turning import turned

Tiny = Callable[..., CLNetConfig]
SUBSETS = [s for n in range(5) for s in itertools.combinations(SWITCHES, n)]


def build(config: CLNetConfig) -> CLNet:
    torch.manual_seed(0)
    return CLNet(config).eval()


def canvases(count: int, *, seed: int = 0) -> torch.Tensor:
    found = torch.randint(0, 256, (count, 4, 32, 128), generator=torch.Generator().manual_seed(seed))
    found[:, 3] = 255
    return found.to(torch.uint8)


def patches(count: int, *, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 64, 64), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("off", SUBSETS, ids=lambda off: "-".join(off) or "all on")
def test_embeddings_do_not_depend_on_batch_mates(tiny: Tiny, off: tuple[str, ...]) -> None:
    model = build(tiny().without(*off))
    with torch.inference_mode():
        together = model.embed_ground(canvases(5))
        alone = torch.cat([model.embed_ground(canvas[None]) for canvas in canvases(5)])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
        together = model.embed_aerial(patches(5))
        alone = torch.cat([model.embed_aerial(patch[None]) for patch in patches(5)])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("off", SUBSETS, ids=lambda off: "-".join(off) or "all on")
def test_descriptors_are_unit_vectors_of_the_announced_size(tiny: Tiny, off: tuple[str, ...]) -> None:
    model = build(tiny().without(*off))
    with torch.inference_mode():
        for vectors in (model.embed_ground(canvases(2)), model.embed_aerial(patches(2))):
            assert vectors.shape == (2, model.config.dim)
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("off", SUBSETS, ids=lambda off: "-".join(off) or "all on")
def test_every_parameter_of_every_combination_learns(tiny: Tiny, off: tuple[str, ...]) -> None:
    model = build(tiny().without(*off)).train()
    for parameter in model.parameters():  # leave the zero-initialised residuals
        torch.nn.init.normal_(parameter, std=0.05) if parameter.ndim > 1 else None
    scores = model.embed_ground(canvases(3)) @ model.embed_aerial(patches(3)).T
    (scores * torch.randn(3, 3)).sum().backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    constant = ("log_range_sigma", "gate.bias")  # a softmax does not feel a common shift
    assert {name for name in still if not name.endswith(constant)} <= {"log_scale"}


def test_turning_the_world_turns_the_latent_grid(tiny: Tiny) -> None:
    model = build(tiny(use_nec=False, use_gfr=False))
    with torch.inference_mode():
        straight = model.view_ground(canvases(1)).alignment
        turned = model.view_ground(canvases(1).roll(32, dims=3)).alignment
    assert straight is not None
    assert turned is not None
    torch.testing.assert_close(turned.values, straight.values.roll(4, dims=1), atol=1e-5, rtol=1e-4)
    assert (turned.values - straight.values).abs().max() > 1e-2


def test_turned_vectors_are_those_of_rolled_canvases(tiny: Tiny) -> None:
    encoder = TorchEncoder(build(tiny()), digest="tiny")
    pixels = canvases(2).permute(0, 2, 3, 1).numpy()
    assert encoder.turns == 8
    found = turned(encoder.embed_ground(pixels), encoder.turns)  # (8 * 2, D)
    for part in range(encoder.turns):
        rolled = encoder.embed_ground(np.roll(pixels, 16 * part, axis=2))
        assert found[2 * part : 2 * part + 2] == pytest.approx(rolled, abs=1e-5)


@pytest.mark.parametrize("name", ["clnet-sim-s", "clnet-photo-s"])
def test_shipped_networks_have_no_edge_that_tells_where_south_is(name: str) -> None:
    encoder = load_encoder(SHIPPED.parent / name, device="cpu")
    encoder.precision = "fp32"
    spec = encoder.canvas
    pixels = np.random.default_rng(0).integers(0, 256, (2, spec.height_px, spec.width_px, 4), np.uint8)
    pixels[..., 3] = 255
    found = turned(encoder.embed_ground(pixels), encoder.turns)
    rolled = encoder.embed_ground(np.roll(pixels, spec.width_px // encoder.turns, axis=2))
    assert found[2:4] == pytest.approx(rolled, abs=1e-4)


def test_a_library_backbone_sees_a_little_beyond_its_edges(tiny: Tiny) -> None:
    library = BackboneConfig(model_type="convnext", hidden_sizes=(8, 16, 24), depths=(1, 1, 1))
    encoder = TorchEncoder(build(tiny(backbone=library)), digest="tiny")
    pixels = canvases(2).permute(0, 2, 3, 1).numpy()
    found = turned(encoder.embed_ground(pixels), encoder.turns)
    rolled = encoder.embed_ground(np.roll(pixels, 16, axis=2))
    assert ((found[2:4] * rolled).sum(axis=1) > 0.9).all()


def test_unobserved_directions_are_zero_and_the_rest_stays_unit(tiny: Tiny) -> None:
    model = build(tiny())
    half = canvases(1)
    half[..., :64] = 0  # only the eastern half is seen
    with torch.inference_mode():
        columns = model.embed_ground(half).view(16, -1)
    assert columns[1:7].abs().max() == 0
    assert columns[8:].abs().min(dim=1).values.max() > 0
    assert float(columns.norm()) == pytest.approx(1, abs=1e-5)


def test_pixels_under_the_mask_have_no_say(tiny: Tiny) -> None:
    model = build(tiny())
    seen = canvases(1)
    seen[:, 3, :, :40] = 0
    other = seen.clone()
    other[:, :3, :, :40] = 77
    with torch.inference_mode():
        torch.testing.assert_close(model.embed_ground(seen), model.embed_ground(other))


def test_a_canvas_that_saw_nothing_gives_finite_numbers(tiny: Tiny) -> None:
    with torch.inference_mode():
        assert torch.isfinite(build(tiny()).embed_ground(torch.zeros(1, 4, 32, 128))).all()


def test_exposure_and_white_balance_hardly_matter(tiny: Tiny) -> None:
    model = build(tiny())
    bright = patches(1).float() * 0.4 + 60
    tinted = bright * 1.2 + torch.tensor([10.0, 0.0, -10.0])[:, None, None]
    with torch.inference_mode():
        assert float(model.embed_aerial(bright)[0] @ model.embed_aerial(tinted)[0]) > 0.99


def test_correspondence_starts_as_a_polar_transform(tiny: Tiny) -> None:
    """An untrained field ties the canvas's eastern columns to the patch's eastern half."""
    plan = build(tiny(polar=False))
    with torch.inference_mode():
        field = plan.correspondence(canvases(1), patches(1)).view(
            4, 16, 8, 8
        )  # ground (rows, azimuth), aerial
    east = field[:, 12].sum(dim=0)  # azimuth +101 degrees
    assert east[:, 4:].sum() > 10 * east[:, :4].sum()
    with torch.inference_mode():
        field = build(tiny()).correspondence(canvases(1), patches(1)).view(4, 16, 4, 16)
    east = field[:, 12].sum(dim=(0, 1))  # by the patch's azimuth
    assert east[8:].sum() > 10 * east[:8].sum()


@pytest.mark.parametrize("azimuth_deg", [0, 45, 90, 225])
def test_an_unrolled_patch_shows_things_at_their_azimuth_and_range(azimuth_deg: int) -> None:
    patch = torch.zeros(1, 1, 128, 128)
    east, north = (
        math.sin(math.radians(azimuth_deg)) * 40,
        math.cos(math.radians(azimuth_deg)) * 40,
    )
    row, column = round(63.5 - north), round(63.5 + east)
    patch[:, :, row - 1 : row + 2, column - 1 : column + 2] = 1
    seen = torch.nn.functional.grid_sample(patch, polar_grid(64, 256), align_corners=False)[0, 0]
    found = (seen.sum(dim=0).argmax() + 0.5) * 360 / 256 - 180
    assert abs((float(found) - azimuth_deg + 180) % 360 - 180) < 3
    assert float(64 - seen.sum(dim=1).argmax() - 0.5) == pytest.approx(40, abs=2)


def test_turning_the_world_turns_what_the_patch_gives(tiny: Tiny) -> None:
    model = build(tiny(use_nec=False, use_gfr=False))
    with torch.inference_mode():
        straight = model.view_aerial(patches(1)).alignment
        turned = model.view_aerial(patches(1).rot90(-1, dims=(2, 3))).alignment  # clockwise
    assert straight is not None
    assert turned is not None
    torch.testing.assert_close(turned.values, straight.values.roll(4, dims=1), atol=1e-4, rtol=1e-3)


def test_correspondence_needs_ncm(tiny: Tiny) -> None:
    with pytest.raises(BadConfig, match="without NCM"):
        build(tiny().without("ncm")).correspondence(canvases(1), patches(1))


def test_unknown_module_is_refused(tiny: Tiny) -> None:
    with pytest.raises(BadConfig, match="choose from ncm, nec, gfr, polar"):
        tiny().without("abc")


def test_a_field_starts_as_wide_as_the_settings_say(tiny: Tiny) -> None:
    field = build(replace(tiny(), latent_azimuths=16, start_sigma_cells=0.4)).ground.ncm
    assert field is not None
    torch.testing.assert_close(
        field.log_azimuth_sigma.exp(), torch.full_like(field.log_azimuth_sigma, math.radians(9.0))
    )


@pytest.mark.parametrize("sigma", [0.0, -0.4, 16.0, math.nan])
def test_a_field_that_cannot_start_is_refused(tiny: Tiny, sigma: float) -> None:
    with pytest.raises(BadConfig, match="start_sigma_cells"):
        replace(tiny(), start_sigma_cells=sigma)


def test_sizes_must_fit_the_stride(tiny: Tiny) -> None:
    with pytest.raises(BadConfig, match="multiple of the trunk's stride"):
        replace(tiny(), patch_px=60)
