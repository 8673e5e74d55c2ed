"""The demo: real SDK clients, bad weather on loopback, and a live view of what happens.

    resilient-llm demo

Written with public names only, as a user would write it. Importing this package loads
nothing; `resilient_llm.demo.run` needs the extra ``demo`` (rich, openai, anthropic).
"""
