"""Batches from memory and from disk."""

import numpy as np
import pytest
import torch

from kd.data.packed import Packed
from kd.data.packing import pack
from kd.data.store import ImageStore
from kd.schema.config import DatasetSettings


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "packed"
    pack(DatasetSettings(source="digits"), folder, 1, False)
    return Packed(folder)


def store(digits, resident, workers=0, rows=slice(3, 203, 2)):
    indices = np.arange(len(digits.labels["train"]))[rows]
    return ImageStore(digits.images["train"], digits.labels["train"], indices, "cpu", resident, workers)


def all_batches(served, order, size=32):
    return [tuple(part.clone() for part in batch) for batch in served.batches(order, size)]


@pytest.mark.parametrize("workers", [0, 2])
def test_disk_and_memory_give_identical_batches(digits, workers):
    memory, disk = store(digits, True), store(digits, False, workers)
    order = torch.randperm(len(memory), generator=torch.Generator().manual_seed(0))
    expected = all_batches(memory, order)
    assert [len(batch[0]) for batch in expected] == [32, 32, 32, 4]
    for ours, theirs in zip(expected, all_batches(disk, order), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def test_positions_lead_back_to_images_and_labels(digits):
    served = store(digits, True)
    for images, labels, positions in served.batches(torch.tensor([5, 0, 99]), 2):
        rows = 3 + 2 * positions.numpy()
        np.testing.assert_array_equal(images.numpy(), digits.images["train"][rows])
        np.testing.assert_array_equal(labels.numpy(), digits.labels["train"][rows])
        assert torch.equal(served.labels[positions], labels)


@pytest.mark.parametrize(("resident", "workers"), [(True, 0), (False, 0), (False, 1)])
def test_serving_draws_from_no_global_generator(digits, resident, workers):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    served = store(digits, resident, workers)
    all_batches(served, torch.arange(10), 4)
    assert torch.equal(state, torch.get_rng_state())


def test_an_array_in_memory_is_served_as_well():
    images = np.arange(4 * 12, dtype=np.uint8).reshape(4, 3, 2, 2)
    served = ImageStore(images, np.arange(4), np.array([3, 1]), "cpu", resident=False, workers=0)
    batch = next(iter(served.batches(torch.tensor([1, 0]), 4)))
    np.testing.assert_array_equal(batch[0].numpy(), images[[1, 3]])
