"""Scripts that run under a peer's own interpreter: they import that peer and the standard library, nothing of ours."""
