"""The load engine: Locust with users that see tokens, and arrivals that do not wait. gevent lives nowhere else."""
