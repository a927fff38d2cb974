"""What a student may cost."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
AMOUNT = re.compile(r"(\d+(?:\.\d+)?)([kmg]?)", re.IGNORECASE)


def parse_amount(text: str | int) -> int:
    """
    `"10M"` as 10,000,000: a positive number, with k, M or G for thousands, millions or milliards, large or small.

    Raises:
        ValueError: for anything else.
    """
    match = AMOUNT.fullmatch(str(text).strip())
    amount = round(float(match[1]) * UNITS[match[2].lower()]) if match else 0
    if amount < 1:
        raise ValueError(f"expected a positive number such as 10M, 1.5G, 400k or 250000, got {text!r}.")
    return amount


@dataclass
class Budget:
    """
    Limits of a student, each included; `None` is no limit.

    Raises:
        ValueError: without any limit, or for one that is not a positive number.
    """

    max_params: str | None = field(
        default=None, metadata={"help": "Parameters at most, frozen ones included: 10M, 400k, 250000."}
    )
    max_macs: str | None = field(
        default=None, metadata={"help": "Multiply-accumulates of one clip at most: 1.5G, 20M."}
    )
    max_latency_ms: float | None = field(
        default=None, metadata={"help": "Milliseconds of a forward pass of one clip on --device at most."}
    )
    max_memory_mb: float | None = field(
        default=None, metadata={"help": "Peak megabytes (10^6 bytes) of weights and activations of one clip at most."}
    )

    def __post_init__(self) -> None:
        limits = (self.max_params, self.max_macs, self.max_latency_ms, self.max_memory_mb)
        if all(limit is None for limit in limits):
            raise ValueError(
                "a budget is needed: at least one of --max_params, --max_macs, --max_latency_ms, --max_memory_mb"
            )
        self.parameters = None if self.max_params is None else parse_amount(self.max_params)
        self.macs = None if self.max_macs is None else parse_amount(self.max_macs)
        for name in ("max_latency_ms", "max_memory_mb"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}.")

    def admits(
        self,
        parameters: int | None = None,
        macs: int | None = None,
        latency_ms: float | None = None,
        memory_mb: float | None = None,
    ) -> bool:
        """Whether what is known of a student is within the limits; what is `None` is not looked at."""
        pairs = (
            (parameters, self.parameters),
            (macs, self.macs),
            (latency_ms, self.max_latency_ms),
            (memory_mb, self.max_memory_mb),
        )
        return all(cost is None or limit is None or cost <= limit for cost, limit in pairs)
