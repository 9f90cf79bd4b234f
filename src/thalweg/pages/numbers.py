"""How pages show numbers."""

import math

__all__ = ["digits", "duration", "finite", "setting"]


def digits(value: float, significant: int = 4) -> str:
    """A number with its trailing zeros, so that those of a column are of one length."""
    return f"{value:#.{significant}g}".removesuffix(".")


def duration(seconds: float) -> str:
    """A time in its two largest units: `8.3 s`, `4 min 5 s`, `2 h 13 min`."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def finite(value: float) -> float | None:
    """The number, or None where it is NaN or infinite, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def setting(value: float | bool | str | tuple[float, ...]) -> str:
    """A setting in full: who repeats what was done needs every digit."""
    if isinstance(value, tuple):
        return ", ".join(setting(v) for v in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).removesuffix(".0")
