"""A11: where the task can be read, layer by layer."""

import json

from tests.climb.test_climb import home  # noqa: F401
from typer.testing import CliRunner

from planish.cli import app
from planish.model.probe import read_layers


def test_a11_a_probe_stands_behind_every_layer_and_counts_the_validation_rows(home):  # noqa: F811
    text = (home / "recipe.yaml").read_text(encoding="utf-8").replace("split: {gold: 0.4}", "split: {gold: 0.3, validation: 0.3}")
    (home / "recipe.yaml").write_text(text, encoding="utf-8")
    options = ["probe", str(home / "recipe.yaml"), "--workspace", str(home / "work")]
    found = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert [one["layer"] for one in found["layers"]] == [0, 1, 2]  # two layers, and behind the final norm
    assert {one["accuracy"]["n"] for one in found["layers"]} == {48}
    best = max(found["layers"], key=lambda one: one["accuracy"]["value"])
    assert found["best"] == best["layer"]
    assert found["enough"] <= found["best"]
    assert found["layers"][found["enough"]]["accuracy"]["high"] >= best["accuracy"]["value"]
    shown = CliRunner().invoke(app, options).output
    assert "read on 48 validation rows" in shown


def test_a11_a_layer_that_holds_the_label_is_told_from_one_that_does_not():
    import torch

    labels = ["yes", "no"] * 40
    sign = torch.tensor([1.0, -1.0] * 40)[:, None]
    noise = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    blind, seeing = noise, torch.cat([sign, noise], dim=1)
    readings = read_layers([blind[:40], seeing[:40]], labels[:40], [blind[40:], seeing[40:]], labels[40:])
    assert readings[1].right == 40
    assert readings[0].right < 32


def test_a_probe_needs_labels(home):  # noqa: F811
    (home / "rows.jsonl").write_text("".join(json.dumps({"question": f"what is {n}?", "answer": str(n)}) + "\n" for n in range(200)), encoding="utf-8")
    text = (home / "recipe.yaml").read_text(encoding="utf-8").replace(", labels: [good, bad]", "").replace("scorers: [label], ", "")
    (home / "recipe.yaml").write_text(text, encoding="utf-8")
    refused = CliRunner().invoke(app, ["probe", str(home / "recipe.yaml"), "--workspace", str(home / "work")])
    assert refused.exit_code != 0
    assert "qa has none" in str(refused.exception)
