"""Make an experiment file data for Snakemake too: no key of it runs anything.

Snakemake reads a configuration file before any Snakefile can refuse what stands in it, and renders one that says
`__use_yte__` as a template, which runs the Python in it. envs/task.py puts this module into the environment, where
every Python imports it when it starts; there it waits for the renderer to be imported and lets it refuse such files.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

RENDERER, KEY = "yte", "__use_yte__"


class Refusal:
    """A finder of modules that changes the renderer's reading of files that must ask to be rendered."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return how the renderer is loaded; of any other module nothing, so that others find it."""
        spec = PathFinder.find_spec(name, path, target) if name == RENDERER else None
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                module.process_yaml = refusing(module.process_yaml)  # type: ignore[attr-defined]

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def refusing(render: Any) -> Any:
    """Return the renderer's function so changed that a file which asks to be rendered is refused in a sentence."""

    def process_yaml(file_or_str: Any, *arguments: Any, require_use_yte: bool = False, **options: Any) -> Any:
        if not require_use_yte:  # the caller's own template, not a user's file
            return render(file_or_str, *arguments, **options)
        import yaml

        text = file_or_str if isinstance(file_or_str, str) else file_or_str.read()
        # the key may be written with escapes; any other file is not worth being read twice
        content = yaml.safe_load(text) if KEY in text or "\\" in text else None
        if isinstance(content, dict) and KEY in content:
            from snakemake_interface_common.exceptions import WorkflowError

            name = getattr(file_or_str, "name", "the configuration")
            raise WorkflowError(f"{name}: key {KEY} makes Snakemake run code of the file and is not allowed here")
        return render(text, *arguments, require_use_yte=True, **options)

    return process_yaml


sys.meta_path.insert(0, Refusal)  # type: ignore[arg-type]
