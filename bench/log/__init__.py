"""`pilotlight bench log`: what the request log costs the function, and how fast records become rows."""
