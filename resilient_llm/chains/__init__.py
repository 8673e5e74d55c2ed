"""`check`: what does not fit together among the chains and the configuration of this process.

from resilient_llm import chains

for problem in chains.check():
    print(problem)
"""

from __future__ import annotations

__all__ = ["check"]


def check() -> list[str]:
    """Return the problems of the policies that exist in this process, one sentence each.

    It changes nothing and calls no provider. Ask it when everything is imported and configured, as
    in a test or at the start of a service: a policy counts as long as something refers to it, and
    a key is a problem until a policy has it.

    - A key in ``limits``, ``prices`` or ``breakers`` of `configure`, or the ``of`` of a budget,
      that no policy has: it has no effect. Near names are shown. For ``limits`` and ``breakers``
      a guard such as ``breaker("search")`` counts, too.
    - One target with two prices, sets of tags, sizes or abilities in two policies: a budget or a
      limit then holds for the calls of one function and not for those of the other. Other
      options, such as ``params``, may differ.
    - A default ``attempt_timeout`` or ``hedge`` that cannot hold for a decorated function.

    Returns:
        An empty list if nothing was found.

    Examples:
        >>> configure(limits={"grok": Limit(requests=60)})
        >>> check()
        ["limits['grok'] is of no target of a policy: did you mean 'groq'?"]
    """
    from resilient_llm.chains._problems import problems  # loaded when somebody asks

    return problems()
