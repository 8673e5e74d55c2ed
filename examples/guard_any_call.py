"""A breaker around a call that has no fallback, as decorator and as ``with`` block.

python examples/guard_any_call.py
"""

from __future__ import annotations

from resilient_llm import BreakerOpenError, breaker

is_down = True


@breaker("vector-db", failures=3, cooldown=0.2)
def search(query: str) -> list[str]:
    if is_down:
        raise ConnectionResetError("the database hung up")
    return [f"a document about {query}"]


for number in range(1, 6):
    try:
        print(search("weather"))
    except BreakerOpenError as error:
        print(f"call {number}: nothing was sent, come back in {error.retry_after:.1f} s")
    except ConnectionResetError:
        print(f"call {number}: failed")

# The same name is the same circuit, wherever it is written.
guard = breaker("vector-db")
print("the breaker is", guard.state)

try:
    with guard:
        print("this is not reached")
except BreakerOpenError as error:
    print("a block on the same breaker is refused as well:", error.reason)
