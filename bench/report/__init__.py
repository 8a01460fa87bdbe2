"""`pilotlight bench report`: a page and a comment of what a comparison or the gate measured."""
