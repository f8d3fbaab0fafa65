"""What every exporter says of the file that it wrote."""

from __future__ import annotations

from planish.rows import Noun


class FellBack(Noun):
    """A tensor that was not written as asked: for GGUF because its row length does not divide into blocks, for codes because of what `why` says."""

    tensor: str
    wanted: str
    written: str
    why: str = "row length no multiple of the block"


class Exported(Noun):
    """`file` is a file or folder beside the report. `bits_per_weight` is over tensor data alone; `tensor_types` counts tensors per type. `notes` are what must be said."""

    file: str
    bytes: int
    bits_per_weight: float
    tensor_types: dict[str, int]
    fell_back: tuple[FellBack, ...]
    notes: tuple[str, ...] = ()


class Quantised(Exported):
    """Weights written as whole-number codes. `changed` is the distance ||W' - W|| / ||W|| of the coded weights; `output_error` that of their outputs on the calibration text over
    what rounding to nearest would have given, None without such text."""

    changed: float
    output_error: float | None = None
