"""LangChain's `with_fallbacks` between two chat models; retries are off, as its documentation advises for fallbacks."""

from __future__ import annotations

from typing import Any, ClassVar

import worker

worker.audit_if_asked()

from cases import FIRST_MODEL, SECOND_MODEL  # noqa: E402  # connections that an import makes are counted too
from langchain_openai import ChatOpenAI  # noqa: E402
from pydantic import SecretStr  # noqa: E402
from worker import Call, Subject, serve  # noqa: E402


class WithFallbacks(Subject):
    """A chat model with another as its fallback; it remembers nothing between calls."""

    name = "LangChain with_fallbacks"
    settings: ClassVar = dict.fromkeys(
        ("default", "once", "equal"), "`ChatOpenAI(max_retries=0)`; has no cooldown"
    )
    attempts: ClassVar = {"default": 1, "once": 1, "equal": 1}
    cooldown: ClassVar = {"default": None, "once": None, "equal": None}

    def make(self) -> Call:
        first, second = (
            ChatOpenAI(model=model, base_url=url, api_key=SecretStr("none"), max_retries=0)
            for model, url in ((FIRST_MODEL, self.first_url), (SECOND_MODEL, self.second_url))
        )
        model = first.with_fallbacks([second])

        def call(prompt: str) -> Any:
            return model.invoke(prompt).content

        async def call_async(prompt: str) -> Any:
            return (await model.ainvoke(prompt)).content

        return call if self.mode == "sync" else call_async


if __name__ == "__main__":
    serve([WithFallbacks], ["langchain-openai", "langchain-core", "httpx2"])
