"""Sound rows that the defects are planted among: 40 dialogues and 80 labelled questions, no two alike."""

from __future__ import annotations

from typing import Any

_DIALOGUES = """
How do I boil an egg so that the yolk stays soft?|Lower it into boiling water, wait six minutes, then cool it under cold water.
Why is the sky blue?|Air scatters short wavelengths more than long ones, so blue light reaches us from every direction.
What is the capital of Portugal?|Lisbon is the capital of Portugal, at the mouth of the Tagus.
Can you suggest a name for a grey kitten?|Pebble would suit a grey kitten, and so would Misty or Ash.
How many players are on a volleyball team?|Six players of each team are on the court at a time.
What does a carburettor do?|It mixes petrol with air in the right proportion before the mixture enters the engine.
Please turn "I am go home" into correct English.|"I am going home" is the correct form.
Which planet has the most moons?|Saturn has the most known moons, with well over a hundred.
How should I store fresh basil?|Stand the stems in a glass of water on the kitchen table, away from the fridge.
What is a good warm-up before running?|Walk briskly for five minutes, then swing each leg forwards and sideways ten times.
Who wrote Middlemarch?|George Eliot wrote Middlemarch; her real name was Mary Ann Evans.
Explain what inflation means to a child.|When nearly everything in the shops costs more than last year, we call that inflation.
How long does bread dough need to rise?|At room temperature most doughs double within ninety minutes.
What is the difference between a frog and a toad?|Frogs tend to have smooth moist skin and long legs, toads dry warty skin and short legs.
Give me a two-line poem about rain.|Soft drums on the roof all night, the garden wakes up green and bright.
Where do penguins live?|Nearly all penguins live south of the equator, many of them around Antarctica.
How do I get a red wine stain out of cotton?|Blot it, cover it with salt or soda water, and wash it cold as soon as you can.
What are the primary colours of light?|Red, green and blue are the primary colours of light.
What does HTTP status 404 stand for?|It means that the server found nothing at the address that was asked for.
Is a tomato a fruit?|Botanically yes: it grows from a flower and holds the seeds.
What is the boiling point of water on Mount Everest?|Because the pressure is low up there, water boils at about seventy degrees Celsius.
How can I fall asleep faster?|Keep the room dark and cool, and leave your phone outside the bedroom.
Describe photosynthesis in one sentence.|Plants use sunlight to turn water and carbon dioxide into sugar and oxygen.
Which instrument has black and white keys?|The piano has black and white keys, as do the organ and the accordion.
What year did the Berlin Wall fall?|It fell in November 1989.
How is cheese made?|Milk is curdled with rennet, the curds are drained and pressed, and the wheel is left to ripen.
What should I wear to a job interview?|Dress one step smarter than the people who already work there.
What is a haiku?|A haiku is a Japanese poem of three lines with five, seven and five syllables.
Why do leaves change colour in autumn?|The green chlorophyll breaks down, and yellow and orange pigments that were there all along become visible.
How do I change a bicycle tyre?|Lever one side of the tyre off the rim, swap the inner tube, and press the tyre back by hand.
What is the tallest animal?|The giraffe is the tallest, at up to five and a half metres.
Can cats eat chocolate?|No, chocolate is poisonous to cats, even in small amounts.
What does a conductor of an orchestra do?|The conductor sets the tempo, shapes the sound and keeps a hundred players together.
What is compound interest?|It is interest that is paid on earlier interest as well as on the money you put in.
How do bees find flowers?|They see ultraviolet patterns on the petals and remember where the good ones were.
Which sea lies between Italy and Croatia?|The Adriatic Sea lies between them.
How often should houseplants be watered?|Water when the top two centimetres of soil feel dry, whatever the calendar says.
What was the first book ever printed in Europe with movable type?|The Gutenberg Bible, finished in Mainz about 1455.
How do glasses correct short sight?|Their concave lenses spread the light so that it meets on the retina rather than in front of it.
What is a leap second?|It is one extra second that keeps clock time in step with the slowing turn of the earth.
"""

