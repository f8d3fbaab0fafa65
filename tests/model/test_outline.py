"""An outline that is filled in is what the template would have written, whatever the contents; a template that looks at them is rendered row by row (MISSION K1)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.chat_families import CHATML, FAMILIES, chat, turns

from planish.model.chat import Chat
from planish.model.outline import Outlines, follows
from planish.model.template import Refused, Rendering

NASTY = [
    "",
    " ",
    "\n",
    "\n\nx",
    "{{ x }}",
    "{% endif %}",
    "</think>",
    "<think>",
    "<think>\nhm\n</think>\n\nso",
    "a</think>b</think>",
    "<|im_end|>",
    "\u00a0x\u2003",
    "0",
]
CONTENTS = st.one_of(st.sampled_from(NASTY), st.lists(st.sampled_from([*NASTY, "word", "é", "🙂"]), max_size=5).map("".join), st.text(max_size=20))
TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), CONTENTS), max_size=5)
KNOWN: dict[str, Chat] = {name: chat(name) for name in FAMILIES}
ASKED = KNOWN | {
    "asks": chat(
        "chatml",
        template="{% for m in messages %}{% if m.content is string and m.content and not m.content.startswith('0') and m.content != ' ' %}{{ m.content.strip() }}"
        "{% elif m.content.endswith('x') %}{{ m['content'].split('x')[1] | trim }}{% else %}{{ m.role + ':' + m.content.rstrip('\n') + '.' }}{% endif %}{% endfor %}",
    )
}
"""The families, and a template that asks all that an outline can answer."""


@pytest.mark.parametrize("name", ASKED)
def test_filled_is_rendered(name: str) -> None:
    one = ASKED[name].template
    assert one._outlines(False).follows

    @settings(max_examples=120, deadline=None)
    @given(TURNS, st.booleans())
    def equal(said: list[tuple[str, str]], prompt: bool) -> None:
        wanted = Rendering(turns(*said), (), prompt)
        plain = one._rendered([wanted])[0]
        for found in (one.render([wanted])[0], one.render([wanted, wanted])[1]):
            assert (found.code, found.why) == (plain.code, plain.why) if isinstance(plain, Refused) and isinstance(found, Refused) else found == plain

    equal()


@pytest.mark.parametrize(
    ("template", "followed"),
    [
        ("{% macro say(m) %}{{ m.content }}{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}", False),
        ("{% for m in messages %}{{ '<' ~ m.content ~ '>' }}{% endfor %}", False),
        ("{% for m in messages %}{{ '%s' % m.content }}{% endfor %}", False),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", False),
        ("{% for m in messages %}{{ m.content is lower }}{% endfor %}", False),
        ("{% set kept %}{{ messages[0].content }}{% endset %}{{ kept | trim }}", False),
        ("{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}", False),
        ("{% for m in messages %}{{ m.content | tojson }}{% endfor %}", True),
        ("{% for m in messages %}{{ m.content | length }}{% endfor %}", True),
        ("{% for m in messages %}{{ m.content.upper() }}{% endfor %}", True),
        ("{% for m in messages %}{{ m }}{% endfor %}", True),
        ("{{ messages }}", True),
        ("{% for m in messages %}{{ m.content[:3] }}{% endfor %}", True),
        ("{% for m in messages %}{% for letter in m.content %}{{ letter }}-{% endfor %}{% endfor %}", True),
        ("{% for m in messages %}{{ '{}'.format(m.content) }}{{ ' '.join([m.content]) }}{% endfor %}", True),
        ("{% for m in messages %}{{ m.content in 'ab' }}{% endfor %}", True),
        ("{% for m in messages %}{{ (m.content + 'x').strip() }}{% endfor %}", True),
        ("{% for m in messages %}{{ m.content == messages[0].content }}{% endfor %}", True),
        ("{% for m in messages %}{{ {'a': 1}[m.content] }}{% endfor %}", True),
        ("{% for m in messages %}{{ messages[m.content] }}{{ loop[m.content] }}{% endfor %}", True),
        ("{% for m in messages %}{{ m.content.split('b')[1] }}{% endfor %}", True),
        ("{% for m in messages %}{{ m.content.split('a') | length }}{{ m.content.split('a') }}{% endfor %}", True),
    ],
)
def test_what_looks_at_contents_is_rendered_row_by_row(template: str, followed: bool) -> None:
    """What makes text of a value unseen is told from the template's parts; the rest is caught when it happens. Both ways the rendering is the template's own."""
    one = chat("chatml", template=template).template
    outlines = one._outlines(False)
    assert follows(one._compiled(template).environment, template) == followed
    assert outlines.filled(("user", "assistant"), ["a", "b"]) is None
    wanted = [Rendering(turns(("user", content), ("assistant", "b a"))) for content in ("a", "ab")]
    found, plain = one.render(wanted), one._rendered(wanted)
    assert [str(text) for text in found] == [str(text) for text in plain]


def test_other_answers_are_another_outline() -> None:
    """Up to four ways through a template are remembered for one order of roles; a fifth is rendered."""
    template = (
        "{% for m in messages %}{{ 'a' if 'a' in m.content else '-' }}{{ 'b' if 'b' in m.content else '-' }}{{ 'c' if 'c' in m.content else '-' }}{% endfor %}"
    )
    one = chat("chatml", template=template).template
    outlines = Outlines(one._compiled(template), template, one._given((), False))
    ways = ["", "a", "b", "abc", "c"]
    assert [outlines.filled(("user",), [content]) for content in ways] == ["---", "a--", "-b-", "abc", None]
    assert [one.render([Rendering(turns(("user", content)))])[0] for content in ways] == ["---", "a--", "-b-", "abc", "--c"]


def test_a_template_that_is_changed_has_other_outlines() -> None:
    one = chat("chatml")
    wanted = [Rendering(turns(("user", "a")))]
    assert one.template.render(wanted) == ["<|im_start|>user\na<|im_end|>\n"]
    one.tokenizer.chat_template = CHATML.replace("m.role", "'the ' + m.role")
    assert one.template.render(wanted) == ["<|im_start|>the user\na<|im_end|>\n"]
