"""CIFAR-10 (Krizhevsky 2009): the official pickles, their archive, or class folders."""

from kd.data.cifar_pickles import open_cifar
from kd.data.source import Source
from kd.formats.cifar import CIFARS
from kd.schema.config import DatasetSettings


def open_source(settings: DatasetSettings) -> Source:
    """Open CIFAR-10 in `root`, whichever form is there, fetching it if nothing is and the settings allow it."""
    return open_cifar(CIFARS["cifar10"], settings)
