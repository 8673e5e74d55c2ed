"""The demo: real SDK clients against failing local servers, and a live view of the events.

    resilient-llm demo
    resilient-llm demo --workers 4

Written with public names only, as a user would write it. Importing this package loads nothing.
`resilient_llm.demo.run` needs the extra ``demo`` (rich, openai, anthropic). The second form shows
several processes that share a store, `resilient_llm.demo.fleet`, and needs rich alone.
"""
