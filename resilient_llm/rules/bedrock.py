"""Amazon Bedrock through botocore: names of exceptions stand where others have codes.

https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
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
    "signaturedoesnotmatch": dead("invalid_credentials"),
    "requesttimetooskewed": dead("invalid_credentials"),
    "invalidclienttokenid": dead("invalid_credentials"),
    "incompletesignature": dead("invalid_credentials"),
    "missingauthenticationtoken": dead("invalid_credentials"),
    "servicequotaexceededexception": limited("quota_window", retryable=False),
    "requestexpired": dead("invalid_credentials"),
    "optinrequired": dead("permission_denied"),
    "notauthorized": dead("permission_denied", scope="target"),
    "priorrequestnotcomplete": transient("conflict"),
    "conflictexception": transient("conflict"),
    "mpagreementbeingcreated": transient("conflict"),
}
# The same name stands for several causes, which the sentences tell apart.
CATEGORIES: Final[dict[str, Verdict]] = {
    "throttlingexception": limited(),
    "throttling": limited(),
    "toomanyrequestsexception": limited(),
    "provisionedthroughputexceededexception": limited(),
    "throttledexception": limited(),
    "requestthrottledexception": limited(),
    "requestthrottled": limited(),
    "requestlimitexceeded": limited(),
    "bandwidthlimitexceeded": limited(),
    "limitexceededexception": limited(),
    "slowdown": limited(),
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
    botocore.TokenRetrievalError botocore.UnauthorizedSSOTokenError botocore.NoAuthTokenError botocore.SSOError
    botocore.SSOTokenLoadError botocore.LoginError botocore.LoginRefreshRequired botocore.LoginTokenLoadError
    botocore.LoginInsufficientPermissions botocore.RefreshWithMFAUnsupportedError
    botocore.MetadataRetrievalError""".split()
)
ONLY_FOR: Final = _NO_CREDENTIALS | {
    "botocore.BotoCoreError", "botocore.ParamValidationError", "botocore.NoRegionError", "botocore.UnknownServiceError"
}  # fmt: skip
_BUG: Final = Verdict(ErrorKind.CALLER_BUG)
_FULL: Final = limited("capacity")
_DEAD: Final = dead("invalid_credentials")


def CLASSES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return what botocore refused before anything was sent.

    What is of the network has been told by its class; all others are about what it was given.
    """
    names = evidence.shape.names
    evidence.sign = ("class", names[0])
    if not _NO_CREDENTIALS.isdisjoint(names):
        return _DEAD
    return _FULL if "botocore.CapacityNotAvailableError" in names else _BUG
