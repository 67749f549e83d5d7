"""The web page: a form made from the options, a queue of renders, and the gallery of results. Gradio is its library."""
