"""`pilotlight bench engine`: the engine alone, the engine behind HTTP, and its peers, all in one run."""
