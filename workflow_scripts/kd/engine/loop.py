"""The steps of one training: on a GPU all full batches of a stage by one recording, the last of an epoch as it is."""

from collections.abc import Callable, Hashable, Iterator

from kd.engine.capture import CudaGraph, Replay
from kd.engine.feed import Feed
from kd.methods.contract import Batch


class Loop:
    """The steps of a training's stage, epoch after epoch."""

    def __init__(
        self,
        feed: Feed,
        step: Callable[[Batch], None],
        place: Callable[[], Hashable],
        mend: Callable[[], None],
        name: str,
        wanted: str,
    ) -> None:
        """Take `step` for every batch of a feed; for the rest see `Replay`."""
        self._feed, self._step = feed, step
        tray, device = feed.tray, feed.data.train.device
        if tray is not None:
            self._full = Replay(
                lambda: step(tray.serve(tray.size)),
                lambda: (tray.place, place()),
                mend,
                lambda: CudaGraph(device),
                name,
                wanted,
            )

    def epoch(self) -> Iterator[int]:
        """Take the steps of an epoch; after each yield how many images it had, for the host to count."""
        tray = self._feed.tray
        if tray is None:
            for batch in self._feed.epoch():
                self._step(batch)
                yield len(batch.labels)
            return
        for size in tray.epoch():
            self.take(size)
            yield size

    def take(self, size: int) -> None:
        """Take the step of the next batch that a tray holds, which has so many images."""
        tray = self._feed.tray
        assert tray is not None, "batches are laid out"
        if size == tray.size:
            self._full()
        else:  # the last batch of an epoch is smaller
            self._step(tray.serve(size))
