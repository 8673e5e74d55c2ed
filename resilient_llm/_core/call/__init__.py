"""One call: `call_flow` orders the steps, `judging`, `retrying` and `ending` decide."""
