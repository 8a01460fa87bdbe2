"""OpenAI's wire types as msgspec structs: what requests may say, what answers look like, and their way to JSON."""
