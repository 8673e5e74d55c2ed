"""LiteLLM's Router, in the two forms its documentation gives for a first and a second choice.

`fallbacks=` between two model groups of one deployment each, and one model group whose
deployments have an `order`. The Router sets `max_retries=0` on the SDK's clients itself. Its
asynchronous calls go through aiohttp by its own default, the bare client's through httpx.
"""

from __future__ import annotations

from typing import Any, ClassVar

import worker

worker.audit_if_asked()

import litellm  # noqa: E402  # connections that an import makes are counted too
from cases import COOLDOWN, FIRST_MODEL, SECOND_MODEL  # noqa: E402
from litellm import Router  # noqa: E402
from worker import Call, Subject, messages, serve  # noqa: E402

# It prints two lines per error otherwise, which would be measured with it.
litellm.suppress_debug_info = True

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "once": {"num_retries": 0, "disable_cooldowns": True},
    "equal": {"num_retries": 0, "allowed_fails": 0, "cooldown_time": COOLDOWN},
}


class WithRouter(Subject):
    """A Router, of which there is never more than one: each hears of every call in the process."""

    attempts: ClassVar = {"default": 3, "once": 1, "equal": 1}
    is_alone = True
    router: Router | None = None

    def options(self) -> dict[str, Any]:
        """Return which deployments there are."""
        raise NotImplementedError

    def deployment(self, group: str, model: str, url: str, **params: Any) -> dict[str, Any]:
        """Return one entry of a Router's list."""
        return {
            "model_name": group,
            "litellm_params": {
                "model": f"openai/{model}",
                "api_key": "none",
                "api_base": url,
                **params,
            },
        }

    def make(self) -> Call:
        self.close()
        self.router = router = Router(**self.options(), **OPTIONS[self.case.policy])

        def call(prompt: str) -> Any:
            return (
                router.completion(model="first", messages=messages(prompt))
                .choices[0]
                .message.content
            )

        async def call_async(prompt: str) -> Any:
            reply = await router.acompletion(model="first", messages=messages(prompt))
            return reply.choices[0].message.content

        return call if self.mode == "sync" else call_async

    def close(self) -> None:
        if self.router is not None:
            self.router.discard()
            self.router = None


class Fallbacks(WithRouter):
    """Two model groups, the second of which is the first one's fallback."""

    name = "LiteLLM Router, fallbacks"
    settings: ClassVar = {
        "default": "`fallbacks=`: 2 retries; no cooldown for a group's only deployment",
        "once": "`fallbacks=, num_retries=0, disable_cooldowns=True`",
        "equal": f"`fallbacks=, num_retries=0, allowed_fails=0, cooldown_time={COOLDOWN:g}`",
    }
    cooldown: ClassVar = {"default": None, "once": None, "equal": COOLDOWN}

    def options(self) -> dict[str, Any]:
        return {
            "model_list": [
                self.deployment("first", FIRST_MODEL, self.first_url),
                self.deployment("second", SECOND_MODEL, self.second_url),
            ],
            "fallbacks": [{"first": ["second"]}],
        }


class Order(WithRouter):
    """One model group, whose deployments are taken in order."""

    name = "LiteLLM Router, order"
    settings: ClassVar = {
        "default": "`order=`: 2 retries, 5 s cooldown",
        "once": "`order=, num_retries=0, disable_cooldowns=True`",
        "equal": f"`order=, num_retries=0, allowed_fails=0, cooldown_time={COOLDOWN:g}`",
    }
    cooldown: ClassVar = {"default": 5.0, "once": None, "equal": COOLDOWN}

    def options(self) -> dict[str, Any]:
        return {
            "model_list": [
                self.deployment("first", FIRST_MODEL, self.first_url, order=1),
                self.deployment("first", SECOND_MODEL, self.second_url, order=2),
            ]
        }


if __name__ == "__main__":
    serve([Fallbacks, Order], ["litellm", "httpx", "aiohttp"])
