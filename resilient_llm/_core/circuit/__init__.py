"""One circuit breaker: `circuit` decides, `state` holds benches and probes, `window` counts.

`triggers` has the formulas, and `permit` is what an admitted attempt holds.
"""
