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

from clnet_model.errors import BadConfig, BadPairs
from clnet_model.model import CLNet
from clnet_model.preprocess import Pixels
from clnet_model.train_step import forget_statistics

FEWEST = 32
"""Images of each view; 64 of each did as well as hundreds on real pairs."""
BATCH = 32


@torch.no_grad()
def adapted(model: CLNet, canvases: Pixels, patches: Pixels, *, seed: int = 0) -> CLNet:
    """A copy of the network whose statistics are those of street canvases (N, H, W, 4) and patches
    (M, S, S, 3), uint8. Show it what it will be asked: photos and panoramas as they come.

    Raises:
        BadPairs: fewer than FEWEST images of a view.
        BadConfig: a trunk of the library's, which keeps no statistics.
    """
    if model.config.backbone.model_type != "residual":
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
    for images, view in ((canvases, model.view_ground), (patches, model.view_aerial)):
        parts = len(images) // BATCH
        for rows in np.array_split(dice.permutation(len(images)), parts):
            view(torch.from_numpy(np.ascontiguousarray(images[rows].transpose(0, 3, 1, 2))))
    return model.eval()
