"""Failover of streams: automatic before the first content, your choice after it.

python examples/stream_answers.py
"""

from collections.abc import Iterator

from resilient_llm import (
    StreamInterrupted,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    configure,
    failover,
    observe,
)

WORDS = ["The sky ", "is blue ", "because of ", "Rayleigh ", "scattering."]
mood = {"groq": "down", "openai": "well"}


def complete(target: Target, words: list[str]) -> Iterator[str]:
    """Stands for a client's stream."""
    if mood[target.provider] == "down":
        raise ConnectionResetError("hung up before the first word")
    yield ""  # a first chunk with nothing but a role
    for number, word in enumerate(words):
        if mood[target.provider] == "dies" and number == 2:
            raise ConnectionResetError("hung up in the middle")
        yield word


@failover(chain=["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"], attempts=1)
def ask(target: Target, prompt: str, *, so_far: str = "") -> Iterator[str]:
    rest = [word for number, word in enumerate(WORDS) if "".join(WORDS[: number + 1]) not in so_far]
    yield from complete(target, rest)


configure(logging=False)
observe(
    lambda event: print(f"    ({event.target}: {event.reason} after {event.items_sent} items)"),
    StreamInterrupted,
)

print("before the first word:", "".join(ask("Why is the sky blue?")))

mood["groq"] = "dies"
print("in the middle: ", end="")
try:
    for word in ask("Why is the sky blue?"):
        print(word, end="", flush=True)
except StreamInterruptedError as error:
    print("\n   ", error)

print("begin again:")
again = ask.using(
    stream=StreamPolicy(on_interrupt="restart", restart_marker="[another model begins] ")
)
print("   ", "".join(again("Why is the sky blue?")))

print("go on:")
go_on = ask.using(
    stream=StreamPolicy(keep_text=10_000, on_interrupt=lambda error: {"so_far": error.text_so_far})
)
print("   ", "".join(go_on("Why is the sky blue?")))
