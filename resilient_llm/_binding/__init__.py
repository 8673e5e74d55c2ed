"""A function and a policy, bound to the present state of the process."""
