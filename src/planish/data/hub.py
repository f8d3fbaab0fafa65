"""Rows of a data set on the Hugging Face hub: streamed through `datasets`, all of one commit, no code of the data set's own; the hub that HF_ENDPOINT names.

A private or gated set is opened with the token of HF_TOKEN or `hf auth login`, which the hub's own client sends; planish never sees it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from planish.data import arrow
from planish.data.fault import Fault
from planish.errors import InputError, Problem
from planish.lazy import require

HUB = "hub:"
"""A path that begins so names a data set on the hub: `hub:owner/name[/subset][@revision][:split]`."""

KINDS = ("parquet", "arrow", "json", "csv", "text")
"""What the files of a data set may be, as `datasets` calls its readers; lines of JSON are json too. Other readers decode what may hold code."""

PATIENCE = 10.0
"""Seconds that the hub may take to say where a data set stands."""

_LOST = "Server Disconnected"
_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<subset>[^/@:]+))?(?:@(?P<revision>[^@:]+))?(?::(?P<split>.+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LET_IN = "for a private or gated one ask to be let in on its page, and set HF_TOKEN"
_AGAIN = "give the same command again; if it breaks again, download the data set, and give its files"


def named(path: Path | str) -> bool:
    """Whether a path names a data set of the hub, and nothing on this machine."""
    return str(path).startswith(HUB)


def absolute(path: Path) -> Path:
    """The same from every folder: a data set of the hub lies in none."""
    return path if named(path) else path.absolute()


class Place(NamedTuple):
    """What a path names: one split of a subset, which only some sets have, at a branch, tag or commit; without one, at the newest commit."""

    name: str
    subset: str | None
    revision: str | None
    split: str


def place(path: str) -> Place:
    """The parts of `hub:owner/name[/subset][@revision][:split]`; the split is `train` unless named. Raises InputError for a path that is none."""
    found = _NAME.fullmatch(path.removeprefix(HUB))
    if found is None:
        raise InputError(Problem(path, "names no data set on the hub", "write hub:owner/name, and then as needed /subset, @revision and :split, in this order"))
    return Place(found["name"], found["subset"], found["revision"], found["split"] or "train")


def rows(path: str) -> Iterator[tuple[int, bytes, dict[str, Any] | Fault]]:
    """The rows of a data set's split, as `arrow.parquet` gives them.

    Raises InputError when the set cannot be opened or read to its end; MissingExtra without datasets.
    """
    datasets = require("datasets", extra="hub")
    name, subset, _, split = place(path)
    if Path(name).exists():
        raise InputError(Problem(path, f"{name} is also a folder here, which would be read in its place", "give its path without hub:, or rename it"))
    at = commit(path)
    # the hub's client asks five times over 23 s, and says so; twenty rounds of that, as datasets has it, would be ten minutes
    datasets.config.STREAMING_OPEN_MAX_RETRIES = datasets.config.STREAMING_READ_MAX_RETRIES = 1
    try:
        builder = datasets.load_dataset_builder(name, subset, revision=at)
        kind = builder.info.builder_name
        opened = builder.as_streaming_dataset(split=split) if kind in KINDS else None
    except Exception as refused:  # it raises what its downloader, its readers and the hub raise
        raise InputError(Problem(path, f"cannot be opened: {_said(refused)}", _fix(refused, datasets))) from refused
    if opened is None:
        fix = "known: " + ", ".join(KINDS) + "; else download it, and write its rows as one of these"
        raise InputError(Problem(path, f"holds files of the kind {kind}, which are not read from the hub", fix))
    yield from arrow.plain(_to_the_end(opened, path))


def _fix(refused: Exception, datasets: Any) -> str:
    match refused:
        case datasets.exceptions.DatasetNotFoundError():
            return _LET_IN
        case datasets.exceptions.FileNotFoundDatasetsError() | datasets.data_files.EmptyDatasetError() | RuntimeError():
            return "only sets of data files are read, and no script is run; the hub keeps many sets as Parquet too: hub:owner/name/subset@refs/convert/parquet"
        case ValueError() if type(refused) is ValueError:  # those of its readers are of its subclasses
            return "write hub:owner/name:split with one of its splits, hub:owner/name/subset:split of a set in several subsets"
        case _:
            return _AGAIN


def _to_the_end(opened: Any, path: str) -> Iterator[dict[str, Any]]:
    try:
        yield from opened
    except Exception as broken:  # as above, and what its readers make of a broken file
        raise InputError(Problem(path, f"cannot be read to its end: {_said(broken)}", _AGAIN)) from broken


def commit(path: str) -> str:
    """The commit at which the data set stands: the one that is named, or what the hub says of its branch or tag. It is asked once: every reading of a process is of
    the same rows, and a later process sees what has changed.

    Raises InputError for a path that names none, and where the hub does not say.
    """
    name, _, revision, _ = place(path)
    return revision if revision is not None and _COMMIT.fullmatch(revision) else _commit(name, revision)


@cache
def _commit(name: str, revision: str | None) -> str:
    require("datasets", extra="hub")
    hub, errors = require("huggingface_hub", extra="hub"), require("huggingface_hub.errors", extra="hub")
    try:
        return str(hub.HfApi().dataset_info(name, revision=revision, timeout=PATIENCE).sha)
    except errors.RevisionNotFoundError as absent:
        raise InputError(Problem(f"{HUB}{name}@{revision}", "the data set has no such branch, tag or commit", "look at its history on the hub")) from absent
    except errors.RepositoryNotFoundError as absent:
        raise InputError(Problem(HUB + name, "there is no such data set on the hub, or it is private", f"check the name; {_LET_IN}")) from absent
    except Exception as unreachable:  # what its transport raises is of the hub's version
        fix = "check the network, and HF_ENDPOINT and HF_HUB_OFFLINE where they are set; else download the data set, and give its files"
        raise InputError(Problem(HUB + name, f"the hub does not answer: {_said(unreachable)}", fix)) from unreachable


def _said(error: BaseException) -> str:
    """What an error of the libraries says, on one line; of a lost connection, which datasets only calls lost, also how."""
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{said}: {_said(error.__cause__)}" if str(error) == _LOST and error.__cause__ is not None else said
