"""Each call goes to the first model that can take it: pictures, tools, and long prompts.

python examples/match_capabilities.py
"""

from typing import Any

from resilient_llm import NoCapableTargetError, Target, Trace, configure, failover, needs

Messages = list[dict[str, Any]]


@failover(
    chain=[
        Target("groq/llama-3.3-70b", supports=("tools",), context_window=4_000),
        Target("openai/gpt-5-mini", supports=("tools", "vision", "json_schema")),
    ],
    needs=needs.from_messages(),
    tokens=needs.estimate_tokens(),
)
def ask(target: Target, messages: Messages, **options: Any) -> str:
    return f"{target.model} answers"  # your client, with target.model


def user(*parts: dict[str, Any]) -> Messages:
    return [{"role": "user", "content": list(parts)}]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


configure(logging=False)
picture = {"type": "image_url", "image_url": {"url": "https://example.com/sky.png"}}
recording = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}

for name, messages in {
    "a question": user(text("Why is the sky blue?")),
    "a picture": user(text("What is this?"), picture),
    "a long prompt": user(text("word " * 5_000)),
    "a recording": user(text("Who is speaking?"), recording),
}.items():
    with Trace() as trace:
        try:
            print(f"{name}: {ask(messages)}")
        except NoCapableTargetError as error:
            print(f"{name}: {error}")
    for attempt in trace.calls[0].attempts:
        if attempt.number == 0:
            print(f"  {attempt.target} was skipped: {attempt.reason}")
