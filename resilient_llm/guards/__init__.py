"""Guards look at a call before anything is sent, one file each.

A guard is pure and knows values only: what it reads is passed in. It is asked by `_binding`, once
for each call, before the first attempt and before anything is reserved. One that is not configured
is not made, and a call without any costs nothing for them.

To add one: a file here with a class that is made once per binding, its options as values in
``_values``, and a line in `OptionsEffect.is_inlined` of _binding/options_in_force.py, since the
wrapper makes no call by itself that a guard has to see.
"""

from __future__ import annotations

from resilient_llm.guards.tool_loop import FoundLoop, ToolLoopGuard

__all__ = ["FoundLoop", "ToolLoopGuard"]
