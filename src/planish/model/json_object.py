"""A JSON file of a model or adapter folder, as an object or as an error that says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from planish.errors import InputError, Problem


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(Problem(str(path), "is missing", "give a folder in the Hugging Face layout")) from None
    except (OSError, ValueError, RecursionError) as why:
        raise InputError(Problem(str(path), f"is no JSON: {why}", "save it again")) from why
    if not isinstance(found, dict):
        raise InputError(Problem(str(path), "is no JSON object", "save it again"))
    return found
