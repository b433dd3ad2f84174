"""CIFAR-100 (Krizhevsky 2009) with its 100 fine labels from the official Python pickles."""

from kd.data.cifar_pickles import Layout, open_cifar
from kd.data.source import Source
from kd.spec.config import DatasetSettings

LAYOUT = Layout(
    dataset="CIFAR100",
    folder="cifar-100-python",
    train=("train",),
    test=("test",),
    meta="meta",
    names_key="fine_label_names",
    labels_key="fine_labels",
)


def open_source(settings: DatasetSettings) -> Source:
    """Open CIFAR-100 in `root`, downloading it first if the settings say so."""
    return open_cifar(LAYOUT, settings)
