"""The one place where a frozen teacher is made ready for the machine it runs on."""

from __future__ import annotations

from copy import deepcopy

from accelerate import Accelerator
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from transformers import PreTrainedModel

from ..distillation.cached_teacher import CachedTeacher
from ..distillation.teacher import LiveTeacher
from ..distillation.teacher_precision import is_int8


def prepare_frozen(accelerator: Accelerator, teacher: LiveTeacher | CachedTeacher) -> LiveTeacher | CachedTeacher:
    """
    Places the teacher as the run's backend asks: one copy a device under DDP, sharded under FSDP2 and ZeRO-3.

    `Accelerator.prepare_model(evaluation_mode=True)` alone keeps a whole copy on every device under FSDP2 and
    DeepSpeed, so those two are prepared by their own calls. It stays outside the DDP wrapper: nothing to reduce. A
    cached teacher has nothing to place.
    """
    if isinstance(teacher, CachedTeacher):
        return teacher
    if is_int8(teacher.model) and accelerator.device.type != "cpu":
        raise ValueError(f"an int8 teacher runs on the CPU, not on {accelerator.device}: use bfloat16 or float16.")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        teacher.model = _prepare_deepspeed(accelerator, teacher.model)
    elif accelerator.is_fsdp2:
        teacher.model = fsdp2_prepare_model(accelerator, teacher.model)
    else:
        teacher.model = accelerator.prepare_model(teacher.model, evaluation_mode=True).to(accelerator.device)
    if teacher.monitor is not None:
        teacher.monitor.to(accelerator.device)
    return teacher


def _prepare_deepspeed(accelerator: Accelerator, model: PreTrainedModel):
    import deepspeed

    config = deepcopy(accelerator.state.deepspeed_plugin.deepspeed_config)
    # Only stage 3 shards parameters; at lower stages a frozen model has no optimiser state or gradient to shard.
    if config["zero_optimization"]["stage"] != 3:
        config["zero_optimization"] = {"stage": 0}
    config.pop("optimizer", None)
    config.pop("scheduler", None)
    engine, *_ = deepspeed.initialize(model=model, config=config)
    return engine.eval()
