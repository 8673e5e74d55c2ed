"""What ``resilient-llm doctor`` looks at: clients, hosts, clocks, live calls."""
