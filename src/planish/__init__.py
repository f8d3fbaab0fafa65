"""planish: give it rows and a bar to clear; it finds the cheapest technique that clears the bar, and ships only what does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planish.pipeline import run
    from planish.recipe import Recipe

__version__ = "0.1.0"
__all__ = ["Recipe", "__version__", "run"]

_HOMES = {"run": "planish.pipeline", "Recipe": "planish.recipe"}


def __getattr__(name: str) -> Any:
    """Load a public name on first use: `import planish` brings in nothing heavy."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'planish' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
