"""Machine-readable codes that OpenAI-compatible and similar APIs send in a body.

A code takes precedence over the sentence, the status and the class of an error:
``insufficient_quota`` arrives as a 429, an invalid key as a 400. `CODES` holds codes that
name a cause; generic ones (``invalid_request_error``, ``server_error``) are less specific
than a status and are in `CATEGORIES`, which are asked later.

All codes are lower-cased; a code with capitals (``NOT_FOUND``, ``DeploymentNotFound``) is
found by its lower-cased form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm._values.kinds import ErrorKind
from resilient_llm.rules._verdicts import POLICY, dead, limited, transient, wrong_request

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence


def _same(verdict: Verdict, words: str) -> dict[str, Verdict]:
    return dict.fromkeys(words.split(), verdict)


CODES: Final[dict[str, Verdict]] = {
    # The account has no money left, which concerns all targets of the provider.
    **_same(
        dead("insufficient_quota"),
        """insufficient_quota insufficient_balance insufficient_credits insufficient_funds
        insufficient_user_quota credit_balance_exhausted credit_balance_too_low credits_exhausted
        quota_exhausted exceeded_current_quota_error organization_spend_limit_exceeded
        organization_usage_limit_exceeded project_spend_limit_exceeded
        enforced_spend_limit_reached spend_limit_reached spend_limit_exceeded
        billing_hard_limit_reached monthly_limit_exceeded budget_exceeded payment_required
        billing_error token_quota_reached arrearage linked_organization_billing_unavailable
        linked_organization_spend_limit_reached contract_spend_limit_reached""",
    ),
    **_same(
        dead("account_disabled"),
        """billing_not_active account_deactivated account_disabled account_suspended
        account_inactive organization_restricted organization_disabled organization_deactivated
        organization_on_hold consumer_suspended key_suspended access_terminated""",
    ),
    **_same(
        dead("invalid_credentials"),
        """invalid_api_key incorrect_api_key api_key_invalid wrong_api_key invalid_key
        invalid_authentication invalid_authentication_error authentication_error auth_error
        unauthenticated unauthorized invalid_token expired_token token_expired api_key_expired
        api_key_disabled missing_api_key no_api_key access_token_type_unsupported
        access_token_expired invalid_iam_token invalid_credentials""",
    ),
    **_same(
        dead("permission_denied", scope="target"),
        "model_access_denied model_terms_required insufficient_permissions missing_scope",
    ),
    **_same(
        dead("permission_denied"),
        """no_organization service_disabled api_key_service_blocked ip_not_allowed
        ip_not_authorized cmek_key_disabled cmek_key_network_blocked""",
    ),
    **_same(
        dead("model_not_found", scope="target"),
        """model_not_found model_not_found_error model_not_exist model_not_available
        model_not_supported model_not_allowed model_decommissioned model_deprecated model_removed
        unknown_model invalid_model unavailable_model deploymentnotfound deployment_not_found
        operationnotsupported modelnotfound""",
    ),
    **_same(
        dead("region_unsupported"),
        """unsupported_country_region_territory unsupported_region user_location_invalid
        location_unsupported""",
    ),
    **_same(
        wrong_request("context_length_exceeded"),
        """context_length_exceeded context_window_exceeded exceed_context_size_error
        context_length_error model_context_window_exceeded string_above_max_length
        tokens_limit_reached max_context_length_exceeded input_too_long prompt_too_long""",
    ),
    **_same(
        wrong_request("content_policy"),
        """content_filter content_filtered content_policy_violation contentfilter
        responsibleaipolicyviolation content_filter_error moderation_blocked invalid_prompt
        data_inspection_failed datainspectionfailed sensitive_words_detected
        sensitivecontentdetected inputtextsensitivecontentdetected
        outputtextsensitivecontentdetected safety_violation refusal cyber_policy_violation
        sensitive_content guardrail_violation bio_policy cyber_policy safety_policy usage_policy
        content_blocked content_moderation moderation_error moderation_failed input_moderation
        output_moderation safety_error safety_check_failed unsafe_content harmful_content
        prohibited_content prompt_blocked sensitive_content_detected input_new_sensitive
        output_new_sensitive risk_control guardrail_intervened""",
    ),
    **_same(
        wrong_request("unsupported_parameter"),
        """unsupported_parameter unsupported_value parameter_not_supported unknown_parameter
        unrecognized_parameter unsupported_model_feature extra_forbidden not_supported_error""",
    ),
    **_same(
        wrong_request("too_large"),
        """request_too_large payload_too_large max_tokens_per_request
        rate_limit_request_too_large request_entity_too_large""",
    ),
    **_same(
        wrong_request("invalid_request"),
        """invalid_value missing_required_parameter invalid_type invalid_image
        invalid_image_format image_too_large invalid_function_parameters invalid_json_schema
        invalid_base64_image invalid_image_url image_too_small image_parse_error
        invalid_image_mode image_file_too_large unsupported_image_media_type empty_image_file
        failed_to_download_image image_file_not_found data_residency_mismatch""",
    ),
    # A stored thing that the request names does not exist.
    **_same(
        wrong_request(),
        """previous_response_not_found thread_not_found file_not_found image_not_found
        item_not_found response_not_found conversation_not_found message_not_found
        assistant_not_found batch_not_found run_not_found vector_store_not_found upload_not_found
        session_not_found dataset_not_found user_profile_not_found""",
    ),
    **_same(transient("conflict"), "conversation_locked thread_continue_in_flight"),
    **_same(limited(), "in_flight_budget_exhausted"),
    **_same(
        wrong_request("invalid_output"), "json_validate_failed tool_use_failed output_parse_failed"
    ),
    **_same(
        transient("overloaded"),
        """overloaded overloaded_error server_is_overloaded server_overloaded engine_overloaded
        engine_overloaded_error model_overloaded service_tier_capacity_exceeded""",
    ),
    **_same(
        transient("timeout"), "timeout_error request_timeout deadline_exceeded vector_store_timeout"
    ),
    **_same(transient("model_loading"), "model_loading model_not_ready model_warming_up"),
    **_same(limited("capacity"), "capacity_exceeded capacity_exceeded_error no_capacity"),
}

# Codes that are no more specific than a status and are asked after it; see `sure_category`.
CATEGORIES: Final[dict[str, Verdict]] = {
    **_same(
        limited(),
        """rate_limit_exceeded rate_limit_error rate_limited rate_limit rate_limit_reached_error
        rate_limit_reached rate_limit_reached_requests rate_limit_reached_tokens
        too_many_requests toomanyrequests model_rate_limit requests_limit_exceeded
        tokens_limit_exceeded limit_requests limit_burst_rate token_quota_exceeded
        request_quota_exceeded concurrency_limit_exceeded throttling_error throttled slow_down""",
    ),
    **_same(
        transient("server_error"),
        """server_error internal_error internal_server_error internalservererror api_error
        service_error internal unknown unknown_error data_loss""",
    ),
    **_same(
        transient("overloaded"),
        """service_unavailable_error service_unavailable serviceunavailable unavailable_error
        unavailable""",
    ),
    **_same(transient("timeout"), "timeout gateway_timeout"),
    **_same(transient("conflict"), "conflict conflict_error aborted"),
    # A missing permission is often for one model: only the target is charged.
    **_same(
        dead("permission_denied", scope="target"),
        """permission_error permission_denied permission_denied_error permissiondenied
        access_denied accessdenied forbidden""",
    ),
    **_same(dead("model_not_found", scope="target"), "not_found_error not_found notfounderror"),
    **_same(
        wrong_request(),
        """invalid_request_error invalid_request badrequesterror bad_request_error bad_request
        invalid_argument""",
    ),
    **_same(
        wrong_request("invalid_request"),
        "already_exists failed_precondition out_of_range unprocessable_entity_error",
    ),
    **_same(dead("endpoint_not_found", scope="target"), "unimplemented"),
    # gRPC sends this for throttling and for a spent quota; the sentences are asked before.
    **_same(limited(), "resource_exhausted"),
    # A cancellation by the server is a failure, not a cancellation by the caller.
    **_same(transient("server_error"), "cancelled"),
}


def cause(evidence: Evidence) -> Verdict | None:
    """Return the verdict on a code that names a cause."""
    for code in evidence.codes:
        verdict = CODES.get(code)
        if verdict is None and code.startswith("billing_"):
            verdict = CODES["billing_error"]
        if verdict is None and _is_policy(code):
            verdict = POLICY
        if verdict is None and _is_spent_quota(code, evidence.failed_status):
            verdict = CODES["insufficient_quota"]
        if verdict is not None:
            evidence.matched_by = ("code", code)
            return verdict
    return None


def _is_spent_quota(code: str, status: int | None) -> bool:
    """Return whether a code says that nothing is left, as elevenlabs does under a 401.

    With a 429 the same word is often a limit per minute.
    """
    return code.endswith("quota_exceeded") and status in (401, 402, 403)


def _is_policy(code: str) -> bool:
    """Return whether a code names a policy about content, as providers form such names.

    openai adds one for each policy (``bio_policy``, ``misalignment_policy_violation``),
    volcengine one for each medium (``InputImageSensitiveContentDetected.PolicyViolation``).
    """
    return code.endswith(("policy_violation", "policyviolation")) or "sensitivecontent" in code


def sure_category(evidence: Evidence) -> Verdict | None:
    """Return the verdict on a generic code where it is more reliable than the status.

    A rate limit counts under every status but those that no wait mends: groq sends
    ``rate_limit_exceeded`` with 413 for one request above the tokens per minute, Google
    ``RESOURCE_EXHAUSTED`` with 402. A missing permission counts under 400 and 500.
    """
    verdict = category(evidence)
    if verdict is None:
        return None
    status = evidence.failed_status
    if verdict.kind is ErrorKind.RATE_LIMITED:
        return None if status in (402, 413) else verdict
    if verdict.kind is ErrorKind.AUTH_DEAD and verdict.reason != "model_not_found":
        return verdict if status in (400, 500) else None
    return None


def category(evidence: Evidence) -> Verdict | None:
    """Return the verdict on the most specific generic code."""
    for code in evidence.codes:
        verdict = CATEGORIES.get(code)
        if verdict is not None:
            evidence.matched_by = ("code", code)
            return verdict
    return None
