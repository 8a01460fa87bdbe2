"""`pilotlight bench history`: what main measured, commit by commit, and whether it became slower on the way."""
