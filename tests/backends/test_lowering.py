"""What the processor is given: vectors in the loop, each stream read once and written once."""

import re

import pytest
from llvmlite import binding

from thalweg import rules
from thalweg.backends import compilation, lowering
from thalweg.backends.program import Program, program
from thalweg.rules import Rule, chain
from thalweg.rules.vocabulary import walk

pytestmark = pytest.mark.skipif(
    not binding.get_process_triple().startswith("x86_64"), reason="assembly of x86 is looked at"
)

PROCESSORS = {"x86-64-v3": (32, "ymm"), "x86-64-v4": (64, "zmm")}
TYPES = ["float32", "float64", "bfloat16", "float16"]
RULES = {
    **rules.OPTIMIZERS,
    "rmsprop-centered": rules.rmsprop(centered=True, momentum=0.9),
    "l2-amsgrad-decay": chain(rules.l2(0.1), rules.amsgrad, rules.decay(0.1)),
    "ascend-adamax": chain(rules.ascend, rules.adamax),
}


def programmed(rule: Rule) -> Program:
    return program(rule.trace(rule.settings()))


def loops(made: Program, dtype: str, cpu: str) -> list[list[str]]:
    """The loops over vectors: the lines of each block that jumps to its own beginning."""
    size, register = PROCESSORS[cpu]
    wide = "float64" if dtype == "float64" else "float32"
    dtypes = [dtype if name in ("theta", "g") else wide for name in lowering.buffer_names(made)]
    text = compilation.assembly(lowering.lowered(made, dtypes, size), cpu)
    found: list[list[str]] = []
    for block in re.split(r"\n(?=\.LBB)", text):
        label, *lines = block.split("\n")
        lines = [line.strip() for line in lines]
        ends = [
            i for i, line in enumerate(lines) if re.match(rf"j\w+\s+{label.rstrip(':')}$", line)
        ]
        if ends and any(f"%{register}" in x and in_buffer(x) for x in lines[: ends[0]]):
            found.append(lines[: ends[0]])
    return found


def in_buffer(line: str) -> bool:
    """Whether an instruction reads or writes a buffer: what has no index is constant."""
    return bool(re.search(r"\(%r\w+,%r", line)) and not line.startswith(("prefetch", "lea"))


def address(line: str) -> str:
    found = re.search(r"[-\w]*\([^)]*\)", line)
    assert found is not None
    return found[0]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("cpu", PROCESSORS)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_every_rule_is_a_loop_over_vectors(rule: Rule, cpu: str, dtype: str) -> None:
    made = programmed(rule)
    kind = "pd" if dtype == "float64" else "ps"
    packed = {"add": "vadd", "mul": "vmul", "div": "vdiv", "sqrt": "vsqrt"}
    ops = {packed[e.op] for e in walk(*made.outputs.values()) if e.op in packed}
    found = loops(made, dtype, cpu)
    assert found
    for lines in found:
        for op in ops:
            wide = rf"{op}{kind}\b.*%{PROCESSORS[cpu][1]}"
            assert any(re.match(wide, line) for line in lines), op
        for line in lines:
            assert not line.startswith("call")
            assert not re.match(r"v(add|sub|mul|div|sqrt|max|min)s[sd]\b", line), line
        touched = [line for line in lines if in_buffer(line)]
        # The last operand is where an instruction's result goes.
        written = [address(line) for line in touched if line.endswith(")")]
        read = [address(line) for line in touched if not line.endswith(")")]
        # LLVM may put some steps of a loop into one.
        steps = len(written) // len(made.outputs)
        assert len({*written}) == len(written) == steps * len(made.outputs)
        assert len({*read}) == len(read) == steps * len(lowering.buffer_names(made))


@pytest.mark.parametrize("cpu", PROCESSORS)
def test_a_call_is_seen(cpu: str) -> None:
    """Noise needs functions that no processor has: what the test above would say of them."""
    noisy = programmed(chain(rules.noise, rules.sgd))
    assert all(
        any(line.startswith("call") for line in lines) for lines in loops(noisy, "float32", cpu)
    )
    (lines,) = loops(programmed(rules.adam), "float32", "x86-64-v3")
    assert not any("zmm" in line for line in lines)


def test_buffers_that_are_written_come_first() -> None:
    for rule in RULES.values():
        made = programmed(rule)
        names = lowering.buffer_names(made)
        assert names[: len(made.outputs)] == (*made.outputs,)
        assert {"theta", "g"} <= {*names}
        assert len({*names}) == len(names)


def test_only_noise_depends_on_where_an_element_is() -> None:
    assert lowering.noisy(programmed(chain(rules.noise, rules.adam)))
    assert not lowering.noisy(programmed(rules.adam))


def test_equal_programs_are_lowered_alike() -> None:
    one, other = (
        lowering.lowered(programmed(rules.adam(lr=lr)), ["float32"] * 4, 32) for lr in (0.1, 0.2)
    )
    assert one == other
    assert one != lowering.lowered(programmed(rules.adam), ["float32"] * 4, 64)
    assert one != lowering.lowered(programmed(rules.adam), ["float64"] * 4, 32)
