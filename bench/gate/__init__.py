"""`pilotlight bench gate`: whether one revision of the function is slower than another, and how sure that is."""
