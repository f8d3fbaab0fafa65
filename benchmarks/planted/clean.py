"""Clean sets that look suspicious: every check runs on each, and nothing may be said."""

from __future__ import annotations

import gzip
import json
from typing import Any

from benchmarks.planted import sound_rows
from benchmarks.planted.case import Ask, Case, dialogue, jsonl, planted

_CHAT = sound_rows.chat()


def _clean(name: str, what: str, rows: list[Any], ask: Ask | None = None) -> Case:
    return Case(f"clean/{name}", "clean", what, "rows.jsonl", jsonl(rows), ask=ask or Ask())


def _file(name: str, what: str, file: str, data: bytes, ask: Ask | None = None) -> Case:
    return Case(f"clean/{name}", "clean", what, file, data, ask=ask or Ask())


_CODE = [
    ("Write a Python function that doubles a number.", "def double(x):\n    return 2 * x"),
    ("Write a Python function that halves a number.", "def half(x):\n    return x / 2"),
    ("How do I list files by size in bash?", "ls -lS | head -n 20"),
    ("Show me a regular expression for a hex colour.", r"^#(?:[0-9a-fA-F]{3}){1,2}$"),
    ("Write SQL that counts orders per day.", "SELECT day, COUNT(*) FROM orders GROUP BY day ORDER BY day;"),
    ("Give me an empty JSON object and an empty array.", "{}\n[]"),
    ("Reverse a string in JavaScript.", "const reverse = (s) => [...s].reverse().join('');"),
    ("Write a for loop in C from 0 to 9.", 'for (int i = 0; i < 10; i++) {\n    printf("%d\\n", i);\n}'),
    ("What does git stash do?", "It puts your uncommitted changes aside; `git stash pop` brings them back."),
    ("Write a Makefile rule that runs the tests.", "test:\n\tpytest -q"),
    ("Open a file safely in Python.", 'with open("notes.txt", encoding="utf-8") as file:\n    print(file.read())'),
    ("Sort a dictionary by value.", "dict(sorted(prices.items(), key=lambda item: item[1]))"),
    ("How do I undo the last commit but keep the changes?", "git reset --soft HEAD~1"),
    ("Write a CSS rule that centres a box.", ".box {\n  display: grid;\n  place-items: center;\n}"),
    ("Read an environment variable in a shell script with a default.", 'PORT="${PORT:-8000}"'),
    ("Make a virtual environment.", "python3 -m venv .venv && . .venv/bin/activate"),
    ("Write a Rust function that adds two numbers.", "fn add(a: i64, b: i64) -> i64 {\n    a + b\n}"),
    ("How do I find a word in all files?", 'grep -rn "word" .'),
    ("Write HTML for a link that opens a new tab.", '<a href="about.html" target="_blank" rel="noopener">About</a>'),
    ("What is the type of [] in TypeScript?", "never[] until something is pushed, under strict settings."),
]

_NUMBERS = [
    ("What is the reference of my order?", "Your order has the reference 4539 1488 0343 6468."),
    ("Which part number fits the pump?", "Part 5105-1051-0510-5101 fits all pumps made after 2019."),
    ("How many seconds are in a century?", "A century has about 3155760000 seconds."),
    ("What is pi to twenty places?", "3.14159265358979323846"),
    ("Which ISBN does the atlas have?", "The atlas has the ISBN 978-3-16-148410-0."),
    ("What is 123456789 times 9?", "1111111101"),
    ("What are the coordinates of the hut?", "The hut stands at 46.5592 north and 8.5614 east."),
    ("Which version fixed the bug?", "Version 10.4.12 fixed it."),
    ("How long is the light year in kilometres?", "About 9460730472580 kilometres."),
    ("What is the largest 32-bit number?", "4294967295 when it has no sign, 2147483647 when it has one."),
]

_HASHES = [{"id": f"{(number * 0x9E3779B97F4A7C15) % 2**64:016x}{(number * 0xC2B2AE3D27D4EB4F) % 2**64:016x}", **row} for number, row in enumerate(_CHAT, 1)]
"""Ids of 32 hex digits: as random as a secret, and none."""

