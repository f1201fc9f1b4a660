"""What a result was measured on; names no host."""

from aps_deploy.verification.machine import machine

__all__ = ["machine"]
