"""Arguments that hold free text, made safe for Hydra's grammar.

To Hydra, ``action=w-100,dw-60`` is a list of choices and a prompt with a bracket or a quote is a syntax error. A user
who has quoted for the shell has quoted enough.
"""

import re
from collections.abc import Iterable

FREE_TEXT = (
    "prompt", "negative_prompt", "action", "image", "camera", "out", "model",
    "prompts", "script", "picture", "instruction", "cache",
)  # fmt: skip
PATHS = ("transformer", "vae", "text_encoder", "tokenizer", "refiner")


def quoted_arguments(arguments: Iterable[str]) -> list[str]:
    """The arguments with every value of :data:`FREE_TEXT` and :data:`PATHS` as one quoted string of Hydra's.

    >>> quoted_arguments(["prompt=it's dusk, rain", "seed=1"])
    ["prompt='it\\\\'s dusk, rain'", 'seed=1']

    A value that is quoted already, and ``null``, stay as they are.
    """
    return [_quoted(argument) for argument in arguments]


def value_of(name: str, arguments: Iterable[str]) -> str | None:
    """What the last argument ``name=...`` gives, without quotes around it; None: there is none.

    >>> value_of("model", ["model='a b'", "seed=1"])
    'a b'
    """
    found = None
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key.lstrip("+") == name:
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
            found = value[1:-1] if quoted else value
    return found


def _quoted(argument: str) -> str:
    name, equals, value = argument.partition("=")
    bare = value.strip()
    done = bare == "null" or (len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"")
    if not equals or name.lstrip("+") not in FREE_TEXT + PATHS or done:
        return argument
    value = value.replace("${", r"\${")  # or it would be an interpolation
    # Backslashes count only before a quote, the closing one included: there each is written twice.
    value = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", value)
    value = re.sub(r"\\+$", lambda found: found[0] * 2, value)
    return f"{name}='{value}'"
