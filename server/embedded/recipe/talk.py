"""Small talk, and the honest answer to what lies outside the world."""

from random import Random
from typing import Final

from .segments import Document, exchange
from .splits import Split
from .styles import draw_style
from .world import ATTRIBUTES, PEOPLE, THINGS, WORLD, invent_name

UNKNOWN: Final = "I do not know. I only know the small world that I was trained on."
ABILITIES: Final = (
    "I can tell you about the countries of my small world, do sums, "
    "write short reviews and stories, and find notes in a text."
)
IDENTITY: Final = "I am a tiny language model. I show how decoding methods work."
GREETING: Final = "Hello! What can I do for you?"
WELCOME: Final = "You are welcome."

TALK: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (
        ("Hello", "Hello.", "Hello!", "Hi", "Hi!", "Hi there!", "Hello there.", "Good morning!", "Good day."),
        GREETING,
    ),
    (
        (
            "What can you do?",
            "What can I ask you?",
            "How can you help me?",
            "Help",
            "Can you help me?",
            "Help me.",
        ),
        ABILITIES,
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "Are you a person?", "Tell me about you."),
        IDENTITY,
    ),
    (("Thanks", "Thanks!", "Thank you.", "Thank you!", "Thank you very much.", "Many thanks."), WELCOME),
    (("How are you?", "How are you today?", "Are you well?"), "I am well, thank you."),
    (("Goodbye", "Goodbye!", "Bye", "Bye.", "Good night."), "Goodbye! Come again."),
    (("What countries do you know?", "Which countries do you know?", "Name a country."), ""),
)

LOWER_CASE_SHARE: Final = 0.25
BABBLE_SHARE: Final = 0.12
BABBLE_ENDS: Final = ("ing", "ash", "ork", "ey", "u", "ple")

OUTSIDE_NAMES: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "France",
        "Spain",
        "Japan",
        "India",
        "Brazil",
        "Canada",
        "Egypt",
        "Kenya",
        "China",
        "Norway",
        "Poland",
        "Chile",
        "Cuba",
        "Greece",
        "Turkey",
        "Ireland",
        "Paris",
        "London",
        "Rome",
        "Tokyo",
        "Berlin",
        "Europe",
        "Africa",
        "Asia",
        "America",
        "Mars",
        "Texas",
    ),
    "dev": ("Italy", "Peru", "Sweden", "Mexico", "Korea"),
    "test": ("Germany", "Portugal", "Russia", "Denmark", "Morocco", "Austria"),
}
OUTSIDE_QUESTIONS: Final[dict[Split, tuple[str, ...]]] = {
    "train": (
        "Who is the king of {name}?",
        "Who is the president of {name}?",
        "How many people live in {name}?",
        "How old is {name}?",
        "Where is {name}?",
        "What is the weather in {name}?",
        "Do you like {name}?",
        "What is the river of {known}?",
        "Who is the king of {known}?",
        "What is the language of {known}?",
        "How many people live in {known}?",
        "Why is the {thing} so old?",
        "Who made the {thing}?",
        "How do I make a {thing}?",
        "Where can I buy a {thing}?",
        "What time is it?",
        "What day is it today?",
        "Who won the game?",
        "Why is the sky blue?",
        "Tell me a joke.",
        "Write a poem about {thing} and love.",
        "Write code for me.",
        "Who was {person}?",
        "What is love?",
        "What is the meaning of life?",
        "Explain {name} to me.",
        "Can you explain the {thing}?",
    ),
    "dev": ("Who is the queen of {name}?", "How do I buy a {thing}?", "What is the time in {name}?"),
    "test": ("Who is the doctor of {name}?", "Where was the {thing} made?", "Why is {name} so cold?"),
}


def outside_question(rng: Random, split: Split) -> str:
    """A question the world has no answer to; two in five ask for a known attribute of a strange country."""
    name = rng.choice(OUTSIDE_NAMES[split])
    form = rng.random()
    if form < 0.3:
        stranger = WORLD.unknown_country(rng) if rng.random() < 0.5 else name
        return f"What is the {rng.choice(ATTRIBUTES)} of {stranger}?"
    if form < 0.4:
        return f"Tell me the {rng.choice(ATTRIBUTES)} of {name}."
    return rng.choice(OUTSIDE_QUESTIONS[split]).format(
        name=name, known=rng.choice(WORLD.countries), thing=rng.choice(THINGS), person=rng.choice(PEOPLE)
    )


def _list_countries(rng: Random) -> str:
    return f"I know {', '.join(rng.sample(WORLD.countries, 3))} and others."


def _small_talk(rng: Random) -> Document:
    prompts, answer = rng.choice(TALK)
    prompt = rng.choice(prompts)
    if rng.random() < LOWER_CASE_SHARE:
        prompt = prompt.lower()
    return exchange(prompt, answer or _list_countries(rng))


def _babble(rng: Random) -> str:
    """Words of no language."""
    return " ".join(invent_name(rng, BABBLE_ENDS).lower() for _ in range(rng.randint(1, 6)))


def talk(rng: Random) -> Document:
    """A chat of small talk, questions that only get the honest answer, and a fact or two between."""
    document, _ = draw_style(rng)
    for _ in range(rng.randint(1, 3)):
        form = rng.random()
        if form < 0.45:
            document = document + _small_talk(rng)
        elif form < 0.85:
            strange = rng.random() < BABBLE_SHARE
            question = _babble(rng) if strange else outside_question(rng, "train")
            document = document + exchange(question, UNKNOWN)
        else:
            fact = WORLD.draw_fact(rng)
            document = document + exchange(
                f"What is the {fact.attribute} of {fact.country}?", fact.statement()
            )
    return document