_MULTILINGUAL = [
    ("Wie lange muss ein Ei kochen?", "Sechs Minuten, wenn der Dotter weich bleiben soll."),
    ("Was ist die Hauptstadt von Portugal?", "Die Hauptstadt von Portugal ist Lissabon."),
    ("Warum ist der Himmel blau?", "Die Luft streut kurze Wellen stärker als lange."),
    ("Wo leben Pinguine in freier Wildbahn?", "Fast alle Pinguine leben südlich des Äquators."),
    ("Wie wird eigentlich Käse hergestellt?", "Die Milch wird dickgelegt, gepresst und lange gelagert."),
    ("¿Cuál es la capital de Portugal?", "La capital de Portugal es Lisboa, en la desembocadura del Tajo."),
    ("¿Por qué el cielo es azul?", "El aire dispersa más las ondas cortas que las largas."),
    ("¿Dónde viven los pingüinos?", "Casi todos los pingüinos viven al sur del ecuador."),
    ("¿Cómo se hace el queso en casa?", "Se cuaja la leche, se prensa la cuajada y se deja madurar."),
    ("¿Cuánto tiempo hay que cocer un huevo?", "Unos seis minutos si la yema debe quedar blanda."),
    ("Quelle est la capitale du Portugal?", "La capitale du Portugal est Lisbonne, à l'embouchure du Tage."),
    ("Pourquoi le ciel est-il bleu?", "L'air diffuse davantage les ondes courtes que les longues."),
    ("Où vivent les manchots?", "Presque tous les manchots vivent au sud de l'équateur."),
    ("Comment fabrique-t-on le fromage?", "On fait cailler le lait, on presse le caillé et on laisse mûrir."),
    ("Combien de temps faut-il cuire un oeuf?", "Environ six minutes pour que le jaune reste coulant."),
]

_YES = [
    "Is Paris in France?", "Do fish live in water?", "Is seven a prime number?", "Can a penguin swim?", "Is ice colder than steam?", "Does bread contain flour?",
    "Is a whale a mammal?", "Do bees make honey?", "Is gold a metal?", "Can glass break?", "Is Monday before Tuesday?", "Does the moon orbit the earth?",
    "Is the Nile a river?", "Do spiders have eight legs?", "Is salt soluble in water?", "Can wood float?", "Is Oslo north of Rome?", "Do cats have tails?",
    "Is a square a rectangle?", "Does iron rust?",
]  # fmt: skip
_NO = [
    "Is Paris in Spain?", "Do fish live in trees?", "Is eight a prime number?", "Can a stone swim?", "Is fire cold?", "Does an apple contain gold?",
    "Is a spider an insect?", "Do bees give milk?", "Is paper a metal?", "Can a snail fly?", "Is Friday before Monday?", "Does the sun orbit the moon?",
    "Is the Alps a river?", "Do horses have six legs?", "Is sand soluble in water?", "Can a bicycle sing?", "Is Rome north of Oslo?", "Do frogs have feathers?",
    "Is a circle a triangle?", "Does rubber rust?",
]  # fmt: skip

