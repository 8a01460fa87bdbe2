"""FastAPI, Flask and Django around the same engine, schema rules and log sink as the function."""
