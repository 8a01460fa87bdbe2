"""`pilotlight bench coldstart`: from exec to the first token, over and over, beside the least that it could take."""
