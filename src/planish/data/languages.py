"""Which language a text is in. Short texts and code are not judged."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from planish.lazy import require

_LETTERS = 30
_NO_LANGUAGE = "zxx"  # keys, numbers, noise
_CODE = re.compile(r"```|[{}<>=;\\|]|://")
_SPLIT = re.compile(r"[\W\d_]+")


@cache
def identifier() -> Any:
    """py3langid's model, which ships with it; `labels` are the two-letter codes it knows (ISO 639-1). Raises MissingExtra without the package."""
    langid = require("py3langid.langid", extra="data")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def ranked(text: str) -> list[tuple[str, float]]:
    """The languages a text may be in with their probabilities, the likeliest first; none for fewer than 30 letters, for code, and for what is no language.

    Raises MissingExtra without py3langid."""
    words = _SPLIT.sub(" ", text).strip()
    if len(words) < _LETTERS or len(words) < 0.75 * len(text) or len(_CODE.findall(text)) > 2:
        return []
    found = identifier().rank(words[:2000])
    if found[0][0] == _NO_LANGUAGE:
        return []
    return [(str(code), float(share)) for code, share in found if share > 0.001] or [(str(found[0][0]), float(found[0][1]))]
