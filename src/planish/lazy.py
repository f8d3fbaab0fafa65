"""Packages that are imported on first use; a missing one is an error that names the install command."""

from __future__ import annotations

import importlib
from types import ModuleType

from planish.errors import MissingExtra, Problem


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or raise MissingExtra naming `pip install "planish[extra]"`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as absent:
        if absent.name is None or not module.startswith(absent.name.partition(".")[0]):
            raise
        raise MissingExtra(Problem(module, "is not installed", f'pip install "planish[{extra}]"')) from absent
