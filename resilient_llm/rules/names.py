"""Names of classes of client libraries, most of which are named after the cause.

Asked last, when there is no code, no status and no sentence: for example for what an SDK
raises inside a stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._class_info import CLIENTS
from resilient_llm.rules._verdicts import CALLER_BUG, dead, limited, transient, wrong_request

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._class_info import ErrorClass
    from resilient_llm.rules._evidence import Evidence

# {package.Class: verdict}, where a part of the name means something else, or nothing.
CLASSES: Final[dict[str, Verdict]] = {
    # Limits and settings of the caller; no target is at fault.
    **dict.fromkeys(
        """pydantic_ai.UserError pydantic_ai.UsageLimitExceeded azure.SerializationError
        huggingface_hub.HFValidationError ibm_watsonx_ai.MissingValue
        ibm_watsonx_ai.MissingArgument ibm_watsonx_ai.UnexpectedType
        ibm_watsonx_ai.ParamOutOfRange google.UnsupportedFunctionError
        google.UnknownFunctionCallArgumentError
        google.IncompleteIterationError instructor.ConfigurationError instructor.ModeError
        instructor.ClientError instructor.MultimodalError""".split(),
        CALLER_BUG,
    ),
    "huggingface_hub.ValidationError": wrong_request(),
    "huggingface_hub.GenerationError": transient("server_error"),
    "huggingface_hub.LocalEntryNotFoundError": transient("network"),
    "mistralai.HTTPValidationError": wrong_request(status=422),  # it has no status
    "pydantic_ai.UnexpectedModelBehavior": transient("invalid_response"),
    "google.BrokenResponseError": transient("stream_error"),
    "replicate.ModelError": transient("server_error"),
}
# Parts of a class's name, lower-cased; the first that it contains decides.
PARTS: Final[tuple[tuple[str, Verdict], ...]] = tuple(
    (part, verdict)
    for verdict, parts in (
        (wrong_request("context_length_exceeded"), "contextwindow contextlength contextoverflow"),
        (
            wrong_request("content_policy"),
            """contentfilter contentpolicy moderation guardrailraised rejectedrequest blocked
            stopcandidate""",
        ),
        (wrong_request("output_truncated"), "outputtokenlimit incompletetoolcall incompleteoutput"),
        (dead("insufficient_quota"), "quotaexceeded insufficientquota insufficientbalance"),
        (limited(), "ratelimit toomanyrequests throttl"),
        (limited("capacity"), "concurrencylimit"),
        (
            dead("invalid_credentials"),
            """authentic unauthorized invalidcredential credentialserror credentialsprovided
            credentialunavailable
            tokennotfound""",
        ),
        (dead("permission_denied", scope="target"), "permissiondenied forbidden accessdenied"),
        (
            dead("model_not_found", scope="target"),
            "modelnotfound resourcenotfound deploymentnotfound repositorynotfound",
        ),
        (dead("endpoint_not_found", scope="target"), "toomanyredirects"),
        (transient("overloaded"), "overloaded unavailable"),
        (transient("timeout"), "timeout timedout"),
        (transient("network"), "connectionerror networkerror"),
        (
            transient("invalid_response"),
            "deserializ decodeerror responsevalidation unexpectedmodelbehavior",
        ),
        (transient("server_error"), "servererror internalerror endpointerror tryagain"),
        (wrong_request("too_large"), "payloadtoobig"),
        (
            wrong_request(),
            "invalidrequest malformedrequest badrequest requestrejected videoprocessing",
        ),
    )
    for part in parts.split()
)


def by_name(evidence: Evidence) -> Verdict | None:
    """Return the cause that a client's class is named after."""
    known = evidence.error_class.verdicts
    if "name" not in known:
        known["name"] = _of_class(evidence.error_class)
    verdict, name = known["name"]
    evidence.matched_by = ("class", name)
    return verdict


def _of_class(error_class: ErrorClass) -> tuple[Verdict | None, str]:
    for name in error_class.names:
        if name.partition(".")[0] not in CLIENTS:
            continue
        verdict = CLASSES.get(name)
        if verdict is not None:
            return verdict, name
        low = name.lower()
        for part, found in PARTS:
            if part in low:
                return found, name
    return None, ""
