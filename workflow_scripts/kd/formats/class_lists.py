"""The text file that names the classes which are taken out of an ImageNet tree."""

from pathlib import Path

from kd.tools.errors import UserError


def listed_classes(path: str | Path) -> list[str]:
    """Return the class folders that a class list names: the first word of each line, '#' begins a comment.

    Errors: UserError for a file that cannot be read.
    """
    try:
        lines = [line.split("#")[0].split() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"class_list {path} cannot be read: {error}") from error
    return [fields[0] for fields in lines if fields]
