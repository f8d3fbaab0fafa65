"""What a merge's configuration may say: settings by layer and tensor, every wrong key named at once, and mergekit's YAML key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planish.errors import InputError
from planish.merge import load
from planish.model.merge_settings import Filtered, value
from planish.model.mergekit_yaml import read
from planish.model.merging import read_spec

TWO = [{"model": "a"}, {"model": "b"}]


def test_a_list_is_drawn_out_over_the_layers() -> None:
    """0, 1, 0 over five layers (t 0, .25, .5, .75, 1): 0, .5, 1, .5, 0."""
    assert [value([0.0, 1.0, 0.0], "w", t) for t in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 0.5, 0]


def test_the_first_filter_that_fits_wins() -> None:
    setting = [Filtered(filter="mlp", value=[1.0, 0.0]), Filtered(filter="self_attn", value=0.25), Filtered(value=0.5)]
    assert [value(setting, name, 1.0) for name in ("l.0.mlp.up", "l.0.self_attn.q", "norm")] == [0.0, 0.25, 0.5]
    with pytest.raises(InputError, match="no entry of a setting fits"):
        value(setting[:2], "norm", 0.0)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"method": "tise", "models": [{"path": "a"}]}, 'did you mean "ties"'),
        ({"method": "ties", "models": [{"path": "a"}]}, "merges differences from a base"),
        ({"method": "ties", "base": "x"}, "either models or slices"),
        ({"method": "ties", "base": "a", "models": [{"path": "a"}]}, "the base is among the models"),
        ({"method": "linear", "models": [{"path": "a"}, {"path": "a"}]}, "given twice"),
        ({"method": "linear", "models": [{"path": "a", "density": 0.5}]}, "linear has no density"),
        ({"method": "linear", "models": [{"path": "a"}], "lambda": 2}, "linear has no lambda"),
        ({"method": "slerp", "models": [{"path": "a"}]}, "blends two models"),
        ({"method": "passthrough", "models": [{"path": "a"}, {"path": "b"}]}, "from one model"),
        ({"method": "linear", "models": [{"path": "a", "layers": [0, 1]}]}, "outside a slice"),
        ({"method": "linear", "slices": [{"sources": [{"path": "a", "layers": [0, 2]}, {"path": "b", "layers": [0, 1]}]}]}, "equally many layers"),
        ({"method": "linear", "models": [{"path": "a"}], "seeed": 1}, 'did you mean "seed"'),
        ({"method": "linear", "models": [{"path": "a", "wieght": 1}]}, 'did you mean "weight"'),
        ({"method": "linear", "models": [{"path": "a"}], "dtype": "int8"}, "dtype"),
        (
            {"method": "ties", "base": "x", "slices": [{"sources": [{"path": "a", "layers": [0, 1]}, {"path": "b", "layers": [1, 2]}]}]},
            "which layer of the base they differ from is not said",
        ),
        ({"method": "ties", "base": "x", "slices": [{"sources": [{"path": "a", "layers": [0, 1]}], "base_layers": [0, 2]}]}, "not as many as its sources'"),
        ([], "no mapping of keys"),
    ],
)
def test_a_wrong_key_or_combination_is_named(given: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        read_spec(given)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(InputError) as refused:
        read_spec({"method": "ties", "t": 0.5, "models": [{"path": "a", "scale": 2}, {"path": "a"}]})
    assert len(refused.value.problems) == 4  # no base, a twice, no t, no scale


def test_mergekit_ties_is_read_with_its_own_defaults() -> None:
    """mergekit's density is 1 where none is given, ours .2; the base among the models is left out; precedence: the model's parameter before everyone's."""
    given = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "base"}, {"model": "a", "parameters": {"weight": 0.3, "density": [1, 0.5]}}, {"model": "b"}],
        "parameters": {"weight": 0.7, "normalize": True, "int8_mask": True, "lambda": 0.5},
        "dtype": "bfloat16",
        "out_dtype": "float16",
        "tokenizer_source": "base",
    }
    spec, left = read(given)
    assert spec.model_dump(exclude_none=True, by_alias=True) == {
        "method": "ties",
        "base": "base",
        "models": [{"path": "a", "weight": 0.3, "density": [1.0, 0.5]}, {"path": "b", "weight": 0.7, "density": 1.0}],
        "slices": [],
        "lambda": 0.5,
        "normalize": True,
        "dtype": "float16",
    }
    assert {one.key for one in left} == {"int8_mask", "dtype", "tokenizer_source"}


