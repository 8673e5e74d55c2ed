"""Guards what other libraries make: whole SDK clients, HTTP transports, models of frameworks.

    from resilient_llm.integrations import wrap

    client = wrap({"groq": AsyncOpenAI(base_url=…), "openai": AsyncOpenAI()},
                  chain=["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"])

One module per library, named after it, which is imported by name and needs that library:
``resilient_llm.integrations.langchain`` needs LangChain. `wrap` needs the SDKs of the clients that
it is given. All of them use a `Failover` policy, so that benches, budgets and events are those of
the process. Which versions of each library are supported is in ``SUPPORTED``.

To add one: a module here, its versions in ``_supported.py``, and a folder in tests/integrations
whose tests use the real library against a server on loopback.
"""

from resilient_llm.integrations._supported import SUPPORTED, Versions

__all__ = ["SUPPORTED", "Versions"]
