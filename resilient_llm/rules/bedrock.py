"""Amazon Bedrock through botocore: names of exceptions stand where others have codes.

https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._values import ErrorKind, Verdict
from resilient_llm.rules._evidence import dead, limited, transient, wrong_request

if TYPE_CHECKING:
    from resilient_llm.rules._evidence import Evidence

CODES: Final[dict[str, Verdict]] = {
    "modelnotreadyexception": transient("model_loading"),  # a 429
    "modelstreamerrorexception": transient("stream_error"),  # a 424
    "modeltimeoutexception": transient("timeout"),
    "expiredtokenexception": dead("invalid_credentials"),
    "expiredtoken": dead("invalid_credentials"),
    "unrecognizedclientexception": dead("invalid_credentials"),
    "invalidsignatureexception": dead("invalid_credentials"),
    "invalidclienttokenid": dead("invalid_credentials"),
    "incompletesignature": dead("invalid_credentials"),
    "missingauthenticationtoken": dead("invalid_credentials"),
    "servicequotaexceededexception": limited("quota_window", retryable=False),
}
# The same name stands for several causes, which the sentences tell apart.
CATEGORIES: Final[dict[str, Verdict]] = {
    "throttlingexception": limited(),
    "throttling": limited(),
    "toomanyrequestsexception": limited(),
    "provisionedthroughputexceededexception": limited(),
    "accessdeniedexception": dead("permission_denied", scope="target"),
    "resourcenotfoundexception": dead("model_not_found", scope="target"),
    "validationexception": wrong_request(),
    "serviceunavailableexception": transient("overloaded"),
    "serviceunavailable": transient("overloaded"),
    "internalserverexception": transient("server_error"),
    "internalfailure": transient("server_error"),
    "internalerror": transient("server_error"),
    "modelerrorexception": transient("server_error"),
}
_NO_CREDENTIALS: Final = frozenset(
    """botocore.NoCredentialsError botocore.PartialCredentialsError botocore.CredentialRetrievalError
    botocore.TokenRetrievalError botocore.UnauthorizedSSOTokenError botocore.NoAuthTokenError""".split()
)
_BUGS: Final = frozenset(("botocore.ParamValidationError", "botocore.NoRegionError", "botocore.UnknownServiceError"))
_BUG: Final = Verdict(ErrorKind.CALLER_BUG)
_DEAD: Final = dead("invalid_credentials")


def CLASSES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return what botocore refused before anything was sent."""
    names = evidence.shape.names
    if not _NO_CREDENTIALS.isdisjoint(names):
        return _DEAD
    return _BUG if not _BUGS.isdisjoint(names) else None
