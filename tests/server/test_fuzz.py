"""Fuzzed from its own OpenAPI: whatever the schema allows or forbids is answered, and never by an error of ours."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import booleans
from support.http_server import Server

schemathesis = pytest.importorskip("schemathesis")
ANSWERS = {200, 206, 400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503, 504, 507}
SIMPLE = ("seed", "guidance_scale", "negative_prompt", "output_format", "num_inference_steps")


def test_no_request_is_an_error_of_ours(server: Server) -> None:
    schema = schemathesis.openapi.from_dict(server.client.get("/openapi.json").json())
    job = server.create("a fox")["id"]
    server.ended(job)
    seen = Counter[int]()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), simple=booleans())
        def is_answered(case: Any, simple: bool) -> None:
            if simple:  # as drawn, such an id is never there, and few options fit together
                if "video_id" in (case.path_parameters or {}) and case.method != "DELETE":
                    case.path_parameters["video_id"] = job
                if isinstance(case.body, dict):
                    case.body = {key: value for key, value in case.body.items() if key in SIMPLE} | {"prompt": "a fox"}
            response = case.call(base_url=server.url, timeout=60)
            seen[response.status_code] += 1
            assert response.status_code in ANSWERS, (response.status_code, response.text[:500])
            if response.status_code >= 400:
                assert set(response.json()["error"]) == {"message", "type", "param", "code"}

        is_answered()
    assert seen[200] > 50 and seen[400] > 50, seen  # both what is right and what is wrong was tried


def test_the_schema_tells_every_option(server: Server) -> None:
    from animatediff.server.schema import EXTRA

    content = server.client.get("/openapi.json").json()["paths"]["/v1/videos"]["post"]["requestBody"]["content"]
    plain = content["application/json"]["schema"]["properties"]
    assert set(plain["extra_params"]["properties"]) == set(EXTRA)
    assert plain["extra_params"]["properties"]["blend"]["enum"] == ["pyramid", "flat", "overlap-linear", "gauss"]
    assert plain["prompt"]["minLength"] == 1
    form = content["multipart/form-data"]["schema"]["properties"]
    assert form["input_reference"] == {"type": "string", "format": "binary"}
