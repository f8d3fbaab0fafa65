"""A model's conversations as token ids: the one path for training, evaluation and serving (MISSION K1, K2)."""

from __future__ import annotations

import json
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from planish.data.tree import Sequence
from planish.errors import InputError, Problem
from planish.model.mask import Dialogue, Masked, Masker, Turns
from planish.model.plain_masks import PlainMasks
from planish.model.template import Refused as Refused
from planish.model.template import Rendering, Template
from planish.model.token_ids import TokenIds
from planish.rows import Message, content_hash

Tools = tuple[dict[str, Any], ...]
_TRIAL = "Hello, world!  It's 12,345.67 €\n\tdéjà vu 你好 def f(x): return x**2"


@dataclass(frozen=True)
class Chat:
    """A tokenizer with its chat template. `more_ends` are the ids besides the tokenizer's own that end a turn (generation_config.json, config.json)."""

    tokenizer: Any
    more_ends: frozenset[int] = frozenset()

    @staticmethod
    def load(folder: Path, template: str | None = None) -> Chat:
        """Read tokenizer and template. `template` is the text of one for a base model that has none; it is saved with the tokenizer.

        Raises InputError when there is no template, or no token that ends a turn.
        """
        tokenizer = _tokenizer(folder)
        if template is not None:
            tokenizer.chat_template = template
        if not tokenizer.chat_template:
            why = "its tokenizer has no chat template, so prompts cannot be rendered"
            fix = "put a chat_template.jinja into the folder, or name a template file under template:"
            raise InputError(Problem(f"model: {folder}", why, fix))
        more = frozenset(_named_ends(folder))
        if tokenizer.eos_token_id is None and not more:
            why = "names no end token, so an answer would never stop"
            raise InputError(Problem(f"model: {folder}", why, "set eos_token in tokenizer_config.json, or eos_token_id in generation_config.json"))
        return Chat(tokenizer, more)

    def save(self, folder: Path) -> None:
        """Tokenizer, template and end tokens, as `load` reads them."""
        self.tokenizer.save_pretrained(folder)
        if len(self.ends) > 1 and not (folder / "generation_config.json").exists():
            (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": sorted(self.ends)}), encoding="utf-8")

    @cached_property
    def template(self) -> Template:
        """The renderer."""
        return Template(self.tokenizer)

    @cached_property
    def tokens(self) -> TokenIds:
        """The tokenizer for batches."""
        return TokenIds(self.tokenizer)

    @cached_property
    def plain_masks(self) -> PlainMasks:
        """What `masks` gives of dialogues that only talk, many at once."""
        return PlainMasks(self.template, self.tokens, self.ends, self.bos)

    @property
    def template_hash(self) -> str:
        """sha256 of the template's text."""
        return self.template.sha256

    @cached_property
    def tokenizer_hash(self) -> str:
        """What the tokenizer is, however it was saved: its words with their ids, how they are merged, and what it makes of a text."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        merges = json.loads(backend.to_str())["model"].get("merges") if backend is not None else None
        return content_hash({"vocabulary": self.tokenizer.get_vocab(), "merges": merges, "trial": self.encode(_TRIAL)})

    @cached_property
    def ends(self) -> frozenset[int]:
        """Every id that ends a turn."""
        own = self.tokenizer.eos_token_id
        return self.more_ends | ({int(own)} if own is not None else set())

    @cached_property
    def end(self) -> int:
        """The id that ends a turn, and an answer: of those the model names, the one its template writes."""
        if len(self.ends) > 1:
            asked = (Message(role="user", content="a"), Message(role="assistant", content="b"))
            text = self.template.render([Rendering(asked)])[0]
            if isinstance(text, str) and (found := [id for id in self.encode(text[text.rfind("b") :]) if id in self.ends]):
                return found[-1]
        own = self.tokenizer.eos_token_id
        return int(own) if own is not None else min(self.ends)

    @cached_property
    def bos(self) -> int | None:
        """The id that begins a text, where the family has one."""
        return None if self.tokenizer.bos_token_id is None else int(self.tokenizer.bos_token_id)

    def text(self, messages: Seq[Message], *, prompt: bool, tools: Tools = ()) -> str:
        """The rendered text; with `prompt`, the header that asks for an answer is at its end. Raises Refused."""
        text = self.template.render([Rendering(tuple(messages), tools, prompt)])[0]
        if isinstance(text, Refused):
            raise text
        return text

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that already holds its special tokens."""
        return self.tokens.of([text])[0]

    def prompt(self, messages: Seq[Message], tools: Tools = ()) -> list[int]:
        """Token ids that ask for the next answer. Raises Refused where the template has no place for a turn."""
        return self.encode(self.text(messages, prompt=True, tools=tools))

    def decode(self, ids: Seq[int]) -> str:
        """Text of generated ids, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def masks(self, dialogues: Seq[Dialogue], turns: Turns = "all") -> list[Masked | Refused]:
        """Conversations with their trained runs, all at once; one that cannot be trained on is given back as its reason."""
        return Masker(self.template, self.tokens, self.ends, self.bos).masks(dialogues, turns)

    def trained(self, messages: Seq[Message], tools: Tools = (), turns: Turns = "all") -> Sequence:
        """The whole conversation; weight 1 on the text of every assistant turn and on the token that ends it, 0 elsewhere.

        Raises Refused: not_a_prefix when the prompt's ids are not where the conversation's begin (training and serving would see different tokens),
        eos_missing, double_bos, unknown_role, role_order, or no_scored_tokens.
        """
        found = self.masks([Dialogue(tuple(messages), tools)], turns)[0]
        if isinstance(found, Refused):
            raise found
        return found.sequence()


def _tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder. Where the folder says that it is no more than its tokenizer.json, it is opened without torch, in half the time."""
    config = folder / "tokenizer_config.json"
    kind = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") if config.is_file() else None
    if kind in ("PreTrainedTokenizerFast", "TokenizersBackend") and (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def _named_ends(folder: Path) -> set[int]:
    """The end ids that a model's configuration names, besides the tokenizer's own."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if path.is_file():
            named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
            found |= set(named if isinstance(named, list) else [] if named is None else [named])
    return found
