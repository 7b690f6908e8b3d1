"""Takes a network to imagery that looks unlike its training's, by images without any labels.

Adaptive batch normalisation (Li et al., arXiv 1603.04779): what was learned stays; the means and spreads by
which each view is normalised become those of the images shown. They are constants again afterwards, so an
embedding still depends on its own image alone. Vectors mean something else then: the network has another
digest, and a gallery has to be embedded by it.
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import torch

from clnet_model.augment import AugmentConfig
from clnet_model.errors import BadConfig, BadPairs
from clnet_model.evaluate import QuerySet, as_asked
from clnet_model.model import CLNet
from clnet_model.preprocess import Pixels
from clnet_model.train_step import forget_statistics
from clnet_model.trunk import ViewNorm

FEWEST = 32
"""Images of each view."""
BATCH = 32


@torch.no_grad()
def adapted(model: CLNet, canvases: Pixels, patches: Pixels, *, seed: int = 0) -> CLNet:
    """A copy of the network whose statistics are those of street canvases (N, H, W, 4) and patches
    (M, S, S, 3), uint8. Of most panoramas only a part is shown, as in training, so that photos are at home
    in the same statistics.

    Raises:
        BadPairs: fewer than FEWEST images of a view.
        BadConfig: a trunk of the library's, which keeps no statistics.
    """
    if not any(isinstance(module, ViewNorm) for module in model.trunk.modules()):
        kind = model.config.backbone.model_type
        raise BadConfig(
            f"a {kind} trunk keeps no statistics of images; train it on images like yours instead"
        )
    for name, images in (("street images", canvases), ("patches", patches)):
        if len(images) < FEWEST:
            raise BadPairs(f"{len(images)} {name} are too few to take statistics of; show at least {FEWEST}")
    model = deepcopy(model)
    forget_statistics(model)
    model.train()
    dice = np.random.default_rng(seed)
    for images, view in ((in_part(canvases, dice), model.view_ground), (patches, model.view_aerial)):
        parts = len(images) // BATCH
        for rows in np.array_split(dice.permutation(len(images)), parts):
            view(torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))))
    return model.eval()


def in_part(canvases: Pixels, dice: np.random.Generator) -> Pixels:
    """Some of the canvases that show the full circle cut down to photos of 60 to 110 degrees."""
    shown = canvases.copy()
    for row in np.flatnonzero(dice.random(len(canvases)) < AugmentConfig().limited_fov_share):
        if canvases[row, ..., 3].any(axis=0).all():
            photo = QuerySet(name="photo", hfov_deg=float(dice.uniform(60, 110)))
            shown[row] = as_asked(canvases[row], photo, int(row))
    return shown
