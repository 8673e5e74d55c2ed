"""The built-in rules for errors, by cause, asked in a fixed order.

A rule is a function from `Evidence` to a `Verdict`, or to None if it does not recognise the
error. `_judge` holds the order: a machine-readable code, a known sentence, the status, the
class. `judge` applies the rules to one error; causes inside it, members of a group,
cancellations and users' own rules are the task of the classifier.

To add a rule:

1. Record a case in ``tests/corpus/<sdk>.jsonl``: what is on the wire, where it is
   documented, which verdict is expected.
2. Put it into the table of its kind, or for one provider into ``rules/<provider>.py`` (a new
   file is named in `PROVIDERS` of `_judge`).
3. Run ``make corpus ARGS="-k the-case"`` and ``python -m tests.errors_page``, which writes
   the page of the documentation.

A provider's file has any of

- ``CODES``: ``{lower-cased code: Verdict}``, for codes that only this provider sends;
- ``CATEGORIES``: the same for codes that say no more than a status does;
- ``by_message``: a function ``Evidence -> Verdict | None`` for messages and fields that only
  this provider sends;
- ``by_class``: a function ``Evidence -> Verdict | None`` for classes of its SDK;
- ``retry_after``: a function ``Evidence -> seconds | None`` for a wait that only this
  provider writes so, named in `_HINTS` of `_judge`;
- ``ONLY_FOR``: names ``package.Class``; the functions are asked only about these and what
  inherits from them, which is decided once per class.

A provider's tables are asked before the shared ones of the same stage. Write rules for
causes, never for one response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm.rules._evidence import Evidence
from resilient_llm.rules._judge import PROVIDERS, Rule, judge
from resilient_llm.rules.frameworks import verdict_of as framework_verdicts

if TYPE_CHECKING:
    from collections.abc import Callable

    from resilient_llm._values.explanation import Reasons

__all__ = ["PROVIDERS", "Evidence", "Rule", "framework_verdicts", "judge", "why"]


def why(error: BaseException, wall: Callable[[], float]) -> Reasons:
    """Return by what the rules recognise one error, as ``judge`` decides it."""
    from resilient_llm.rules._explain import reasons  # loaded by those who ask for explanations

    return reasons(error, wall)
