"""The benchmark harness. Nothing in `handler` imports it."""
