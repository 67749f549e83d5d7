"""AnimateDiff as a Cog model: its inputs, made from the options of a request, and the clip of each prediction.

`inputs.py` has the inputs, `published.py` those of other models that are taken too, `request.py` makes the request,
`render.py` renders it, `schema.py` writes `run.py` and `.cog/openapi_schema.json`. Nothing here imports `cog`.
"""