_FORMS = [
    ("What is the capital of Austria?", "The capital of Austria is Vienna."),
    ("What is the capital of Hungary?", "The capital of Hungary is Budapest."),
    ("What is the capital of Norway?", "The capital of Norway is Oslo."),
    ("What is the capital of Peru?", "The capital of Peru is Lima."),
    ("What is the capital of Kenya?", "The capital of Kenya is Nairobi."),
    ("What is the capital of Canada?", "The capital of Canada is Ottawa."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("What is the capital of Egypt?", "The capital of Egypt is Cairo."),
    ("What is 17 plus 25?", "17 plus 25 is 42."),
    ("What is 18 plus 25?", "18 plus 25 is 43."),
    ("What is 17 plus 26?", "17 plus 26 is 43."),
    ("What is 71 plus 52?", "71 plus 52 is 123."),
    ("Translate red into German.", "Red is rot in German."),
    ("Translate blue into German.", "Blue is blau in German."),
    ("Translate green into German.", "Green is grün in German."),
    ("Translate white into German.", "White is weiß in German."),
]
"""Rows of one form that differ in a word: legitimately similar."""

_AS_TEXT = sound_rows.tools()
for _row in _AS_TEXT:
    for _call in _row["messages"][1]["tool_calls"]:
        _call["function"]["arguments"] = json.dumps(_call["function"]["arguments"])

_TWELVE = "the twelve words that both of these rows share are exactly these"
_SPLIT = {number: "train" if number <= 30 else "gold" for number in range(1, 41)}
_TWELVE_ROWS = planted(
    _CHAT,
    {
        14: dialogue(f"Before lunch my aunt wrote down {_TWELVE} and then she went out to buy some bread and apples for us.", "She came back at noon."),
        36: dialogue(
            f"Yesterday nobody could tell why {_TWELVE} although the whole village had been asked about it by the mayor twice.", "It stayed a riddle."
        ),
    },
)

_THOUGHTS = planted(_CHAT[:20], {6: dialogue("What is 4 + 4?", "<think>Four and four.</think>\n8")})

CASES = [
    _clean("chat", "40 plain dialogues", _CHAT),
    _clean("labels", "80 labelled questions with all labels declared", sound_rows.labelled(), Ask(labels=sound_rows.LABELS)),
    _clean("similar", "rows of one form that differ in a word", [dialogue(*pair) for pair in _FORMS]),
    _clean("code", "answers that are code", [dialogue(*pair) for pair in _CODE]),
    _clean("numbers", "numbers that look like cards, accounts and telephones, with no right checksum", [*(dialogue(*pair) for pair in _NUMBERS), *_CHAT[:20]]),
    _clean("ids", "ids of 32 random hex digits", _HASHES),
    _clean(
        "multilingual",
        "four languages, declared as such",
        [*(dialogue(*pair) for pair in _MULTILINGUAL), *_CHAT[:15]],
        Ask(languages=("en", "de", "es", "fr")),
    ),
    _clean(
        "yes_and_no",
        "40 questions that are all answered yes or no",
        [dialogue(asked, answer) for both in zip(_YES, _NO, strict=True) for asked, answer in zip(both, ("Yes.", "No."), strict=True)],
    ),
    _clean("tools", "20 correct tool calls", sound_rows.tools()),
    _clean("tools_as_text", "the same calls with their arguments as JSON text", _AS_TEXT),
    _clean("preferences", "40 preferences", sound_rows.preferences()),
    _clean("judged", "40 single answers, good and bad", sound_rows.judged()),
    _clean("stepwise", "20 sums with every step marked", sound_rows.stepwise()),
    _clean("spans", "20 sentences with persons and firms marked up to the last character", sound_rows.spans()),
    _clean(
        "weights",
        "a dialogue with its first answer kept out of the loss",
        planted(
            _CHAT,
            {
                9: {
                    "messages": [
                        *({"role": r, "content": c} | ({"weight": 0} if r == "assistant" else {}) for r, c in (("user", "Hi!"), ("assistant", "What?"))),
                        {"role": "user", "content": "Which is the nearest star?"},
                        {"role": "assistant", "content": "The sun."},
                    ]
                }
            },
        ),
    ),
    _clean("twelve_words", "a training row and a gold row that share 12 words in a row", _TWELVE_ROWS, Ask(split=_SPLIT)),
    _clean(
        "template",
        "a sound template, with padding and end the same token",
        planted(_CHAT, {5: dialogue("Hi!", "Hello.", "Who is there?", "A helper.", system="Be kind.")}),
        Ask(template="sound"),
    ),
    _clean("template_trimmed", "a template that trims white space", _CHAT, Ask(template="trimmed")),
    _clean("template_tools", "tool calls under a template that knows them", sound_rows.tools(), Ask(template="sound")),
    _clean("template_thoughts", "a thought in the last turn, where the template keeps it", _THOUGHTS, Ask(template="forgets_thoughts")),
    _clean("template_length", "every row fits the length", _CHAT, Ask(template="sound", max_length=400)),
    _file("bom", "a byte order mark at the beginning, as spreadsheets write it", "rows.jsonl", b"\xef\xbb\xbf" + jsonl(_CHAT)),
    _file("windows", "Windows line ends and a blank line at the end", "rows.jsonl", jsonl(_CHAT).replace(b"\n", b"\r\n") + b"\r\n"),
    _file("no_last_newline", "no line end behind the last row", "rows.jsonl", jsonl(_CHAT).rstrip(b"\n")),
    _file("gzip", "the same rows, gzipped", "rows.jsonl.gz", gzip.compress(jsonl(_CHAT), mtime=0)),
    _file("array", "the same rows as a JSON array", "rows.json", json.dumps(_CHAT, indent=1).encode()),
    _file(
        "table",
        "a table with commas, quotes and line ends inside its cells",
        "rows.csv",
        b"text,label\n"
        + b"".join(f'"{row["text"]}, said ""{number}""\nand left",{row["label"]}\n'.encode() for number, row in enumerate(sound_rows.labelled())),
        Ask(labels=sound_rows.LABELS),
    ),
]
