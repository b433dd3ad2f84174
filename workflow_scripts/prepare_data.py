"""Pack a data set once into uint8 arrays with a manifest."""

import argparse
import json
from pathlib import Path
from typing import Any

from kd.console.entry import run
from kd.data.packing import pack
from kd.schema.config import DatasetSettings
from kd.study.contents import contents_of


def main(arguments: argparse.Namespace) -> dict[str, Any]:
    """Pack as the settings say, and return what was packed."""
    settings = DatasetSettings.model_validate(json.loads(arguments.settings))
    found = contents_of(settings)
    fetching = settings.model_copy(update={"download": arguments.download})
    pack(fetching, arguments.out, workers=arguments.threads, progress=True)
    if found.digest is None:  # what is downloaded is there afterwards only
        found = contents_of(settings)
    return {"contents": found.digest, "train_images": found.train_images}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", required=True, help="the data set's packing settings as JSON")
    parser.add_argument("--download", action="store_true", help="fetch what is not there")
    parser.add_argument("--out", type=Path, required=True, help="folder for the arrays")
    parser.add_argument("--threads", type=int, default=1, help="processes that decode images")
    run(main, parser, "prepare_data")
