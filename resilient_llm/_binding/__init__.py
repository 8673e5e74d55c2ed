"""What ``@failover`` and ``@breaker`` return: wrappers, loops, and their binding to the state."""
