"""The alert rules, as a file that Prometheus loads. Keep in sync with docs/how-to/alerts.md."""

from __future__ import annotations

from typing import Final

from resilient_llm.observers.prometheus._families import checked_namespace

_RULES: Final = """\
# Alert rules for the metrics of resilient_llm: `rule_files` of Prometheus names this file.
groups:
  - name: NAMESPACE
    rules:
      - alert: LLMTargetBenched
        # An average: each probe ends a bench for a moment, which would restart a `for:`.
        # Half-minutes without a value count as not benched.
        expr: sum_over_time((max without (kind) (NAMESPACE_benched))[15m:30s]) / 30 > 0.9
        labels:
          severity: warning
        annotations:
          summary: "{{ $labels.target }} is benched"
          description: >-
            Calls have passed over {{ $labels.target }} for more than 90 % of the last 15 minutes.
            Its reason stands in list_benched() and on the admin page.

      - alert: LLMNoLiveTarget
        expr: NAMESPACE_live_targets == 0
        for: 1m
        labels:
          severity: critical
        annotations:
          summary: "{{ $labels.function }} has no target that may be called"
          description: >-
            Every target of {{ $labels.function }} is benched, so its calls fail. Look at what is
            benched and why; a target that works again can be unbenched by hand.

      - alert: LLMCallsFail
        expr: >-
          sum by (job) (rate(NAMESPACE_calls_total{outcome="failed"}[5m]))
          > 0.05 * sum by (job) (rate(NAMESPACE_calls_total[5m]))
        for: 2m
        labels:
          severity: critical
        annotations:
          summary: "More than a twentieth of the LLM calls of {{ $labels.job }} fail"
          description: >-
            Calls end with an error although targets may be live, for example because `timeout=`
            is too short for the fallback, or because the requests are wrong. The `kind` of
            CallFailed in the log shows which.

      - alert: LLMFailovers
        expr: >-
          sum by (job) (rate(NAMESPACE_failovers_total[5m]))
          > 0.1 * sum by (job) (rate(NAMESPACE_calls_total[5m]))
        for: 10m
        labels:
          severity: warning
        annotations:
          summary: "More than a tenth of the LLM calls of {{ $labels.job }} fail over"
          description: >-
            A target fails often enough to be left, but is not benched for long. Callers wait for
            two targets, and the second one may cost more.

      - alert: LLMBudget
        expr: max by (job, budget) (NAMESPACE_budget_ratio) >= 0.9
        labels:
          severity: warning
        annotations:
          summary: "The budget {{ $labels.budget }} is {{ $value | humanizePercentage }} spent"
          description: >-
            When it is spent, its targets are passed over until the next period begins. See
            resilient-llm spend; of a budget that counts each key, this is the fullest one.

      - alert: LLMDeadKey
        expr: max by (job, target) (NAMESPACE_benched{kind="auth_dead"}) == 1
        labels:
          severity: critical
        annotations:
          summary: "{{ $labels.target }} refuses the credentials, the account or the model"
          description: >-
            A key, a bill, a permission or the name of a model is wrong at {{ $labels.target }}.
            Only a person can repair that.
"""


def rules(namespace: str = "resilient_llm") -> str:
    """Return alert rules for Prometheus as YAML.

    Args:
        namespace: What the names of the metrics begin with.

    Raises:
        ConfigurationError: If no names of metrics can begin with it.
    """
    return _RULES.replace("NAMESPACE", checked_namespace(namespace))
