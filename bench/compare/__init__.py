"""`pilotlight bench compare`: the function beside FastAPI, Flask and Django, with one engine behind each of them."""