def test_mergekit_slerp_counts_t_from_the_base() -> None:
    """The usual file: slices of two sources, the base second, t by filter."""
    t = [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"value": 0.5}]
    slices = [{"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 2]}]}]
    spec, _ = read({"merge_method": "slerp", "base_model": "b", "slices": slices, "parameters": {"t": t}})
    assert [source.path for source in spec.slices[0].sources] == ["b", "a"]
    assert spec.base is None
    assert spec.t is not None
    assert [value(spec.t, name, 1.0) for name in ("x.self_attn.q", "x.mlp")] == [1.0, 0.5]
    short, _ = read({"merge_method": "slerp", "base_model": "b", "models": [{"model": "a"}], "parameters": {"t": 0.2}})
    assert [source.path for source in short.models] == ["b", "a"]


def test_mergekit_adapter_on_its_base_is_read() -> None:
    spec, _ = read({"merge_method": "task_arithmetic", "base_model": "base", "models": [{"model": "base+x", "parameters": {"weight": 1.0}}]})
    assert [source.path for source in spec.models] == ["x"]


def test_mergekit_adapters_of_a_method_without_a_base_are_opened_on_their_model() -> None:
    """`linear` names no base_model, and slerp's is one of its two: either way both adapters are on the same model, which is the base that they are opened on."""
    models = [{"model": "m+x", "parameters": {"weight": 0.25}}, {"model": "m+y", "parameters": {"weight": 0.75}}, {"model": "m", "parameters": {"weight": 1}}]
    spec, _ = read({"merge_method": "linear", "models": models})
    assert (spec.base, [(source.path, source.weight) for source in spec.models]) == ("m", [("x", 0.25), ("y", 0.75), ("m", 1)])
    spec, _ = read({"merge_method": "slerp", "base_model": "m+y", "models": [{"model": "m+x"}, {"model": "m+y"}], "parameters": {"t": 0.2}})
    assert (spec.base, [source.path for source in spec.models]) == ("m", ["y", "x"])
    spec, _ = read({"merge_method": "slerp", "base_model": "m", "models": [{"model": "m+x"}, {"model": "m"}], "parameters": {"t": 0.2}})
    assert (spec.base, [source.path for source in spec.models]) == ("m", ["m", "x"])


def test_mergekit_takes_the_setting_around_where_no_filter_fits() -> None:
    """A source's filters, then its slice's number, then everyone's, then mergekit's default (density 1): first what is nearest."""
    near = {"weight": [{"filter": "mlp", "value": 0.5}], "density": [{"filter": "mlp", "value": 0.25}]}
    slices = [
        {"sources": [{"model": "a", "layer_range": [0, 2], "parameters": near}], "parameters": {"weight": [{"filter": "attn", "value": 2}]}},
        {"sources": [{"model": "a", "layer_range": [0, 2], "parameters": near}]},
    ]
    spec, _ = read({"merge_method": "ties", "base_model": "base", "slices": slices, "parameters": {"weight": [3, 5]}})
    first, second = (one.sources[0] for one in spec.slices)
    assert first.weight is not None
    assert second.weight is not None
    assert first.density is not None
    assert [value(first.weight, name, 1.0) for name in ("x.mlp", "x.attn", "x.norm")] == [0.5, 2.0, 5.0]
    assert [value(second.weight, name, 0.0) for name in ("x.mlp", "x.attn", "x.norm")] == [0.5, 3.0, 3.0]
    assert [value(first.density, name, 0.0) for name in ("x.mlp", "x.attn")] == [0.25, 1.0]


def test_mergekit_counts_the_base_model_of_a_mean_among_its_models() -> None:
    """mergekit adds it to the list, with the weight that holds for all; in the list already, it is there once."""
    given = {"merge_method": "linear", "base_model": "base", "parameters": {"weight": 0.5}}
    spec, _ = read(given | {"models": [{"model": "a"}, {"model": "b", "parameters": {"weight": 2}}]})
    assert [(source.path, source.weight) for source in spec.models] == [("a", 0.5), ("b", 2.0), ("base", 0.5)]
    spec, _ = read(given | {"models": [{"model": "base"}, {"model": "b"}]})
    assert [source.path for source in spec.models] == ["base", "b"]


@pytest.mark.parametrize("given", [{"tokenizer": {"source": "union"}}, {"chat_template": "auto"}])
def test_mergekit_choices_among_the_parents_own_are_taken(given: dict[str, Any]) -> None:
    """The newer spelling of tokenizer_source, and the template that most parents have: all have the same here."""
    spec, left = read({"merge_method": "ties", "base_model": "base", "models": TWO} | given)
    assert (spec, [one.key for one in left]) == (read({"merge_method": "ties", "base_model": "base", "models": TWO})[0], list(given))


@pytest.mark.parametrize("source", ["base", "union", "model:a"])
def test_mergekit_tokenizers_are_the_parents_own_wherever_they_come_from(source: str) -> None:
    """Parents of several vocabularies are refused when they are opened, so a union is the one that they have."""
    spec, left = read({"merge_method": "ties", "base_model": "base", "models": TWO, "tokenizer_source": source})
    assert (spec, [one.key for one in left]) == (read({"merge_method": "ties", "base_model": "base", "models": TWO})[0], ["tokenizer_source"])


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"merge_method": "karcher"}, "is not merged here"),
        ({"merge_metod": "ties"}, 'did you mean "merge_method"'),
        ({"chat_template": "chatml"}, "chat_template: is not translated"),
        ({"tokenizer": {"source": "union", "tokens": {"<x>": {"source": "a"}}}}, "tokenizer: is not translated"),
        ({"merge_method": "linear", "models": [{"model": "a", "parameters": {"weight": 1}}]}, "base is one more model of this mean, and it has no weight"),
        ({"parameters": {"wieght": 1}}, 'did you mean "weight"'),
        ({"merge_method": "dare_ties", "parameters": {"rescale": False}}, "without scaling up"),
        ({"models": [{"model": "other+x"}]}, "which is not base_model"),
        ({"merge_method": "linear", "models": [{"model": "m+x"}, {"model": "n+y"}]}, "the adapter y is on n, and another one on m"),
        ({"models": [{"model": "a", "layers": [0, 1]}]}, 'unknown key "layers"'),
        ({"models": "a"}, "models: is 'a' and no list"),
        ({"models": ["a", "b"]}, r"models\[0\]: is 'a' and no mapping"),
        ({"models": [{"parameters": {"weight": 1}}]}, r"models\[0\].model: is missing"),
        ({"base_model": {"model": "base"}}, "base_model: is .* and no path"),
        ({"parameters": 3}, "is 3 and no mapping of keys"),
        ({"models": None, "slices": 5}, "slices: is 5 and no list"),
    ],
)
def test_what_mergekit_says_and_we_do_not_is_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        read({"merge_method": "ties", "base_model": "base", "models": TWO} | changed)


@pytest.mark.parametrize("text", ["method: [", "a: !!python/object:os.system x\n", "- 1\n"])
def test_a_file_that_is_no_configuration_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "merge.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError):
        load(tmp_path / "merge.yaml")
