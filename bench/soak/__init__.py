"""`pilotlight bench soak`: mixed load with disconnects, bad input and outages; do the books balance."""
