"""`pilotlight bench overload`: what becomes of the function when several times as much is asked of it as it can do."""
