"""CIFAR-10 (Krizhevsky 2009) from the official Python pickles."""

from kd.data.cifar_pickles import Layout, open_cifar
from kd.data.source import Source
from kd.spec.config import DatasetSettings

LAYOUT = Layout(
    dataset="CIFAR10",
    folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test=("test_batch",),
    meta="batches.meta",
    names_key="label_names",
    labels_key="labels",
)


def open_source(settings: DatasetSettings) -> Source:
    """Open CIFAR-10 in `root`, downloading it first if the settings say so."""
    return open_cifar(LAYOUT, settings)