_QUESTIONS = {
    "refund": """
I want my money back for the broken kettle
when will the refund show up on my bank statement
you charged me twice, please return one of the payments
the shoes do not fit, can I get a refund
how do I ask for reimbursement of the shipping fee
cancel the purchase and give me my money back
my refund was promised last week and nothing has been paid out
is a full refund possible after thirty days
please reverse the charge on my credit card
I was overcharged, return the difference to my account
the concert was called off so I want the ticket money back
can the refund go to another bank account
I returned the lamp but no money was paid back yet
what is your refund policy for opened boxes
give me back the deposit I paid in March
refund only half the order, I keep the other half
the voucher was refused, so refund its value please
do I get my money back if I cancel the subscription today
who approves a refund above one hundred euros
my payment failed but the money was charged all the same, pay it back
""",
    "delivery": """
where is my parcel
the courier left the package at the wrong door
tracking says delivered but nothing arrived
how long does shipping to Norway take
can I change the delivery address of an order on its way
my parcel has been stuck in the depot for six days
does the driver ring before he drops off the package
please deliver after five in the afternoon
the box came wet and crushed by the courier
is same-day shipping offered in Leeds
I need the tracking number of the second parcel
which courier carries heavy furniture
the delivery slot was missed again yesterday
can a neighbour take the package in
has my order left the warehouse
do you ship to a parcel locker
only two of three packages were delivered
the customs office holds my parcel, what now
why was the shipment sent back to the warehouse
when does the van come to our street on Saturday
""",
    "password": """
I forgot my password
the reset link in the mail has expired
how do I log in without my old phone
my account is locked after three wrong passwords
change the e-mail address I sign in with
two-factor codes never arrive by text
the login page says unknown user
can I stay signed in on two laptops
somebody else logged in to my account
please unlock my profile, I cannot sign in
what characters may a password contain
the app logs me out every five minutes
I lost the device that makes my login codes
is there a way to sign in with a fingerprint
reset the password of my daughter's account
the new password is not accepted
how do I close my account and delete the login
captcha never loads so I cannot log in
which of my accounts uses this user name
send the password reset mail again
""",
    "warranty": """
the dishwasher stopped working within the guarantee
is a cracked screen covered by the warranty
how many years of warranty does the drill have
the repair shop wants proof of the guarantee
does the guarantee cover worn batteries
my vacuum needs a repair, is it still under warranty
can I extend the warranty of my laptop
who repairs the oven under guarantee
the warranty card was never filled in by the shop
is the guarantee valid in another country
the repaired fan broke again, is it covered
what voids the warranty of the bicycle
do spare parts carry a guarantee of their own
register my mixer for the longer warranty
the technician says the defect is not covered
where do I send the defective drill for repair
a warranty repair has now taken seven weeks
the serial number for the guarantee is scratched off
is water damage covered by the guarantee
the hinge broke, please repair it under warranty
""",
}

LABELS = tuple(_QUESTIONS)
"""The declared labels of the labelled questions."""


def pairs(n: int = 40) -> list[tuple[str, str]]:
    """The first `n` questions with their answers."""
    found = [tuple(line.split("|")) for line in _DIALOGUES.strip().splitlines()]
    return [(question, answer) for question, answer in found[:n]]


