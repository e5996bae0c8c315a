"""One HTTP address in front of every engine.

`Gateway` is all that others need; `enginery serve` is it with signals and logging around it.
"""

from __future__ import annotations

from enginery.gateway.app import Gateway

__all__ = ["Gateway"]
