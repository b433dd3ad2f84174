"""Images of one split, served in batches: from the device's memory, or from disk by processes that read ahead."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = tuple[Tensor, Tensor, Tensor]


class ImageStore:
    """Some rows of a packed split; position p of the store is row `indices[p]`.

    `images` (N, 3, H, W) uint8 and `labels` (N,) int64 are whole packed arrays, `indices` the rows to serve.
    Both modes give the same batches for the same order, and neither draws from any global generator.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        device: torch.device | str,
        resident: bool,
        workers: int = 2,
    ) -> None:
        assert len(images) == len(labels)
        self.device = torch.device(device)
        self.labels = torch.from_numpy(np.asarray(labels[indices], dtype=np.int64)).to(self.device)
        self.workers = workers
        self._source = images
        self._indices = np.asarray(indices, dtype=np.int64)
        self._resident = torch.from_numpy(np.ascontiguousarray(images[indices])).to(self.device) if resident else None

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def resident(self) -> bool:
        """Whether the images live on the device."""
        return self._resident is not None

    def batches(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """Yield (images uint8 (B, 3, H, W), labels (B,), positions (B,)) on the device; the last batch may be short.

        `order` (int64, on the CPU) lists the positions to serve; the caller draws it.
        """
        on_device = order.to(self.device)
        images = self._resident_images(on_device, batch_size) if self.resident else self._read(order, batch_size)
        for batch, positions in zip(images, on_device.split(batch_size), strict=True):
            yield batch, self.labels[positions], positions

    def _resident_images(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        assert self._resident is not None
        for positions in order.split(batch_size):
            yield self._resident.index_select(0, positions)

    def _read(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        rows = [part.numpy() for part in torch.from_numpy(self._indices)[order.cpu()].split(batch_size)]
        on_gpu = self.device.type == "cuda"
        loader = DataLoader(
            _DiskBatches(self._source, rows),
            batch_size=None,  # an item is a batch already
            num_workers=min(self.workers, len(rows)),
            prefetch_factor=4 if self.workers and rows else None,
            pin_memory=on_gpu,
            generator=torch.Generator(),  # the loader draws a seed for its workers, and must not draw the global one
        )
        for images in loader:
            yield images.to(self.device, non_blocking=on_gpu)


class _DiskBatches(Dataset):
    """Item b is the images of the b-th batch; a memory map is reopened by each process instead of being sent to it."""

    def __init__(self, images: np.ndarray, rows: list[np.ndarray]) -> None:
        filename = getattr(images, "filename", None)
        self.path = Path(filename) if filename and isinstance(images, np.memmap) else None
        self.images = None if self.path else images
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Tensor:
        if self.images is None:
            assert self.path is not None
            self.images = np.load(self.path, mmap_mode="r")
        return torch.from_numpy(self.images[self.rows[number]])
