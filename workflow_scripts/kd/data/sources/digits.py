"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels, no download."""

import numpy as np

from kd.data.source import Source, array_blocks
from kd.data.splits import divide
from kd.schema.config import DatasetSettings, SplitRatios

DEFAULT_RATIOS = SplitRatios(train=0.8, test=0.2)


def open_source(settings: DatasetSettings) -> Source:
    """Open the embedded digits, divided by `split_ratios` (0.8 and 0.2 by default) with `split_seed`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # the originals count 0 to 16
    pixels = np.repeat(grey[..., None], 3, axis=3)
    labels = digits.target.astype(np.int64)
    rows = divide(labels, settings.split_ratios or DEFAULT_RATIOS, settings.split_seed, "digits")
    return Source(
        classes=[str(name) for name in digits.target_names],
        labels={split: labels[index] for split, index in rows.items()},
        blocks=lambda: (
            block for split, index in rows.items() for block in array_blocks(split, [("digits", pixels[index])])
        ),
        encoded=False,
    )
