"""What columns are called elsewhere: the names under which published data sets keep what a format's keys hold (MISSION D3). Data, read by `mapping`."""

from __future__ import annotations

NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "openai": {"messages": ("dialog", "dialogue", "chat", "turns", "thread", "message_list", "chat_history", "conversation_history")},
    "alpaca": {
        "instruction": ("prompt", "query", "user", "task", "command", "human", "user_prompt"),
        "output": ("response", "completion", "assistant", "answer", "reply", "bot", "gpt", "model_output"),
    },
    "prompt_completion": {
        "prompt": ("input", "source", "src", "user_input", "input_text", "request", "user_prompt"),
        "completion": ("output", "target", "tgt", "response", "reply", "output_text", "generation", "continuation", "answer"),
    },
    "dpo": {
        "prompt": ("question", "instruction", "query", "input", "user_input"),
        "chosen": ("preferred", "better", "winner", "win", "accepted", "response_chosen", "chosen_response", "good"),
        "rejected": ("dispreferred", "worse", "loser", "lose", "refused", "response_rejected", "rejected_response", "bad"),
    },
    "kto": {
        "prompt": ("question", "instruction", "query", "input"),
        "completion": ("response", "answer", "output", "reply"),
        "label": ("is_good", "good", "thumbs_up", "liked", "desirable", "is_preferred", "upvoted"),
    },
    "prm": {
        "prompt": ("question", "problem", "query"),
        "completions": ("steps", "solution_steps", "reasoning_steps"),
        "labels": ("step_labels", "correct", "is_correct", "step_correct", "ratings"),
    },
    "label": {
        "text": ("sentence", "utterance", "review", "comment", "tweet", "message", "content", "body", "input", "input_text", "question"),
        "label": (
            "intent",
            "category",
            "class",
            "sentiment",
            "topic",
            "tag",
            "target",
            "label_text",
            "class_name",
            "coarse_label",
            "emotion",
            "stars",
            "polarity",
        ),
    },
    "extraction": {"text": ("sentence", "content", "body"), "entities": ("spans", "annotations", "ents", "mentions")},
    "extraction_fields": {"text": ("sentence", "content", "body", "document"), "fields": ("extracted", "json", "record", "slots", "attributes")},
    "summary": {
        "document": ("article", "text", "passage", "body", "dialogue", "content", "report", "transcript"),
        "summary": ("highlights", "abstract", "tldr", "headline", "gist", "target_summary"),
    },
    "qa": {
        "question": ("q", "query", "question_text", "problem", "prompt"),
        "answer": ("a", "ans", "response", "answer_text", "final_answer", "solution", "gold_answer", "reference_answer"),
    },
    "text": {"text": ("content", "body", "raw_text", "document_text", "raw_content")},
}
"""By format and key. A name may stand under several formats; the rows decide, and where they cannot, the user."""

OPTIONAL: dict[str, dict[str, tuple[str, ...]]] = {
    "alpaca": {"input": ("context",), "system": ("system_prompt", "system_message"), "history": ("past", "previous")},
    "qa": {"context": ("passage", "paragraph", "evidence", "document", "ctx"), "documents": ("contexts", "passages", "retrieved", "docs", "paragraphs")},
}
"""Keys that a format can do without."""

BESIDE = frozenset(
    {
        "id",
        "idx",
        "index",
        "uid",
        "uuid",
        "guid",
        "row_id",
        "source",
        "url",
        "uri",
        "link",
        "lang",
        "language",
        "locale",
        "date",
        "time",
        "timestamp",
        "created_at",
    }
    | {
        "split",
        "fold",
        "title",
        "author",
        "user_id",
        "score",
        "rating",
        "stars",
        "license",
        "dataset",
        "domain",
        "model",
        "version",
        "meta",
        "metadata",
        "tokens",
    }
)
"""Columns that say something about a row; they are never guessed to be what is trained."""
