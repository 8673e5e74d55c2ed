"""Amazon Bedrock through botocore, which has names of exceptions where others have codes.

https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from resilient_llm.rules._verdicts import (
    BROKEN,
    CALLER_BUG,
    NO_CREDENTIALS,
    dead,
    limited,
    transient,
    wrong_request,
)

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
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
    "invalididentitytoken": dead("invalid_credentials"),  # of STS, as the next one
    "idpcommunicationerror": transient("network"),
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
# The same name is used for several causes, which the sentences distinguish.
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
_WITHOUT_CREDENTIALS: Final = frozenset(
    """botocore.NoCredentialsError botocore.PartialCredentialsError
    botocore.CredentialRetrievalError botocore.TokenRetrievalError
    botocore.UnauthorizedSSOTokenError botocore.NoAuthTokenError botocore.SSOError
    botocore.SSOTokenLoadError botocore.LoginError botocore.LoginRefreshRequired
    botocore.LoginTokenLoadError botocore.LoginInsufficientPermissions
    botocore.RefreshWithMFAUnsupportedError botocore.MetadataRetrievalError
    botocore.ProfileNotFound botocore.UnknownCredentialError""".split()
)
ONLY_FOR: Final = _WITHOUT_CREDENTIALS | {
    "botocore.BotoCoreError",
    "botocore.ParamValidationError",
    "botocore.NoRegionError",
    "botocore.UnknownServiceError",
}
_FULL: Final = limited("capacity")
# What the server that gives credentials to a machine or a container answered, or that it did not.
_FAILED: Final = re.compile(
    r"error retrieving metadata: received (?:non 200 response (?:5\d\d|408|429)|error when)"
)


def by_class(evidence: Evidence) -> Verdict | None:
    """Return why botocore refused to send a request.

    Its errors of the network are recognised before; all others are about the arguments.
    """
    names = evidence.error_class.names
    evidence.matched_by = ("class", names[0])
    if not _WITHOUT_CREDENTIALS.isdisjoint(names):
        return BROKEN if _FAILED.search(evidence.text) is not None else NO_CREDENTIALS
    return _FULL if "botocore.CapacityNotAvailableError" in names else CALLER_BUG
