"""The one augmented view of the training images that teachers are asked about once."""

import torch
from torch import Tensor

from kd.data.augment import Augmenter
from kd.data.store import ImageStore
from kd.engine.seeds import derived_seed

FIXED_VIEW = "fixed view"
DRAWN_AT_ONCE = 500  # part of what the fixed view is: the draws of a batch depend on its size


def fixed_view(store: ImageStore, augmenter: Augmenter, split_seed: int) -> Tensor:
    """Return the one augmented view (n,3,H,W) of every training image that teachers are asked about.

    Its draws depend on the split alone, so that a training sees the images of which the logits were written.
    """
    draws = torch.Generator().manual_seed(derived_seed(split_seed, FIXED_VIEW))
    order = torch.arange(len(store))
    return torch.cat([augmenter.train(images, draws) for images, _, _ in store.batches(order, DRAWN_AT_ONCE)])