def chat(n: int = 40) -> list[dict[str, Any]]:
    """`n` dialogues of one question and one answer."""
    return [{"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]} for question, answer in pairs(n)]


def prompts(n: int = 40) -> list[dict[str, Any]]:
    """The same as prompt and completion."""
    return [{"prompt": question, "completion": answer} for question, answer in pairs(n)]


def labelled(per_label: int = 20) -> list[dict[str, Any]]:
    """`per_label` questions of each label, the labels in turn."""
    columns = [[{"text": text, "label": label} for text in lines.strip().splitlines()[:per_label]] for label, lines in _QUESTIONS.items()]
    return [row for rank in zip(*columns, strict=True) for row in rank]


WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a town",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["town"],
            "additionalProperties": False,
        },
    },
}
_TOWNS_NAMES = """Bergen Porto Leeds Ghent Turin Graz Lyon Cork Bilbao Malmo
Utrecht Basel Split Gdansk Tartu Patras Bath Jena Namur Zadar"""
_TOWNS = _TOWNS_NAMES.split()
_ASKED = (
    "Do I need an umbrella in {} tomorrow?",
    "What is the weather like in {} right now?",
    "I am off to {} at the weekend. Should I pack a coat?",
    "Will the barbecue in {} be rained out?",
)
_FOUND = ("rain, {} degrees", "clear and {} degrees", "snow showers, {} below zero", "thunder, {} degrees")
_TOLD = (
    "Yes, take one: {} expects rain.",
    "It is a clear day in {}.",
    "Pack the warm coat, {} has snow showers.",
    "Move it indoors, a thunderstorm is on its way to {}.",
)


def tools(n: int = 20) -> list[dict[str, Any]]:
    """`n` dialogues with one correct tool call, its result and the answer."""
    rows = []
    for number, town in enumerate(_TOWNS[:n]):
        kind = number % 4
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "get_weather", "arguments": {"town": town}}}
        turns = [
            {"role": "user", "content": _ASKED[kind].format(town)},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{number}", "content": _FOUND[kind].format(number + 3)},
            {"role": "assistant", "content": _TOLD[kind].format(town)},
        ]
        rows.append({"messages": turns, "tools": [WEATHER_TOOL]})
    return rows


def preferences(n: int = 40) -> list[dict[str, Any]]:
    """`n` questions with their answer and, as the worse one, the answer to another question."""
    known = pairs()
    return [{"prompt": question, "chosen": answer, "rejected": known[(number + 17) % 40][1]} for number, (question, answer) in enumerate(known[:n])]


def judged(n: int = 40) -> list[dict[str, Any]]:
    """`n` single answers; every other one answers another question and is marked as bad."""
    known = pairs()
    return [
        {"prompt": question, "completion": answer if number % 2 == 0 else known[(number + 17) % 40][1], "label": number % 2 == 0}
        for number, (question, answer) in enumerate(known[:n])
    ]


def stepwise(n: int = 20) -> list[dict[str, Any]]:
    """`n` sums worked in two steps, each step marked right or wrong."""
    rows = []
    for number in range(n):
        a, b, c = 3 + 7 * number, 11 + 5 * number, 2 + number
        steps = [f"{a} plus {b} makes {a + b}.", f"{a + b} minus {c} makes {a + b - c}."]
        rows.append({"prompt": f"What is {a} + {b} - {c}?", "completions": steps, "labels": [True, True]})
    return rows


_PEOPLE_NAMES = """Alma Bruno Clara Dmitri Elin
Farid Greta Hugo Ines Jonas"""
_PEOPLE = _PEOPLE_NAMES.split()
_FIRMS_NAMES = """Norvik Altena Brasswell Corvid Dunmore
Estrel Fernhill Galloway Harrow Ivarson"""
_FIRMS = _FIRMS_NAMES.split()


def spans(n: int = 20) -> list[dict[str, Any]]:
    """`n` sentences with the person and the firm marked."""
    frames = ("{p} joined {f} in spring.", "The new head of {f} is {p}.", "{f} has thanked {p} for ten years of work.", "After a long talk {p} left {f}.")
    rows = []
    for number in range(n):
        person, firm = _PEOPLE[number % 10], _FIRMS[(3 * number + number // 10) % 10]
        text = frames[number % 4].format(p=person, f=firm)
        marked = [{"type": kind, "start": text.index(name), "end": text.index(name) + len(name)} for kind, name in (("person", person), ("firm", firm))]
        rows.append({"text": text, "entities": marked})
    return rows
