"""A remote server in place of an engine: ENGINE_URL makes the function a proxy with its log, limits and metrics."""
