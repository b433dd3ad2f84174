"""Why a file could not be written or read, in words: each library's savers report a full disk in their own way."""

import errno
import os
import re

# torch's zip writer, which forgets why a write fell short
_TORCH_WRITER = re.compile(r"inline_container|iostream error|PytorchStreamWriter failed")


def disk_trouble(error: BaseException) -> str | None:
    """Return what the file system refused, such as 'No space left on device'; None for an error of another kind.

    Knows OSError, numpy's short writes (an OSError without a number), safetensors' and torch's own errors.
    """
    if isinstance(error, OSError):
        return error.strerror or _shortened(str(error))
    text = str(error)
    if number := re.search(r"\(os error (\d+)\)", text):  # safetensors is written in Rust
        return os.strerror(int(number.group(1)))
    return _SHORT if isinstance(error, RuntimeError) and _TORCH_WRITER.search(text) else None


_SHORT = f"only a part could be written ({os.strerror(errno.ENOSPC)}, or a limit on the size of files)"


def _shortened(text: str) -> str:
    """Return the text of an OSError without a number; numpy's says how many items were written."""
    return _SHORT if re.fullmatch(r"\d+ requested and \d+ written", text) else text
