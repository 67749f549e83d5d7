"""The memory plan of a request, and a number format that fits, before its weights are read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.render.defaults import call_arguments, with_defaults, with_seeds
from animatediff.render.dry_run import dry_model
from animatediff.render.events import silent
from animatediff.render.inputs import Inputs, input_arguments
from animatediff.render.models import ModelSpec
from animatediff.render.request import AnimateRequest

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.pipelines.plan import Plan

logger = logging.getLogger(__name__)


def plan_of(request: AnimateRequest, inputs: Inputs, given: Any, loaded: Mapping[ModelSpec, Any]) -> Plan:
    """The plan of a complete request. given, loaded: models in memory, which stand for themselves."""
    spec = ModelSpec.of(request)
    pipe = given or loaded.get(spec)
    if pipe is None:
        with silent():
            pipe = dry_model(fitting(request, inputs)[1].settings)
    if pipe is None:
        raise UserError("the plan needs the files of all models; fetch them first, with `download`")
    return _plan(pipe, request, inputs)


def _plan(pipe: AnimateDiffPipeline, request: AnimateRequest, inputs: Inputs) -> Plan:
    from animatediff.pipelines.plan import plan_job

    full = with_seeds(with_defaults(request, inputs, pipe))
    with silent():
        own, _ = input_arguments(full, inputs, pipe.sparsectrl_kind)
        job = pipe.dry_job(**(call_arguments(full.clip(0)) | own))
    return plan_job(pipe, job)


def fitting(request: AnimateRequest, inputs: Inputs) -> tuple[AnimateRequest, ModelSpec]:
    """A complete request with a number format that fits in memory where it leaves that open, and its model.

    A CPU takes the format that it computes fastest in. Where float32 is that and does not fit by the measures that keep
    weights as they are, the fastest one of half the size is taken, and said.
    """
    from animatediff.pipelines.number_probe import fastest_half
    from animatediff.pipelines.precision import default_device
    from animatediff.render.models import loading_dtype

    spec = ModelSpec.of(request)
    if request.dtype not in (None, "auto") or request.model == "bundled":
        return request, spec
    device = request.device or str(default_device())
    if not device.startswith("cpu") or str(loading_dtype(request)) != "torch.float32":
        return request, spec
    with silent():
        pipe = dry_model(spec.settings)
    if pipe is None:
        return request, spec
    plan = _plan(pipe, request, inputs)
    if plan.fits and not plan.measures.fp8:
        return request, spec
    half = fastest_half()
    logger.info(
        "`dtype` is %s: float32, which is fastest here, does not fit (%s)", half, plan.line.removeprefix("memory: ")
    )
    request = request.model_copy(update={"dtype": half})
    return request, ModelSpec.of(request)
