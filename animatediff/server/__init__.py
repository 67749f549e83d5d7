"""The HTTP service: videos as jobs, in the shape that OpenAI's clients speak; the extra `serve`.

`app.py` has the routes, `schema.py` what a request may say, `queue.py` the jobs, `worker.py` the process that renders.
"""
