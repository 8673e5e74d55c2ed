"""Chains in a file, a route that chooses one, and an edit that takes effect while calls run.

python examples/configuration_file.py
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from resilient_llm import (
    ConfigReloaded,
    ConfigReloadFailed,
    Target,
    chains,
    config,
    configure,
    failover,
    observe,
)

FILE = """
[chains]
fast = ["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"]
careful = "anthropic/claude-sonnet, @fast"

[routes.default]
otherwise = "@fast"
[[routes.default.rules]]
chain = "@careful"
min_code_share = 0.5
"""
CODE = "```python\nfor each in range(3):\n    print(each)\n```"


@failover()  # the name "default"
def ask(target: Target, prompt: str) -> str:
    """Stands for a function that calls a model."""
    return target.key


path = Path(tempfile.mkdtemp()) / "config.toml"
path.write_text(FILE)
configure(logging=False)  # the events are printed here
observe(lambda event: print("    changed:", *event.changed), ConfigReloaded)
observe(lambda event: print("    problem:", *event.problems), ConfigReloadFailed)
loaded = config.load(path, providers=["groq", "openai", "anthropic"])

print("The file has the chains and routes", ", ".join(loaded.chains))
print("a question goes to", ask("Why is the sky blue?"))
print("code goes to", ask(f"What does this do?\n{CODE}"))
print("for a question it passed over:", *chains.explain("default", prompt="Why?").reasons)

print("An operator puts another model first:")
path.write_text(FILE.replace("groq/llama-3.3-70b-versatile", "openai/gpt-5-nano"))
config.reload()  # with config.watch() or config.reload_on_sighup() it happens by itself
print("a question goes to", ask("Why is the sky blue?"))

print("The next edit has a slip, and changes nothing:")
path.write_text(FILE.replace("openai/gpt-5-mini", "opnai/gpt-5-mini"))
with suppress(config.InvalidConfigError):
    config.reload()
print("a question goes to", ask("Why is the sky blue?"))
